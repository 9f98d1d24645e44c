"""How much each head attends to the injection: from the last token of the prompt, and from the stem.

With A the weights of a head, Q the tokens that attend and I those of the injection, a prompt has

    attention = mean_{q in Q} sum_{k in I} A_qk,    uniform = mean_{q in Q} |I and visible to q| / |visible to q|,

where the second is what a head without any preference would give: it depends on the lengths of injection and prompt
(and on a layer's sliding window) alone. Both are means over the prompts of a condition. Weights are reduced inside the
forward pass, so memory does not grow with the number of prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import INJECTIONS, Condition, PromptSet, load_dataset
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attention.injected import injected_prompts, part_mask, refuse_other_width
from leakmech.mechanism.sums import KeyedSums
from leakmech.models.attention_patterns import AttentionPattern, eager_attention, watching_attention
from leakmech.models.batching import in_batches
from leakmech.models.components import Component
from leakmech.models.hooks import whole_unembedding
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import LocatedPrompt
from leakmech.prompts.render import Prompting, Renderer

FROM_POSITIONS = ("last_prompt", "stem")


@dataclass(frozen=True, eq=False)
class InjectionAttention:
    """Attention to the injection, per head."""

    conditions: tuple[str, ...]
    from_positions: tuple[str, ...]
    n_prompts: int
    """Prompts per condition."""
    attention: Float[np.ndarray, "layer head condition from_position"]
    """Mean weight on the injection, between 0 and 1."""
    uniform: Float[np.ndarray, "layer condition from_position"]
    """The same if every visible token got the same weight."""

    def to_frame(self) -> pd.DataFrame:
        """Make one row per head, condition and position.

        Columns: layer, head, name, condition, from_position, attention, uniform, ratio (attention / uniform: above 1,
        a head prefers the injection).
        """
        n_layers, n_heads = self.attention.shape[:2]
        names = ["layer", "head", "condition", "from_position"]
        index = pd.MultiIndex.from_product(
            [range(n_layers), range(n_heads), self.conditions, self.from_positions], names=names
        )
        frame = index.to_frame(index=False)
        heads = [
            str(Component(kind="head", layer=layer, index=head)) for layer in range(n_layers) for head in range(n_heads)
        ]
        frame.insert(2, "name", np.repeat(heads, len(self.conditions) * len(self.from_positions)))
        frame["attention"] = self.attention.reshape(-1)
        frame["uniform"] = np.broadcast_to(self.uniform[:, None], self.attention.shape).reshape(-1)
        return frame.assign(ratio=frame["attention"] / frame["uniform"])


def attention_to_injection(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    conditions: Sequence[Condition] = INJECTIONS,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> InjectionAttention:
    """Measure the mean attention of every head to the injection, from the last prompt token and from the stem.

    Meanwhile the model computes attention eagerly.
    """
    renderer = Renderer(model.tokenizer, prompting)
    prompts = injected_prompts(load_dataset(dataset), renderer, conditions)
    layout = layout_of(model.model)
    names, n_from = [str(name) for name in conditions], len(FROM_POSITIONS)
    attention = KeyedSums(names, layout.n_layers, layout.n_heads, n_from)
    uniform = KeyedSums(names, layout.n_layers, n_from)
    with eager_attention(model.model):
        for batch, (weights, shares) in in_batches(
            prompts,
            lambda batch: _read_attention(model, batch),
            batch_size=batch_size,
            device=model.device,
            label="attention",
            progress=progress,
        ):
            of_batch = [str(prompt.condition) for prompt in batch]
            attention.add(of_batch, weights)
            uniform.add(of_batch, shares)
    n_prompts = len(prompts) // len(names)
    return InjectionAttention(
        tuple(names),
        FROM_POSITIONS,
        n_prompts,
        (attention.sums / n_prompts).permute(1, 2, 0, 3).numpy(),
        (uniform.sums / n_prompts).permute(1, 0, 2).numpy(),
    )


@torch.no_grad()
def _read_attention(
    model: LoadedModel, batch: Sequence[LocatedPrompt]
) -> tuple[Float[Tensor, "row layer head from_position"], Float[Tensor, "row layer from_position"]]:
    layout = layout_of(model.model)
    inputs = padded(batch, model.device)
    width = inputs["input_ids"].shape[1]
    injection = part_mask(batch, "injection", width=width).to(model.device).float()
    queries = _query_shares(batch, width=width).to(model.device)
    weights: list[Tensor] = []
    uniform: list[Tensor] = []

    def see(pattern: AttentionPattern) -> None:
        refuse_other_width(pattern.weights, width)
        to_injection = einsum(pattern.weights.float(), injection, "row head query key, row key -> row head query")
        weights.append(einsum(to_injection, queries, "row head query, row query at -> row head at"))
        seen = einsum(pattern.visible.float(), injection, "row query key, row key -> row query")
        # Queries in the padding may see nothing.
        share = seen / pattern.visible.sum(dim=-1).clamp(min=1)
        uniform.append(einsum(share, queries, "row query, row query at -> row at"))

    with watching_attention(layout, see, layers=range(layout.n_layers)), whole_unembedding(model.model):
        model.model(**inputs, use_cache=False, logits_to_keep=1)
    return torch.stack(weights, dim=1), torch.stack(uniform, dim=1)


def _query_shares(batch: Sequence[LocatedPrompt], *, width: int) -> Float[Tensor, "row query from_position"]:
    """Give the share with which each query counts: the last token alone, and the mean over the stem."""
    last = torch.zeros(len(batch), width)
    last[:, -1] = 1
    stem = part_mask(batch, "stem", width=width).float()
    return torch.stack([last, stem / stem.sum(dim=1, keepdim=True)], dim=-1)
