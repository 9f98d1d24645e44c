"""How well directions separate positive from negative, beside directions that know nothing.

With projections p+_j = v^T x+_j and p-_j of sample j, on samples that v was not fitted on:

    accuracy   share of the 2n prompts on their side of the threshold, the midpoint of the two fit means
    AUC        mean over all i, j of [p+_i > p-_j], ties 1/2: prompts of different samples are compared
    d_z        mean_j (p+_j - p-_j) / sd_j (p+_j - p-_j): within samples, so what the stem does falls out

Layer and method are chosen on ``tune`` by the AUC, ties by d_z (a caller may choose another one first); ``test`` is
only reported. Intervals are given for the chosen direction alone, as it was fitted: BCa over samples
(:mod:`leakmech.scoring.statistics`).

Baselines. *Random directions*: uniform on the sphere, their sign set on ``fit`` as that of every method is; mean and
95th percentile of AUC and |d_z| on ``test``. *Shuffled labels*: the two polarities swapped at random within each
sample of ``fit``, and the method fitted again. Where affect is strong, a shuffled fit still points along it, forwards
or backwards: its mean AUC is 1/2, its 95th percentile can be high. Methods that use labels for the sign only have
no such baseline (NaN), nor has ``das``, whose labels lie in the caller's loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.seeds import numpy_generator
from leakmech.core.shown import table_html
from leakmech.mechanism.directions.data import SiteActivations, Split
from leakmech.mechanism.directions.fits import METHODS, Fit, FitOptions, fit_method, mean_difference, unit
from leakmech.scoring.statistics import (
    DRAWS,
    Interval,
    auc,
    auc_interval,
    bootstrap_dz,
    bootstrap_ratio,
    dz_by_column,
)

Criterion = Literal["auc", "d_z", "accuracy"]
CRITERIA: tuple[Criterion, ...] = get_args(Criterion)
EXACT_SAMPLES = 500
_NO_INTERVAL = Interval(np.nan, np.nan)


@dataclass(frozen=True)
class Baseline:
    """Mean and 95th percentile over draws of AUC and |d_z| on ``test``; NaN where there is no such baseline."""

    auc_mean: float = np.nan
    auc_p95: float = np.nan
    d_z_mean: float = np.nan
    d_z_p95: float = np.nan


@dataclass(frozen=True)
class Separation:
    """Accuracy, AUC and d_z of one direction on one split."""

    accuracy: float
    auc: float
    d_z: float


@dataclass(frozen=True)
class DirectionQuality:
    """One row of the table: a method in a layer, its separation on two splits, and its baselines."""

    method: str
    layer: int
    chosen: bool
    tune: Separation
    test: Separation
    random: Baseline
    shuffled: Baseline

    def flat(self) -> dict[str, object]:
        """Give the row as columns ``tune_auc``, ``random_auc_p95`` and so on."""
        row: dict[str, object] = {}
        for name, value in asdict(self).items():
            parts = {f"{name}_{part}": number for part, number in value.items()} if isinstance(value, dict) else {}
            row.update(parts or {name: value})
        return row


@dataclass(frozen=True, eq=False, repr=False)
class DirectionTable:
    """What all methods reach in all layers, and which one was chosen.

    Attributes
    ----------
    site, position, kind
        The activations that were fitted on, for example ``resid_post``, ``last_prompt``, ``read``.
    rows
        One row per method and layer, by method, then layer.
    chosen
        The row that was best on ``tune``.
    intervals
        95 % intervals of the chosen one: ``tune_auc``, ``test_d_z`` and so on.
    methods, layers
        Labels of the axes of the cosines.
    method_cosines
        Cosines between methods in each layer.
    layer_cosines
        Cosines between layers by each method.
    n_fit, n_tune, n_test
        Numbers of samples.
    """

    site: str
    position: str
    kind: str
    rows: tuple[DirectionQuality, ...]
    chosen: DirectionQuality
    intervals: dict[str, Interval]
    methods: tuple[str, ...]
    layers: tuple[int, ...]
    method_cosines: Float[np.ndarray, "layers methods methods"]
    layer_cosines: Float[np.ndarray, "methods layers layers"]
    n_fit: int
    n_tune: int
    n_test: int

    @property
    def headline(self) -> str:
        """Which direction was chosen, and what it does on test samples."""
        best, ends = self.chosen, self.intervals["test_auc"]
        found = f"AUC {best.test.auc:.2f} [{ends.low:.2f}, {ends.high:.2f}], d_z {best.test.d_z:.2f}"
        return f"{self.kind} at {self.position}: layer {best.layer} by {best.method}, on test {found}"

    def __repr__(self) -> str:
        return f"DirectionTable({self.headline})"

    def _repr_html_(self) -> str:
        header = (
            "method",
            "best layer on tune",
            "AUC on tune",
            "AUC on test",
            "d_z on test",
            "random, 95 % of AUC below",
        )
        rows = []
        for method in self.methods:
            best = max((row for row in self.rows if row.method == method), key=lambda row: row.tune.auc)
            numbers = (best.tune.auc, best.test.auc, best.test.d_z, best.random.auc_p95)
            rows.append((method, best.layer, *(f"{value:.2f}" for value in numbers)))
        return table_html(f"Chosen: {self.headline}", header, rows)

    def row(self, method: str, layer: int) -> DirectionQuality:
        """Give the row of one method in one layer."""
        return next(row for row in self.rows if (row.method, row.layer) == (method, layer))

    def to_frame(self) -> pd.DataFrame:
        """Make one row per method and layer; the ends of the intervals are NaN except for the chosen one."""
        about = {"site": self.site, "position": self.position, "kind": self.kind}
        counts = {"n_fit": self.n_fit, "n_tune": self.n_tune, "n_test": self.n_test}
        rows = []
        for row in self.rows:
            ends = {
                f"{name}_{end}": getattr(interval if row.chosen else _NO_INTERVAL, end)
                for name, interval in self.intervals.items()
                for end in ("low", "high")
            }
            rows.append({**about, **row.flat(), **ends, **counts})
        return pd.DataFrame(rows)

    def cosines_frame(self) -> pd.DataFrame:
        """List all cosines: ``between`` (methods or layers), ``within`` (the layer or method), a, b, cosine."""
        rows = []
        for index, layer in enumerate(self.layers):
            rows += _long(self.method_cosines[index], self.methods, between="methods", within=layer)
        for index, method in enumerate(self.methods):
            rows += _long(self.layer_cosines[index], self.layers, between="layers", within=method)
        return pd.DataFrame(rows)


def _long(cosines: np.ndarray, names: Sequence[object], *, between: str, within: object) -> list[dict[str, object]]:
    return [
        {"between": between, "within": within, "a": a, "b": b, "cosine": float(cosines[i, j])}
        for i, a in enumerate(names)
        for j, b in enumerate(names)
        if i < j
    ]


def paired_auc_interval(
    positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " n"], *, seed: int, draws: int = DRAWS
) -> Interval:
    """Compute the BCa interval of the AUC over resampled samples, of which each brings both of its projections.

    Of more than :data:`EXACT_SAMPLES` samples, for which pairs take too much memory, the first-order part is resampled,
    a mean of one value per sample (DeLong et al. 1988).
    """
    n = len(positive)
    if n > EXACT_SAMPLES:
        return bootstrap_ratio(auc_influence(positive, negative), np.ones(n), seed=seed, draws=draws)
    return auc_interval(positive, negative, units=(np.arange(n), np.arange(n)), seed=seed, draws=draws)


def auc_influence(positive: Float[np.ndarray, " n"], negative: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Compute one value per sample; their mean is the AUC and their spread over sqrt(n) its standard error.

    (share of p- below p+_j) + (share of p+ above p-_j) - AUC: both projections of a sample count in full.
    """

    def share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
        ordered = np.sort(others)
        return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2 / len(others)

    placed = share_below(positive, negative) + 1 - share_below(negative, positive)
    return placed - placed.mean() / 2


def hits(
    positive: Float[np.ndarray, " n *directions"],
    negative: Float[np.ndarray, " n *directions"],
    threshold: Float[np.ndarray, " *directions"],
) -> Float[np.ndarray, " n *directions"]:
    """Compute the share of a sample's two prompts on their side of the threshold; on it counts 1/2."""
    return (np.sign(positive - threshold) - np.sign(negative - threshold) + 2) / 4


def thresholds(vectors: Float[np.ndarray, "layers d_model"], fit: SiteActivations) -> Float[np.ndarray, " layers"]:
    """Compute the midpoint of the mean projections of positive and negative on the fit samples, per layer."""
    middle = (fit.positive.mean(axis=0, dtype=np.float64) + fit.negative.mean(axis=0, dtype=np.float64)) / 2
    return np.einsum("ld,ld->l", vectors, middle)


def direction_table(
    fits: dict[str, Fit],
    splits: dict[Split, SiteActivations],
    *,
    criterion: Criterion,
    random_draws: int,
    shuffles: int,
    options: FitOptions,
    seed: int,
    draws: int,
) -> DirectionTable:
    """Judge fitted directions and choose the one best in `criterion` on ``tune``; ties go by AUC, d_z, then order."""
    fit, tune, test = splits["fit"], splits["tune"], splits["test"]
    vectors = np.stack([fits[name].vectors for name in fits])
    cuts = np.stack([thresholds(one, fit) for one in vectors])
    on_tune, on_test = _separations(vectors, cuts, tune), _separations(vectors, cuts, test)
    best = max(np.ndindex(cuts.shape), key=lambda at: _merit(on_tune[at], criterion))
    random = _random_baselines(fit, test, n_draws=random_draws, seed=seed)
    shuffled = {name: _shuffled_baselines(name, one, splits, shuffles, options, seed) for name, one in fits.items()}
    rows = {
        (m, k): DirectionQuality(
            name, layer, (m, k) == best, on_tune[m, k], on_test[m, k], random[k], shuffled[name][k]
        )
        for m, name in enumerate(fits)
        for k, layer in enumerate(fit.layers)
    }
    chosen_at = {"layer_index": best[1], "vector": vectors[best], "threshold": float(cuts[best])}
    return DirectionTable(
        site=fit.site,
        position=fit.position,
        kind=fit.kind,
        rows=tuple(rows.values()),
        chosen=rows[best[0], best[1]],
        intervals=_intervals({"tune": tune, "test": test}, **chosen_at, seed=seed, draws=draws),
        methods=tuple(fits),
        layers=fit.layers,
        method_cosines=np.einsum("mld,nld->lmn", vectors, vectors),
        layer_cosines=np.einsum("mkd,mld->mkl", vectors, vectors),
        n_fit=len(fit),
        n_tune=len(tune),
        n_test=len(test),
    )


def _merit(separation: Separation, criterion: Criterion) -> tuple[float, ...]:
    values = (getattr(separation, criterion), separation.auc, separation.d_z)
    return tuple(-np.inf if np.isnan(value) else value for value in values)


def _separations(
    vectors: Float[np.ndarray, "methods layers d_model"],
    cuts: Float[np.ndarray, "methods layers"],
    split: SiteActivations,
) -> dict[tuple[int, ...], Separation]:
    """Compute the separation at every (method, layer), one layer's activations in float64 at a time."""
    found: dict[tuple[int, ...], Separation] = {}
    for k in range(vectors.shape[1]):
        positive, negative = _projections(split, k, vectors[:, k])
        accuracies = hits(positive, negative, cuts[:, k]).mean(axis=0)
        numbers = accuracies, auc(positive, negative), dz_by_column(positive - negative)
        for m, values in enumerate(zip(*numbers, strict=True)):
            found[m, k] = Separation(*(float(value) for value in values))
    return found


def _projections(
    split: SiteActivations, index: int, vectors: Float[np.ndarray, "directions d_model"]
) -> tuple[Float[np.ndarray, "n directions"], Float[np.ndarray, "n directions"]]:
    return split.layer(index, "positive") @ vectors.T, split.layer(index, "negative") @ vectors.T


def _intervals(
    splits: dict[str, SiteActivations],
    *,
    layer_index: int,
    vector: Float[np.ndarray, " d_model"],
    threshold: float,
    seed: int,
    draws: int,
) -> dict[str, Interval]:
    intervals = {}
    for name, split in splits.items():
        positive, negative = (side[:, 0] for side in _projections(split, layer_index, vector[None]))
        ones = np.ones(len(split))
        correct = hits(positive, negative, np.asarray(threshold))
        intervals[f"{name}_accuracy"] = bootstrap_ratio(correct, ones, seed=seed, draws=draws)
        intervals[f"{name}_auc"] = paired_auc_interval(positive, negative, seed=seed, draws=draws)
        intervals[f"{name}_d_z"] = bootstrap_dz(positive - negative, seed=seed, draws=draws)
    return intervals


def _random_baselines(fit: SiteActivations, test: SiteActivations, *, n_draws: int, seed: int) -> list[Baseline]:
    """Judge random directions in each layer, the same ones in every layer."""
    if n_draws == 0:
        return [Baseline()] * len(fit.layers)
    drawn = unit(numpy_generator("random directions", seed).standard_normal((n_draws, fit.d_model)))
    means = mean_difference(fit)
    baselines = []
    for k in range(len(fit.layers)):
        signed = drawn * np.where(drawn @ means[k] < 0, -1.0, 1.0)[:, None]
        baselines.append(_baseline(*_projections(test, k, signed)))
    return baselines


def _baseline(positive: Float[np.ndarray, "n draws"], negative: Float[np.ndarray, "n draws"]) -> Baseline:
    areas, effects = auc(positive, negative), np.abs(dz_by_column(positive - negative))
    return Baseline(
        auc_mean=float(areas.mean()),
        auc_p95=float(np.quantile(areas, 0.95)),
        d_z_mean=float(np.nanmean(effects)),
        d_z_p95=float(np.nanquantile(effects, 0.95)),
    )


def _shuffled_baselines(
    method: str, fitted: Fit, splits: dict[Split, SiteActivations], shuffles: int, options: FitOptions, seed: int
) -> list[Baseline]:
    """Judge fits to shuffled labels in each layer; ``logistic`` keeps the strength chosen for the true labels."""
    fit, test = splits["fit"], splits["test"]
    if shuffles == 0 or not METHODS[method].supervised or method == "das":
        return [Baseline()] * len(fit.layers)
    frozen = FitOptions(seed=options.seed, strengths=fitted.details.get("strength"))
    generator = numpy_generator("shuffled labels", seed)
    vectors = np.stack(
        [
            fit_method(method, fit.swapped(generator.integers(2, size=len(fit)) == 1), options=frozen).vectors
            for _ in range(shuffles)
        ]
    )
    return [_baseline(*_projections(test, k, vectors[:, k])) for k in range(len(fit.layers))]
