"""Statistics over units that are exchangeable: bootstrap intervals, a signed-rank test, an effect size.

Nothing here knows of leakage. A unit is whatever was drawn independently (for leakmech a sample: a stem with all its
prompts and generations), and it is units that are resampled. Resampling whole units keeps everything inside a unit
together, so the spread between the generations of one prompt is already in the interval; resampling generations inside
the drawn units as well would count that spread twice (Davison & Hinkley 1997, section 3.8).

Every statistic with an interval is a function of sums over units: a ratio sum(a) / sum(b), or d_z from the sums of x
and x^2. One draw of the bootstrap is a row of counts (how often each unit was drawn), so all draws of all statistics
are one matrix product, ``sums = counts @ columns``, taken in chunks, and the jackknife is ``total - columns``.

The interval is BCa (Efron 1987). Let z0 be the normal quantile of the share of draws below the estimate, and
a = sum d^3 / (6 (sum d^2)^(3/2)) with d = the mean of the leave-one-out estimates minus each of them. The ends are the
quantiles of the draws at Phi(z0 + (z0 + z) / (1 - a (z0 + z))). For z Efron takes the normal quantiles of
(1 -+ level) / 2, which makes intervals of few units too narrow: the spread of the draws is a sum of squares over n,
not n - 1, and it is estimated. So z is sqrt(n / (n - 1)) times the quantile of t with n - 1 degrees of
freedom, as in the expanded intervals of Hesterberg (2014, arXiv 1411.5279; ``CI.bca`` of his R package resample). In
2,000 simulated runs of 60 samples (tests/scoring/test_coverage.py) 95 % intervals of auc_el, mu_el, valence shift and
of their differences cover in 93.8 to 95.4 %; with the normal quantiles it is 92.9 to 94.6 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int
from scipy import special

from leakmech.core.errors import UsageError
from leakmech.core.seeds import numpy_generator

DRAWS = 10_000
LEVEL = 0.95
_CHUNK_ELEMENTS = 1 << 20  # entries of the count matrix held at once: about 25 MB with its intermediates
_UNITS_AT_ONCE = 4096  # as many are left out, one after the other, in one step
_ROUNDING = 1e-12  # what differs by less than this, relative to its size, differs only in the order of summation

Statistic = Callable[[Float[np.ndarray, "rows columns"]], Float[np.ndarray, "rows statistics"]]


@dataclass(frozen=True)
class Interval:
    """A confidence interval; both ends are NaN where none can be given."""

    low: float
    high: float

    def to_json(self) -> list[float] | None:
        """``[low, high]``, or None for what has no interval."""
        return None if np.isnan(self.low) else [float(self.low), float(self.high)]


@dataclass(frozen=True, eq=False)
class UnitRatio:
    """A statistic sum(numerator) / sum(denominator) over units, before the sums are taken.

    Means over units, pooled shares and means of means all have this form, and adding two of them pools them with the
    units kept together. Both parts are 0 for a unit that says nothing.
    """

    numerator: Float[np.ndarray, " units"]
    denominator: Float[np.ndarray, " units"]

    @classmethod
    def mean_of(cls, values: Float[np.ndarray, " units"]) -> UnitRatio:
        """The mean over the units whose value is not NaN."""
        valid = ~np.isnan(values)
        return cls(np.where(valid, values, 0.0), valid.astype(np.float64))

    def __add__(self, other: UnitRatio) -> UnitRatio:
        return UnitRatio(self.numerator + other.numerator, self.denominator + other.denominator)

    @property
    def value(self) -> float:
        """The statistic; NaN when no unit says anything."""
        return float(divide(self.numerator.sum(), self.denominator.sum()))


def ratio_columns(ratios: Sequence[UnitRatio]) -> Float[np.ndarray, "units columns"]:
    """All numerators, then all denominators: what :func:`ratios_of_sums` takes the sums of."""
    return np.stack([r.numerator for r in ratios] + [r.denominator for r in ratios], axis=1)


def ratios_of_sums(sums: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows statistics"]:
    """The statistic sum(numerator) / sum(denominator) of columns as :func:`ratio_columns` lays them out."""
    return divide(*np.split(sums, 2, axis=1))


def bootstrap_ratio(
    numerator: Float[np.ndarray, " units"],
    denominator: Float[np.ndarray, " units"],
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Interval:
    """BCa bootstrap interval of one ratio; see :func:`bootstrap_ratios`."""
    numerator, denominator = np.asarray(numerator), np.asarray(denominator)
    return bootstrap_ratios(numerator[..., None], denominator[..., None], seed=seed, draws=draws, level=level)[0]


def bootstrap_ratios(
    numerators: Float[np.ndarray, "units statistics"],
    denominators: Float[np.ndarray, "units statistics"],
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> list[Interval]:
    """BCa bootstrap intervals of several ratios of sums over the same resampled units.

    A unit in which either part is NaN says nothing about that statistic (0 is added to both sums) but still takes part
    in the resampling. Fewer than two units with a denominator above 0 have no interval.
    """
    numerators, denominators = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if numerators.ndim != 2 or numerators.shape != denominators.shape:
        raise UsageError(
            f"numerators {numerators.shape} and denominators {denominators.shape} of a bootstrap must have one shape,"
            " (units,) for a ratio or (units, statistics) for several"
        )
    if np.any(denominators < 0):
        raise UsageError("the denominators of a bootstrapped ratio must not be negative")
    silent = np.isnan(numerators) | np.isnan(denominators)
    columns = np.hstack([numerators, denominators])
    columns[np.hstack([silent, silent])] = 0.0
    return bootstrap(columns, ratios_of_sums, seed=seed, draws=draws, level=level)


def bootstrap_dz(
    differences: Float[np.ndarray, " units"], *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> Interval:
    """BCa bootstrap interval of :func:`cohens_dz` over resampled units; NaN are units without a value.

    It needs d_z with any one unit left out, so at least three values; draws of one value throughout are left out.
    """
    differences = np.asarray(differences, np.float64)
    valid = ~np.isnan(differences)
    if not valid.any():
        return Interval(np.nan, np.nan)
    center = differences[valid].mean()
    deviation = np.where(valid, _drop_rounding(differences - center, scale=np.abs(differences[valid]).max()), 0.0)

    def d_z(sums: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows 1"]:
        n, first, second = (sums[:, [column]] for column in range(3))
        squares = second - divide(first**2, n)
        squares = np.where(squares > _ROUNDING * second, squares, np.nan)
        with np.errstate(invalid="ignore"):
            return (center + divide(first, n)) / np.sqrt(divide(squares, n - 1))

    columns = np.stack([valid.astype(np.float64), deviation, deviation**2], axis=1)
    return bootstrap(columns, d_z, seed=seed, draws=draws, level=level)[0]


def bootstrap(
    columns: Float[np.ndarray, "units columns"],
    statistic: Statistic,
    *,
    seed: int,
    draws: int,
    level: float,
    most_undefined: float = 1.0,
) -> list[Interval]:
    """BCa bootstrap intervals of any statistics that are functions of sums over units.

    `statistic` maps sums to statistics row by row, NaN where one is undefined; such resamples are left out, and where
    they are a larger share than `most_undefined` there is no interval. The same seed gives the same resamples
    for every statistic over equally many units: models scored on the same samples are resampled alike.
    """
    if draws < 1 or not 0 < level < 1:
        raise UsageError(f"bootstrap: draws must be at least 1 and level inside (0, 1), found {draws} and {level}")
    total = columns.sum(axis=0, keepdims=True)
    estimate = statistic(total)[0]
    if len(columns) < 2:
        return [Interval(np.nan, np.nan)] * len(estimate)
    resampled = statistic(np.vstack([counts @ columns for counts in _resample_counts(len(columns), draws, seed)]))
    parts = (columns[start : start + _UNITS_AT_ONCE] for start in range(0, len(columns), _UNITS_AT_ONCE))
    left_out = np.vstack([statistic(total - part) for part in parts])
    resampled[:, np.isnan(resampled).mean(axis=0) > most_undefined] = np.nan
    return [_bca(estimate[i], resampled[:, i], left_out[:, i], level=level) for i in range(len(estimate))]


def _resample_counts(n_units: int, draws: int, seed: int) -> Iterator[Float[np.ndarray, "chunk units"]]:
    """Multinomial counts of `draws` resamples, in chunks of bounded size; the chunks do not change the draws."""
    generator = numpy_generator("bootstrap", seed)
    chunk = max(1, _CHUNK_ELEMENTS // n_units)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        drawn = generator.integers(n_units, size=(rows, n_units))
        drawn += np.arange(rows)[:, None] * n_units
        yield np.bincount(drawn.ravel(), minlength=rows * n_units).reshape(rows, n_units).astype(np.float64)


def _bca(
    estimate: float, resampled: Float[np.ndarray, " draws"], left_out: Float[np.ndarray, " units"], *, level: float
) -> Interval:
    """Ends of the BCa interval of one statistic (Efron 1987), expanded for few units (Hesterberg 2014)."""
    resampled = resampled[~np.isnan(resampled)]
    if np.isnan(estimate) or np.isnan(left_out).any() or resampled.size == 0:
        return Interval(np.nan, np.nan)
    offset = _drop_rounding(resampled - estimate, scale=max(abs(estimate), np.abs(resampled).max()))
    if not offset.any():
        return Interval(float(estimate), float(estimate))
    below = ((offset < 0).mean() + (offset <= 0).mean()) / 2
    # An estimate outside all of its draws would put both ends at infinity: hold it half a draw inside.
    bias = special.ndtri(np.clip(below, 0.5 / resampled.size, 1 - 0.5 / resampled.size))
    influence = left_out.mean() - left_out
    acceleration = divide((influence**3).sum(), 6 * (influence**2).sum() ** 1.5)
    n = len(left_out)
    spread = np.sqrt(n / (n - 1)) * special.stdtrit(n - 1, (1 + level) / 2)
    shifted = bias + np.array([-spread, spread])
    # |acceleration| <= 1/6, so only extreme levels reach 0 here, where the end is the outermost draw.
    curvature = np.maximum(1 - np.nan_to_num(acceleration) * shifted, 1e-9)
    levels = special.ndtr(bias + shifted / curvature)
    low, high = np.quantile(resampled, levels)
    return Interval(float(low), float(high))


def wilcoxon_greater(differences: Float[np.ndarray, " n"]) -> float:
    """One-sided p value of the Wilcoxon signed-rank test that differences lie above 0.

    Zeros are dropped before ranking (Wilcoxon's own treatment, ``zero_method="wilcox"``). It is the default of SciPy
    and R, hence what a paper that names only the test has used, and the exact null distribution holds for what is left,
    which Pratt's and the split treatment give up. SciPy's ``method="auto"`` takes the exact distribution for small
    samples and the normal approximation, corrected for ties, otherwise. NaN are dropped; where every difference is 0, p
    is 1.
    """
    differences = np.asarray(differences, np.float64)
    differences = differences[~np.isnan(differences)]
    if differences.size == 0:
        return float("nan")
    nonzero = differences[differences != 0]
    if nonzero.size == 0:
        return 1.0
    from scipy import stats  # here, since it takes a second to import

    test = stats.wilcoxon(nonzero, zero_method="wilcox", alternative="greater", method="auto")
    return float(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue] - hidden by SciPy's decorator


def cohens_dz(differences: Float[np.ndarray, " n"]) -> float:
    """Effect size of paired differences: their mean over their standard deviation (n - 1).

    NaN are dropped; for fewer than two values or without any spread it is NaN.
    """
    differences = np.asarray(differences, np.float64)
    return float(dz_by_column(differences[~np.isnan(differences)]))


def dz_by_column(differences: Float[np.ndarray, " n *columns"]) -> Float[np.ndarray, " *columns"]:
    """:func:`cohens_dz` along the first axis, of many columns at once; none of them may hold a NaN."""
    if len(differences) < 2:
        return np.full(differences.shape[1:], np.nan)
    mean = differences.mean(axis=0)
    deviation = _drop_rounding(differences - mean, scale=np.abs(differences).max(axis=0))
    return divide(mean, np.sqrt((deviation**2).sum(axis=0) / (len(differences) - 1)))


def auc(
    positive: Float[np.ndarray, " n *columns"], negative: Float[np.ndarray, " m *columns"]
) -> Float[np.ndarray, " *columns"]:
    """Area under the curve: how often a value of the first set lies above one of the second, ties 1/2, per column."""
    n, m = len(positive), len(negative)
    from scipy import stats  # here, as above

    ranks = stats.rankdata(np.concatenate([positive, negative]), axis=0)[:n]
    return (ranks.sum(axis=0) - n * (n + 1) / 2) / (n * m)


def auc_interval(
    positive: Float[np.ndarray, " n"],
    negative: Float[np.ndarray, " m"],
    *,
    units: tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]],
    seed: int,
    draws: int = DRAWS,
) -> Interval:
    """BCa interval of :func:`auc` over resampled units, of which each brings all its values.

    `units` are the numbers, from 0, of the units that the values come from.
    With w the counts of a draw, its AUC is w^T Phi w / (w^T n+ w^T n-), where Phi_ij counts the pairs of a positive
    value of unit i and a negative one of unit j in which the first is larger, and n+_i, n-_i are their numbers.
    """
    n_units = 1 + max(int(side.max(initial=-1)) for side in units)
    of_positive, of_negative = (np.eye(n_units)[side] for side in units)
    wins = of_positive.T @ ((np.sign(positive[:, None] - negative[None]) + 1) / 2) @ of_negative
    n_positive, n_negative = of_positive.sum(axis=0), of_negative.sum(axis=0)

    def statistic(counts: Float[np.ndarray, "rows units"]) -> Float[np.ndarray, "rows 1"]:
        return divide((counts @ wins * counts).sum(axis=1), (counts @ n_positive) * (counts @ n_negative))[:, None]

    return bootstrap(np.eye(n_units), statistic, seed=seed, draws=draws, level=LEVEL)[0]


def _drop_rounding(
    values: Float[np.ndarray, " n *columns"], *, scale: npt.ArrayLike
) -> Float[np.ndarray, " n *columns"]:
    """`values` with those set to 0 that are only rounding errors of numbers of size `scale`."""
    return np.where(np.abs(values) <= _ROUNDING * np.asarray(scale), 0.0, values)


def json_number(value: float) -> float | None:
    """`value` as JSON knows it: None for NaN."""
    return None if np.isnan(value) else float(value)


def divide(numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Float[np.ndarray, " *shape"]:
    """numerator / denominator, broadcast; NaN where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, np.float64), denominator)
    return np.divide(numerator, denominator, out=np.full(numerator.shape, np.nan), where=denominator != 0)
