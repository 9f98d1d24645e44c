"""Effects of components, summed as they come in, and the scores and rankings that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import ActivationError
from leakmech.core.shown import figure_named, table_html
from leakmech.mechanism.attribution.pairs import Pair
from leakmech.mechanism.sums import KeyedSums
from leakmech.models.components import with_names
from leakmech.models.layout import Layout
from leakmech.models.sites import Site
from leakmech.prompts.locate import LocatedPrompt
from leakmech.scoring.statistics import DRAWS, LEVEL, Interval, bootstrap, divide


@dataclass(frozen=True, eq=False, repr=False)
class Attribution:
    """Effects of every component on a target.

    Attributes
    ----------
    method, target
        Names of the method and of the target.
    side
        The run in which effects are taken: ``corrupt`` (denoising) or ``clean`` (noising).
    samples
        Ids of the samples.
    heads
        Effect of each head in each sample, in units of the target.
    sublayers
        Effects of whole attention layers and MLPs: entries ``attn`` and ``mlp``.
    neurons
        Effects of neurons, summed over the samples of each half (even and odd places in `samples`), so that memory does
        not grow with the number of samples.
    shifts
        What there is to explain in each sample: the target of the clean run minus that of the corrupt one.
    """

    method: str
    target: str
    side: str
    samples: tuple[str, ...]
    heads: Float[np.ndarray, "sample layer head"]
    sublayers: Mapping[str, Float[np.ndarray, "sample layer"]]
    neurons: Float[np.ndarray, "half layer neuron"]
    shifts: Float[np.ndarray, " sample"]

    def __repr__(self) -> str:
        _, layers, heads = self.heads.shape
        size = f"{layers} layers x {heads} heads, {self.neurons.shape[-1]} neurons"
        return f"Attribution({self.method} of {self.target}, {self.side}: {size}, {len(self.samples)} samples)"

    def _repr_html_(self) -> str:
        largest: Any = self.to_frame().head(10)
        rows = [(row.rank, row.name, f"{row.score:+.4f}") for row in largest.itertuples(index=False)]
        return table_html(repr(self), ("rank", "head", "share of the shift"), rows)

    def to_frame(self) -> pd.DataFrame:
        """Heads by size of their score, as :meth:`heads_frame`."""
        return self.heads_frame()

    def plot(self, path: str | Path | None = None, *, title: str | None = None, width: Any = None) -> Any:
        """Draw the map of all heads; see :meth:`leakmech.runs.result.Result.plot`."""
        draw = figure_named("heads", "head_heat_map")
        return draw(self.heads_frame(), path, quantity="share of the shift", title=title, width=width)

    def head_scores(self, rows: Sequence[int] | slice = slice(None)) -> Float[np.ndarray, "layer head"]:
        """Compute the share of the shift that each head carries, in all samples or those of the given rows."""
        return self.heads[rows].sum(axis=0) / self.shifts[rows].sum()

    def neuron_scores(self, half: int | None = None) -> Float[np.ndarray, "layer neuron"]:
        """Compute the share of the shift that each neuron carries, in all samples or one half (0 or 1) of them."""
        if half is None:
            return self.neurons.sum(axis=0) / self.shifts.sum()
        return self.neurons[half] / self.shifts[half::2].sum()

    def sublayer_scores(self) -> dict[str, Float[np.ndarray, " layer"]]:
        """Compute the share of the shift that each attention layer and MLP carries."""
        return {name: values.sum(axis=0) / self.shifts.sum() for name, values in self.sublayers.items()}

    def heads_frame(self, *, intervals: bool = False, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
        """Rank heads by size of their score: layer, head, name, method, target, score, rank (1 is the largest).

        `intervals` adds ``low`` and ``high``: 95 % BCa intervals over samples.
        """
        scores = self.head_scores()
        frame = with_names(ranked_frame(scores, column="head", method=self.method, target=self.target), "head")
        if intervals:
            flat = self.heads.reshape(len(self.samples), -1)
            found = share_intervals(flat, self.shifts, seed=seed, draws=draws)
            at = frame["layer"].to_numpy() * scores.shape[1] + frame["head"].to_numpy()
            frame["low"] = [found[index].low for index in at]
            frame["high"] = [found[index].high for index in at]
        return frame

    def neurons_frame(self, *, top: int | None = None) -> pd.DataFrame:
        """Rank neurons by size of their score: layer, neuron, name, method, target, score, rank."""
        ranked = ranked_frame(self.neuron_scores(), column="neuron", method=self.method, target=self.target, top=top)
        return with_names(ranked, "neuron")

    def sublayers_frame(self) -> pd.DataFrame:
        """List attention layers, then MLPs, in the order of the layers: layer, sublayer, method, target, score."""
        rows = [
            {"layer": layer, "sublayer": name, "method": self.method, "target": self.target, "score": float(score)}
            for name, scores in self.sublayer_scores().items()
            for layer, score in enumerate(scores)
        ]
        return pd.DataFrame(rows)


def share_intervals(
    effects: Float[np.ndarray, "sample statistic"], shifts: Float[np.ndarray, " sample"], *, seed: int, draws: int
) -> list[Interval]:
    """Compute 95 % BCa intervals of sum(effects) / sum(shifts) over samples; a sample's shift may be negative."""

    def shares(sums: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows statistics"]:
        return divide(sums[:, :-1], sums[:, -1:])

    return bootstrap(np.hstack([effects, shifts[:, None]]), shares, seed=seed, draws=draws, level=LEVEL)


def by_size(scores: Float[np.ndarray, "layer component"]) -> Int[np.ndarray, " components"]:
    """Order the places of components, counted through the layers, by descending |score|, then by place."""
    return np.argsort(-np.abs(scores), axis=None, kind="stable")


def ranked_frame(
    scores: Float[np.ndarray, "layer component"], *, column: str, top: int | None = None, **labels: str
) -> pd.DataFrame:
    """Rank components by descending |score|, then by layer and number."""
    order = by_size(scores)[:top]
    layers, numbers = np.unravel_index(order, scores.shape)
    frame = pd.DataFrame({"layer": layers, column: numbers})
    for name, value in labels.items():
        frame[name] = value
    return frame.assign(score=scores[layers, numbers], rank=np.arange(1, len(order) + 1))


class EffectSums:
    """Collects effects of batches of pairs; memory grows with samples x heads, not with samples x neurons."""

    def __init__(self, layout: Layout, items: Sequence[Pair | LocatedPrompt]) -> None:
        self._samples = tuple(dict.fromkeys(item.sample for item in items))
        self._halves = {sample: row % 2 for row, sample in enumerate(self._samples)}
        widths: dict[Site, int] = {"z": layout.n_heads, "attn_out": 1, "mlp_out": 1}
        self._per_sample = {site: KeyedSums(self._samples, layout.n_layers, width) for site, width in widths.items()}
        self._neurons = KeyedSums((0, 1), layout.n_layers, layout.d_mlp)
        self._shifts = KeyedSums(self._samples)

    def add(self, items: Sequence[Pair | LocatedPrompt], effects: Mapping[Site, Tensor], shifts: Tensor) -> None:
        """Add a batch; effects are ``[row layer component]``, those of the first layers suffice."""
        samples = [item.sample for item in items]
        for site, sums in self._per_sample.items():
            sums.add(samples, effects[site])
        if "mlp_post" in effects:
            self._neurons.add([self._halves[sample] for sample in samples], effects["mlp_post"])
        self._shifts.add(samples, shifts)

    def finish(self, *, method: str, target: str, side: str) -> Attribution:
        """Make the attribution; without a shift to explain, or with an effect that is not finite, it is refused."""
        found = Attribution(
            method=method,
            target=target,
            side=side,
            samples=self._samples,
            heads=self._per_sample["z"].numpy(),
            sublayers={
                "attn": self._per_sample["attn_out"].numpy()[..., 0],
                "mlp": self._per_sample["mlp_out"].numpy()[..., 0],
            },
            neurons=self._neurons.numpy(),
            shifts=self._shifts.numpy(),
        )
        if not np.isfinite(found.heads).all() or not np.isfinite(found.neurons).all():
            raise ActivationError(f"{method}: effects are not finite; run the model in float32 or bfloat16")
        if found.shifts.sum() == 0:
            raise ActivationError(f"{method}: the target does not differ between the conditions, so there is no shift")
        return found
