"""Transport and expression: what heads bring from the injection, and what acts on it where the answer is formed.

What a head gives to the last prompt token q is a sum over the tokens k that it reads, so it splits without remainder,

    z(q) = sum_k A_qk v_k = sum_{k in injection} A_qk v_k + sum_{k elsewhere} A_qk v_k,

and so does its direct contribution to a direction d of the residual stream, z W_O d. The first part is *transport*:
values read at the injection itself. The second is read at the stem, the tail and the tokens before, where affect can
only be because earlier heads brought it: it counts, like all that an MLP writes, as *expression*. Numbers are mean
differences positive - negative, per sample, in units of the stream; with the embedding's and the biases' they add up to
the difference of the whole projection. Where a norm stands between attention and stream (Gemma) its scale is held at
its value in the prompt.

Contributions are direct ones: a head that brings affect to the stem, for others to read, shows in
:mod:`leakmech.mechanism.attention.knockout`, not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import DynamicCache

from leakmech.core.errors import ModelError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import POLARITIES, PromptSet, load_dataset
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attention.injected import injected_prompts, part_mask, refuse_other_width
from leakmech.mechanism.attribution.targets import DirectionTarget
from leakmech.mechanism.directions.direction import Direction
from leakmech.mechanism.sums import KeyedSums
from leakmech.models.attention_patterns import AttentionPattern, eager_attention, watching_attention
from leakmech.models.batching import in_batches
from leakmech.models.components import Component
from leakmech.models.hooks import whole_unembedding
from leakmech.models.layout import Block, Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import recording
from leakmech.prompts.locate import LocatedPrompt
from leakmech.prompts.render import Prompting, Renderer

_DOMINANT = 2.0  # a head is called after the part that is at least so many times the other


@dataclass(frozen=True, eq=False)
class Transport:
    """Direct contributions to a direction at the last prompt token, positive minus negative, per sample."""

    samples: tuple[str, ...]
    transport: Float[np.ndarray, "sample layer head"]
    """From what each head reads at the injection."""
    expression: Float[np.ndarray, "sample layer head"]
    """From what each head reads elsewhere."""
    mlps: Float[np.ndarray, "sample layer"]
    """From each MLP, which reads the last token only; it counts as expression."""
    shifts: Float[np.ndarray, " sample"]
    """Difference of the whole projection."""

    def to_frame(self) -> pd.DataFrame:
        """Make one row per head and MLP of each layer, of means over samples.

        Columns: layer, component (number of the head, or ``mlp``), name, transport, expression, share (their sum in
        the difference of the whole projection), role (see :func:`role`).
        """
        rows = []
        transport, expression, mlps = (x.mean(axis=0) for x in (self.transport, self.expression, self.mlps))
        for layer, (brought, expressed) in enumerate(zip(transport, expression, strict=True)):
            parts = [
                (Component(kind="head", layer=layer, index=head), *both)
                for head, both in enumerate(zip(brought, expressed, strict=True))
            ]
            parts.append((Component(kind="mlp", layer=layer), 0.0, mlps[layer]))
            for component, read, elsewhere in parts:
                rows.append(
                    {
                        "layer": layer,
                        "component": "mlp" if component.index is None else component.index,
                        "name": str(component),
                        "transport": read,
                        "expression": elsewhere,
                        "share": (read + elsewhere) / self.shifts.mean(),
                        "role": role(read, elsewhere),
                    }
                )
        return pd.DataFrame(rows)


def role(transport: float, expression: float) -> str:
    """Name the part that is at least twice as large as the other: ``transport`` or ``expression``, else ``both``."""
    if abs(transport) >= _DOMINANT * abs(expression):
        return "transport"
    return "expression" if abs(expression) >= _DOMINANT * abs(transport) else "both"


def transport_and_expression(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    direction: Direction,
    *,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Transport:
    """Split what heads contribute to a direction by where they read it; layers up to the direction's contribute.

    The direction is one of ``resid_post`` or ``resid_pre`` at the last prompt token. Meanwhile the model computes
    attention eagerly.
    """
    target = DirectionTarget.of(direction, model)
    samples = load_dataset(dataset)
    prompts = injected_prompts(samples, Renderer(model.tokenizer, prompting), POLARITIES)
    layout = layout_of(model.model)
    ids = tuple(sample.id for sample in samples)
    # Per layer the heads' two parts, then the MLP; the last column is the whole projection.
    sums = KeyedSums(ids, (target.layer + 1) * (2 * layout.n_heads + 1) + 1)
    with eager_attention(model.model):
        for batch, values in in_batches(
            prompts,
            lambda batch: _contributions(model, target, batch),
            batch_size=batch_size,
            device=model.device,
            label="transport",
            progress=progress,
        ):
            signs = torch.tensor([1.0 if prompt.condition == "positive" else -1.0 for prompt in batch])
            sums.add([prompt.sample for prompt in batch], values.cpu().double() * signs[:, None])
    table = sums.numpy()
    by_layer = rearrange(table[:, :-1], "sample (layer part) -> sample layer part", layer=target.layer + 1)
    heads = by_layer[..., :-1].reshape(*by_layer.shape[:2], 2, layout.n_heads)
    return Transport(ids, heads[:, :, 0], heads[:, :, 1], by_layer[..., -1], table[:, -1])


@torch.no_grad()
def _contributions(
    model: LoadedModel, target: DirectionTarget, batch: Sequence[LocatedPrompt]
) -> Float[Tensor, "row column"]:
    """Compute for each layer each head's transport, each head's expression and the MLP; then the whole projection."""
    layout, direction = layout_of(model.model), target.direction
    inputs = padded(batch, model.device)
    width = inputs["input_ids"].shape[1]
    injection = part_mask(batch, "injection", width=width).to(model.device)
    cache = DynamicCache()  # where every architecture puts its values; without a configuration it keeps all of them
    heads: list[Float[Tensor, "row part head"]] = []
    layers = range(target.layer + 1)

    def see(pattern: AttentionPattern) -> None:
        refuse_other_width(pattern.weights, width)
        layer: Any = cache.layers[pattern.layer]
        z = split_z(pattern.weights[:, :, -1], layer.values, injection)
        block = layout.block(pattern.layer)
        readout = _readout(block, layout, pattern.written[:, -1], direction.vector.to(model.device))
        heads.append(einsum(z, readout.float(), "row part head width, row head width -> row part head"))

    with (
        recording(layout, sites=["mlp_out", "resid_post"], layers=layers, pick=lambda hidden: hidden[:, -1:]) as found,
        watching_attention(layout, see, layers=layers),
        whole_unembedding(model.model),
    ):
        model.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    columns = []
    for layer in layers:
        columns += [heads[layer][:, 0], heads[layer][:, 1], direction.project(found["mlp_out", layer].float())]
    return torch.cat([*columns, direction.project(found["resid_post", target.layer].float())], dim=1)


def split_z(
    weights: Float[Tensor, "row head key"],
    values: Float[Tensor, "row kv_head key d_head"],
    inside: Bool[Tensor, "row key"],
) -> Float[Tensor, "row 2 head d_head"]:
    """Split the outputs of heads at one query: what they read at the tokens `inside`, and what they read elsewhere.

    `weights` are those after the softmax; each head of `values` serves a group of neighbouring query heads.
    """
    n_groups = weights.shape[1] // values.shape[1]
    own = repeat(values.float(), "row kv_head key width -> row (kv_head group) key width", group=n_groups)
    masks = torch.stack([inside, ~inside], dim=1).float()
    return einsum(weights.float(), masks, own, "row head key, row part key, row head key width -> row part head width")


# -- from z to the direction -------------------------------------------------------------------------------------------


def _readout(
    block: Block, layout: Layout, written: Float[Tensor, "row d_model"], vector: Float[Tensor, " d_model"]
) -> Float[Tensor, "#row head d_head"]:
    """Compute what each entry of z is multiplied by on its way to the projection: W_O d, and a norm's scale if any."""
    seen = vector[None]
    if block.attention_post_norm is not None:
        seen = seen * _frozen_scale(block.attention_post_norm, written)
    flat = _transposed(block.heads_out, seen, d_in=layout.n_heads * layout.d_head)
    return rearrange(flat, "row (head width) -> row head width", head=layout.n_heads)


def _frozen_scale(norm: Any, hidden: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Compute what a root-mean-square norm multiplies each entry of `hidden` by.

    It multiplies by 1 / size and a weight, so a constant vector of the same size shows both.
    """
    size = hidden.float().square().mean(dim=-1, keepdim=True).sqrt()
    constant = size.expand_as(hidden).to(hidden.dtype)
    return norm.forward(constant).float() / size


def _transposed(linear: nn.Module, vectors: Float[Tensor, "row d_out"], *, d_in: int) -> Float[Tensor, "row d_in"]:
    """Pass vectors through the transpose of a linear module; it is found as its derivative, so adapters count."""
    if hasattr(linear, "lora_gate"):
        raise ModelError(
            "transport: the adapter has gates on the attention's output, which is not a linear map then; train it on "
            "other targets, or diagnose the base model"
        )
    at: Any = next(linear.parameters())
    with torch.enable_grad():
        zero = torch.zeros(len(vectors), 1, d_in, dtype=torch.float32, device=vectors.device)
        zero = zero.to(at.dtype if at.is_floating_point() else torch.float32).requires_grad_()
        written = linear.forward(zero)  # without the hooks of others, which expect whole prompts
        gradient = torch.autograd.grad(written, zero, vectors[:, None].to(written.dtype))[0]
    return gradient[:, 0]
