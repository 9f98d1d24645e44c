"""Attention knock-out: take the injection away from the tokens after it, and see how much of the affect shift goes.

Every token after the injection (stem, chat template's tail, continuation) gets weight 0 on the injection's tokens, in
chosen heads; what remains is normalised again (scores of minus infinity: :mod:`leakmech.models.attention_mask`). With
m the target and sums over samples,

    effect = 1 - sum (m(positive) - m(negative) | knocked out) / sum (m(positive) - m(negative) | intact),

and likewise for positive and negative, each against neutral. With all heads of all layers knocked out at once
(*ceiling*) no token after the injection has read it, and the effect is 1 but for one thing: injections of different
length move the tokens after them, which changes how these read what stands before. The effects of layers or heads do
not add up to the ceiling, since one head can bring what another does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.core.errors import ActivationError, ConfigError, ModelError, nearest
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import INJECTIONS, PromptSet, load_dataset
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attention.injected import part_mask, refuse_without_injection
from leakmech.mechanism.attribution.gradients import parse_target, scored_endings
from leakmech.mechanism.attribution.pairs import CONTRASTS, Continuations, Endings, Pair, make_pairs
from leakmech.mechanism.attribution.replay import Replay
from leakmech.mechanism.attribution.targets import Target
from leakmech.mechanism.directions.direction import Direction
from leakmech.mechanism.sums import KeyedSums
from leakmech.models.attention_mask import AttentionCall, Bias, attention_bias, refuse_other_attention
from leakmech.models.batching import in_batches
from leakmech.models.components import Component, Label
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import LocatedPrompt
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.statistics import DRAWS, LEVEL, Interval, bootstrap, divide

KNOCKOUT_CONTRASTS = {"positive-negative": (0, 2), "positive-neutral": (0, 1), "negative-neutral": (2, 1)}
"""Names of contrasts, and the two conditions by their place in ``positive, neutral, negative``."""


@dataclass(frozen=True)
class Knockout:
    """Whose attention to the injection is taken away: one head's, all heads' of a layer, or all heads' (both None)."""

    layer: int | None = None
    head: int | None = None

    def __str__(self) -> str:
        if self.layer is None:
            return "all"
        if self.head is None:
            return str(Component(kind="attn", layer=self.layer))
        return str(Component(kind="head", layer=self.layer, index=self.head))


@dataclass(frozen=True, eq=False)
class AttentionKnockout:
    """The target with and without attention to the injection, in the conditions positive, neutral, negative."""

    target: str
    samples: tuple[str, ...]
    knockouts: tuple[Knockout, ...]
    intact: Float[np.ndarray, "sample condition"]
    knocked_out: Float[np.ndarray, "knockout sample condition"]

    def effects(self, contrast: str = "positive-negative") -> Float[np.ndarray, " knockout"]:
        """Compute the share of the shift that each knock-out takes away; a negative share makes the shift larger."""
        intact, knocked_out = self._shifts(contrast)
        return 1 - divide(knocked_out.sum(axis=1), intact.sum())

    def intervals(
        self, contrast: str = "positive-negative", *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL
    ) -> list[Interval]:
        """Compute BCa bootstrap intervals of the effects, over samples."""
        intact, knocked_out = self._shifts(contrast)

        def statistic(sums: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows knockout"]:
            return 1 - divide(sums[:, 1:], sums[:, :1])

        columns = np.column_stack([intact, *knocked_out])
        return bootstrap(columns, statistic, seed=seed, draws=draws, level=level)

    @property
    def ceiling(self) -> float:
        """Give the effect of all heads at once on positive against negative."""
        return float(self.effects()[self.knockouts.index(Knockout())])

    def to_frame(self, *, seed: int = 0, draws: int = DRAWS, level: float = LEVEL) -> pd.DataFrame:
        """Make one row per knock-out and contrast.

        Columns: layer, head, name, contrast, target, effect, low, high, intact and knocked_out (mean shifts, in units
        of the target).
        """
        rows = []
        for contrast in KNOCKOUT_CONTRASTS:
            intact, knocked_out = self._shifts(contrast)
            effects = self.effects(contrast)
            intervals = self.intervals(contrast, seed=seed, draws=draws, level=level)
            for number, knockout in enumerate(self.knockouts):
                rows.append(
                    {
                        "layer": knockout.layer,
                        "head": knockout.head,
                        "name": str(knockout),
                        "contrast": contrast,
                        "target": self.target,
                        "effect": effects[number],
                        "low": intervals[number].low,
                        "high": intervals[number].high,
                        "intact": intact.mean(),
                        "knocked_out": knocked_out[number].mean(),
                    }
                )
        return pd.DataFrame(rows).astype({"layer": "Int64", "head": "Int64"})

    def _shifts(self, contrast: str) -> tuple[Float[np.ndarray, " sample"], Float[np.ndarray, "knockout sample"]]:
        if contrast not in KNOCKOUT_CONTRASTS:
            raise ConfigError(f"unknown contrast {contrast!r}{nearest(contrast, KNOCKOUT_CONTRASTS)}")
        first, second = KNOCKOUT_CONTRASTS[contrast]
        return (
            self.intact[:, first] - self.intact[:, second],
            self.knocked_out[..., first] - self.knocked_out[..., second],
        )


def attention_knockout(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    target: Direction | Literal["behaviour", "tilt"] | Target,
    layers: Sequence[int] | None = None,
    heads: Sequence[Label] | None = None,
    continuations: Continuations | None = None,
    endings: Endings | None = None,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: Progress = no_progress,
) -> AttentionKnockout:
    """Knock attention to the injection out in all heads at once, layer by layer, and head by head.

    None for `layers` or `heads` takes all up to the target's layer, an empty list none; heads are names (``L12H3``).
    None for `continuations` samples them for the target ``behaviour``; `endings` are weighted texts, as for ``tilt``.
    """
    layout = layout_of(model.model)
    refuse_other_attention(model.model)
    wanted = parse_target(target, model)
    knockouts = _knockouts(layout, wanted, layers, heads)
    samples, renderer = load_dataset(dataset), Renderer(model.tokenizer, prompting)
    if endings is None:
        endings = scored_endings(
            wanted, continuations, model=model, samples=samples, renderer=renderer, seed=seed, progress=progress
        )
    pairs = make_pairs(samples, renderer, endings=endings)
    sequences = _sequences(pairs)
    ids = tuple(dict.fromkeys(pair.sample for pair in pairs))
    sums = KeyedSums(product(ids, map(str, INJECTIONS)), 1 + len(knockouts))
    for batch, values in in_batches(
        sequences,
        lambda batch: _run_batch(model, wanted, [sequence.prompt for sequence in batch], knockouts),
        batch_size=batch_size,
        device=model.device,
        label="attention knock-out",
        progress=progress,
        order=lambda sequence: (_n_after(sequence.prompt), len(sequence.prompt)),
    ):
        prompts = [(sequence.prompt.sample, str(sequence.prompt.condition)) for sequence in batch]
        weights = torch.tensor([sequence.weight for sequence in batch], dtype=torch.float64)
        sums.add(prompts, values.cpu().double() * weights[:, None])
    table = sums.sums.reshape(len(ids), len(INJECTIONS), -1).permute(2, 0, 1).numpy()
    found = AttentionKnockout(wanted.name, ids, knockouts, table[0], table[1:])
    if float((found.intact[:, 0] - found.intact[:, 2]).sum()) == 0:
        raise ActivationError("attention knock-out: the target does not differ between positive and negative")
    return found


# -- what is knocked out -----------------------------------------------------------------------------------------------


def _knockouts(
    layout: Layout, target: Target, layers: Sequence[int] | None, heads: Sequence[Label] | None
) -> tuple[Knockout, ...]:
    reached = range(target.layer + 1)
    single = [Component.parse(name) for name in heads or ()]
    for head in single:
        if head.kind != "head":
            raise ModelError(f"heads: {head} is not a head; write L12H3")
        layout.head(head.index or 0)
    for layer in [*(layers or ()), *(head.layer for head in single)]:
        layout.block(layer)
        if layer not in reached:
            raise ModelError(f"layer {layer}: lies after the target, which is read after layer {target.layer}")
    whole_layers = [Knockout(layer) for layer in (reached if layers is None else layers)]
    if heads is None:
        chosen = [Knockout(layer, head) for layer in reached for head in range(layout.n_heads)]
    else:
        chosen = [Knockout(head.layer, head.index) for head in single]
    return (Knockout(), *dict.fromkeys(whole_layers), *dict.fromkeys(chosen))


@dataclass(frozen=True, eq=False)
class _Sequence:
    """A prompt, perhaps with a continuation, and the weight of its value in the target of its prompt."""

    prompt: LocatedPrompt
    weight: float

    @property
    def id(self) -> str:
        return self.prompt.id


def _sequences(pairs: Sequence[Pair]) -> list[_Sequence]:
    """List each prompt once with each ending, and the weight of the ending."""
    sequences = []
    for pair in pairs:
        weight = pair.weight * CONTRASTS[pair.contrast]  # that of the ending alone
        # Both contrasts have the neutral prompt.
        for prompt in (pair.clean, pair.corrupt) if pair.contrast[0] == "positive" else (pair.clean,):
            refuse_without_injection(prompt)
            sequences.append(_Sequence(prompt, weight))
    return sequences


def _n_after(prompt: LocatedPrompt) -> int:
    """Count the tokens after the injection."""
    return len(prompt) - prompt.spans["injection"][1]


# -- one batch ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def _run_batch(
    model: LoadedModel, target: Target, batch: Sequence[LocatedPrompt], knockouts: Sequence[Knockout]
) -> Float[Tensor, "row run"]:
    """Compute the target, intact and under each knock-out; only tokens after the injections run again."""
    layout = layout_of(model.model)
    n_suffix = max(map(_n_after, batch))
    replay = Replay(model, padded(batch, model.device), n_suffix=n_suffix)
    cut = _cut(batch, n_suffix=n_suffix).to(model.device)
    stop = target.layer + 1
    columns = [target.values(replay.streams[stop], batch)]
    for knockout in knockouts:
        bias = _bias(cut, knockout.head, layout.n_heads)
        layers = range(stop) if knockout.layer is None else (knockout.layer,)
        with attention_bias(layout, dict.fromkeys(layers, bias)):
            hidden = replay.run(start=layers[0], stop=stop)
        columns.append(target.values(hidden, batch))
    return torch.stack(columns, dim=1)


def _cut(batch: Sequence[LocatedPrompt], *, n_suffix: int) -> Bool[Tensor, "row query key"]:
    """Mark which keys the last `n_suffix` queries lose: those after the injection lose the injection's."""
    width = max(map(len, batch))
    after = torch.zeros(len(batch), n_suffix, dtype=torch.bool)
    for row, prompt in enumerate(batch):
        after[row, n_suffix - _n_after(prompt) :] = True
    return after[:, :, None] & part_mask(batch, "injection", width=width)[:, None]


def _bias(cut: Bool[Tensor, "row query key"], head: int | None, n_heads: int) -> Bias:
    heads = torch.ones(n_heads, dtype=torch.bool, device=cut.device)
    if head is not None:
        heads = torch.arange(n_heads, device=cut.device) == head
    # A head dimension of 1 where all heads are meant: PyTorch's attention is faster with the smaller mask.
    chosen = heads[None, :, None, None] if head is not None else heads[None, :1, None, None]
    scores = torch.zeros(1, device=cut.device).masked_fill(cut[:, None] & chosen, float("-inf"))

    def bias(call: AttentionCall) -> Float[Tensor, "row head query key"]:
        if call.n_queries != cut.shape[1]:
            raise ModelError(
                f"the model reads {call.n_queries} positions for {cut.shape[1]} tokens (an adapter with tokens of its "
                "own?), so the injection cannot be found in them"
            )
        return scores[..., -call.n_keys :]

    return bias
