"""Faithfulness: how much of the affect shift the top k components of a ranking account for.

With C_k the first k components of a ranking, and everything read at the tokens that both prompts share,

    keep      f(C_k) = (m(clean run, all but C_k with corrupt activations) - m_0) / (m_1 - m_0)
    remove    f(C_k) = (m(clean run, C_k with corrupt activations)         - m_0) / (m_1 - m_0),

where m_1 is the target of the clean run and m_0 that with every component corrupt: keep rises from 0 to 1 with k, and
remove falls from 1 to 0. Components that are not corrupt are computed, so they see what is left of the circuit. Over
the fraction k/n, as in the Mechanistic Interpretability Benchmark (Mueller et al. 2025),

    CPR = area under keep (more is better: the best components are found),
    CMD = area between keep and 1 (less is better: the circuit does what the model does, and not more).

Rankings come from other samples than those on which f is measured. *Random* rankings and *magnitude* (the mean length
of what a component writes) stand beside every curve.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import ActivationError, ConfigError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.seeds import numpy_generator
from leakmech.mechanism.attribution.paired_run import PairedRun
from leakmech.mechanism.attribution.pairs import Pair
from leakmech.mechanism.attribution.replay import Patch, patched
from leakmech.mechanism.attribution.scores import by_size, share_intervals
from leakmech.mechanism.attribution.targets import Target
from leakmech.mechanism.sums import KeyedSums
from leakmech.models.batching import in_batches
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site
from leakmech.scoring.statistics import DRAWS, Interval, bootstrap_ratio

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
MODES = ("keep", "remove")
Ranking = Float[np.ndarray, "layer component"]
"""Scores of components, which are taken by descending size of the score."""


@dataclass(frozen=True, eq=False)
class CircuitCurves:
    """Faithfulness of circuits of growing size, in a universe of ``heads`` or ``neurons``."""

    universe: str
    target: str
    sizes: tuple[int, ...]
    """Numbers of components, ascending."""
    n_components: int
    """Number of components in the universe."""
    values: Mapping[tuple[str, str], Float[np.ndarray, "sample size"]]
    """By ranking and mode, the weighted target minus that of the empty circuit."""
    spans: Float[np.ndarray, " sample"]
    """m_1 - m_0."""
    corrupt_share: float
    """(m(corrupt run) - m_0) / (m_1 - m_0): 0 where the universe carries all that reaches the shared tokens."""

    def faithfulness(self, ranking: str, mode: str = "keep") -> Float[np.ndarray, " size"]:
        """Compute f at each size."""
        return self.values[ranking, mode].sum(axis=0) / self.spans.sum()

    def span(self, *, seed: int = 0, draws: int = DRAWS) -> tuple[float, Interval]:
        """Compute the mean of m_1 - m_0 over samples and its 95 % BCa interval: where that covers 0, f says nothing."""
        counted = np.ones_like(self.spans)
        return float(self.spans.mean()), bootstrap_ratio(self.spans, counted, seed=seed, draws=draws)

    def rankings(self) -> list[str]:
        """List the names of rankings, in the order in which they were given."""
        return list(dict.fromkeys(name for name, _ in self.values))

    def cpr(self, ranking: str) -> float:
        """Compute the area under the keep curve over fractions 0 to 1, by the trapezoid rule from f = 0 at 0."""
        return float(np.trapezoid(*self._keep(ranking)))

    def cmd(self, ranking: str) -> float:
        """Compute the area between the keep curve and 1."""
        f, fraction = self._keep(ranking)
        return float(np.trapezoid(np.abs(1 - f), fraction))

    def _keep(self, ranking: str) -> tuple[np.ndarray, np.ndarray]:
        fractions = np.array([0, *self.sizes]) / self.n_components
        return np.concatenate([[0.0], self.faithfulness(ranking)]), fractions

    def to_frame(self, *, seed: int = 0, draws: int = DRAWS) -> pd.DataFrame:
        """Make one row per ranking, mode and size.

        Columns: universe, target, mode, ranking, size, fraction, faithfulness, low, high (95 % BCa over samples).
        """
        rows = []
        for (ranking, mode), values in self.values.items():
            intervals = share_intervals(values, self.spans, seed=seed, draws=draws)
            for size, f, interval in zip(self.sizes, self.faithfulness(ranking, mode), intervals, strict=True):
                rows.append(
                    {
                        "universe": self.universe,
                        "target": self.target,
                        "mode": mode,
                        "ranking": ranking,
                        "size": size,
                        "fraction": size / self.n_components,
                        "faithfulness": float(f),
                        "low": interval.low,
                        "high": interval.high,
                    }
                )
        return pd.DataFrame(rows)


def circuit_curves(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    rankings: Mapping[str, Ranking],
    *,
    universe: str = "heads",
    sizes: Sequence[int] | None = None,
    modes: Sequence[str] = MODES,
    keep_only: Collection[str] = (),
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> CircuitCurves:
    """Measure circuits of the first k components of each ranking, on pairs of samples on which no ranking was made.

    Sizes are numbers of components, by default :data:`FRACTIONS` of all, rounded up. Rankings in `keep_only` (such as
    baselines) are not measured in the mode ``remove``.
    """
    if universe not in _UNIVERSES:
        raise ConfigError(f"universe {universe!r}: use heads or neurons")
    n = next(iter(rankings.values())).size
    chosen = tuple(sorted({math.ceil(n * fraction) for fraction in FRACTIONS})) if sizes is None else tuple(sizes)
    if not chosen or min(chosen) < 1 or max(chosen) > n:
        raise ConfigError(f"sizes: give numbers from 1 to {n}, found {list(chosen)}")
    orders = {name: by_size(scores) for name, scores in rankings.items()}
    keys = [(name, mode) for name in rankings for mode in modes if mode == "keep" or name not in keep_only]
    samples = [pair.sample for pair in pairs]
    values, spans, corrupt = KeyedSums(samples, len(keys), len(chosen)), KeyedSums(samples), 0.0

    def work(batch: Sequence[Pair]) -> tuple[Tensor, Tensor, Tensor]:
        circuit = _Circuit(PairedRun(model, batch, target, sites=[_UNIVERSES[universe]]), universe)
        all_corrupt = circuit.value(np.ones(n, bool))
        curves = [
            [circuit.value(_corrupted(orders[name], size, mode)) - all_corrupt for size in chosen]
            for name, mode in keys
        ]
        weights = circuit.run.weights
        stacked = torch.stack([torch.stack(curve, dim=-1) for curve in curves], dim=1) * weights[:, None, None]
        return (
            stacked,
            weights * (circuit.run.clean.values - all_corrupt),
            weights * (circuit.run.corrupt.values - all_corrupt),
        )

    for batch, (found, span, below) in in_batches(
        pairs,
        work,
        batch_size=batch_size,
        device=model.device,
        label=f"circuits of {universe}",
        progress=progress,
    ):
        of_batch = [pair.sample for pair in batch]
        values.add(of_batch, found)
        spans.add(of_batch, span)
        corrupt += float(below.cpu().double().sum())
    total = float(spans.sums.sum())
    if total == 0:
        raise ActivationError(f"faithfulness: corrupting all {universe} does not change the target")
    return CircuitCurves(
        universe=universe,
        target=target.name,
        sizes=chosen,
        n_components=n,
        values={key: values.numpy()[:, place] for place, key in enumerate(keys)},
        spans=spans.numpy(),
        corrupt_share=corrupt / total,
    )


_UNIVERSES: dict[str, Site] = {"heads": "z", "neurons": "mlp_post"}


def _corrupted(order: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Mark the components that are corrupt, counted through the layers."""
    if mode not in MODES:
        raise ConfigError(f"mode {mode!r}: use keep or remove")
    corrupted = np.full(len(order), mode == "keep")
    corrupted[order[:size]] = mode == "remove"
    return corrupted


@dataclass(frozen=True, eq=False)
class _Circuit:
    """One batch, of which any set of components can be corrupted in the clean run."""

    run: PairedRun
    universe: str

    @torch.no_grad()
    def value(self, corrupted: np.ndarray) -> Float[Tensor, " row"]:
        """Compute the target of the clean run with corrupt activations of the components where `corrupted` is true."""
        run, site = self.run, _UNIVERSES[self.universe]
        by_layer = torch.from_numpy(corrupted.reshape(run.layout.n_layers, -1)).to(run.loaded.device)
        touched = [layer for layer in range(run.stop) if bool(by_layer[layer].any())]
        if not touched:
            return run.clean.values
        width = run.layout.d_head if self.universe == "heads" else 1
        patches = [
            Patch(
                site,
                layer,
                run.corrupt.activations[site, layer],
                run.shared & by_layer[layer].repeat_interleave(width),
            )
            for layer in touched
        ]
        with patched(run.layout, patches):
            return run.value(run.clean.replay.run(start=touched[0], stop=run.stop), run.clean)


# -- rankings that know nothing ----------------------------------------------------------------------------------------


def random_rankings(shape: tuple[int, int], *, n: int, seed: int) -> dict[str, Ranking]:
    """Draw `n` random rankings, named ``random-0`` and so on."""
    return {f"random-{k}": numpy_generator("random ranking", seed, k).random(shape) for k in range(n)}


def rank_overlap(first: Ranking, second: Ranking, *, top: int) -> tuple[float, float]:
    """Compute the share of one ranking's `top` components that the other's `top` have too, and chance: top/n."""
    sets = [set(by_size(scores)[:top]) for scores in (first, second)]
    return len(sets[0] & sets[1]) / top, top / first.size
