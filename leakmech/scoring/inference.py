"""Tests over exchangeable units: swapping labels within a unit, equivalence, and Holm's adjustment of several p values.

Like :mod:`leakmech.scoring.statistics` this knows nothing of leakage. A unit (a sample) contributes a row of columns,
and a statistic is a function of the sums of the columns.

* **Swap test.** Every unit has two rows, as observed and with two labels exchanged (the two runs that are compared; the
  two polarities of the injections). If the labels mean nothing, all 2^n choices of rows are equally likely. With x the
  observed rows, x' the swapped ones and S a 0/1 matrix of swaps, all draws are one product: ``sum x + S (x' - x)``.
  p = (1 + #{T* >= T}) / (1 + draws) (Phipson & Smyth 2010), exact by enumeration where 2^n does not exceed the draws.
* **Equivalence (TOST).** Two one-sided t tests against -margin and +margin on the jackknife pseudo-values
  n T - (n - 1) T_(-j) (Tukey 1958; Schuirmann 1987); p is the larger of the two. The pseudo-values of a mean are the
  values themselves, so this is the paired t TOST for means and extends it to ratios of sums. A t test rather than a
  bootstrap because it gives a p value at any level from a stated distribution, and Holm needs p values.
* **Holm.** The i-th smallest of m p values is multiplied by m - i + 1 and kept monotone (Holm 1979): the chance of any
  false finding in the family stays below alpha whatever the dependence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.core.seeds import numpy_generator
from leakmech.scoring.statistics import DRAWS, Statistic

Alternative = Literal["greater", "two-sided"]

_CHUNK_ELEMENTS = 1 << 20
_ROUNDING = 1e-10  # sums in another order differ by less; such draws count as equal to what was observed


@dataclass(frozen=True)
class SwapTest:
    """Result of :func:`swap_test` for one statistic; NaN where it is undefined.

    ``null_*`` are the mean and the ends of the central 95 % of the statistic when labels are swapped at random.
    """

    estimate: float
    p: float
    null_mean: float
    null_low: float
    null_high: float


def swap_test(
    observed: Float[np.ndarray, "units columns"],
    swapped: Float[np.ndarray, "units columns"],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    alternative: Alternative = "two-sided",
) -> list[SwapTest]:
    """Permutation test of every statistic that exchanges two labels within units.

    `statistic` maps sums (rows, columns) to statistics (rows, statistics); two-sided tests need it to change its sign
    when every unit is swapped.

    The null is that the two rows of a unit are exchangeable. For a difference of means the test holds asymptotically
    under equal means alone, because the spread of the swapped sums is that of the differences themselves.
    """
    observed, swapped = np.asarray(observed, np.float64), np.asarray(swapped, np.float64)
    if observed.ndim != 2 or observed.shape != swapped.shape or not len(observed):
        raise UsageError(
            f"swap test: observed {observed.shape} and swapped {swapped.shape} must have one shape (units, columns)"
        )
    if draws < 1 or alternative not in ("greater", "two-sided"):
        raise UsageError(f"swap test: draws must be at least 1, alternative greater or two-sided; found {alternative}")
    total, change = observed.sum(axis=0, keepdims=True), swapped - observed
    estimate = statistic(total)[0]
    exact = len(observed) < 63 and 2 ** len(observed) <= draws
    swaps = _all_swaps(len(observed)) if exact else _random_swaps(len(observed), draws, seed)
    null = np.vstack([statistic(total + chosen @ change) for chosen in swaps])
    return [_swap_result(estimate[i], null[:, i], exact, alternative) for i in range(len(estimate))]


def _all_swaps(n_units: int) -> Iterator[Float[np.ndarray, "swaps units"]]:
    yield (np.arange(2**n_units)[:, None] >> np.arange(n_units) & 1).astype(np.float64)


def _random_swaps(n_units: int, draws: int, seed: int) -> Iterator[Float[np.ndarray, "chunk units"]]:
    generator = numpy_generator("swap", seed)
    chunk = max(1, _CHUNK_ELEMENTS // n_units)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        yield generator.integers(2, size=(rows, n_units)).astype(np.float64)


def _swap_result(estimate: float, null: Float[np.ndarray, " draws"], exact: bool, alternative: Alternative) -> SwapTest:
    null = null[~np.isnan(null)]
    if np.isnan(estimate) or not null.size:
        return SwapTest(float(estimate), np.nan, np.nan, np.nan, np.nan)
    extreme, reached = (null, estimate) if alternative == "greater" else (np.abs(null), abs(estimate))
    count = int((extreme >= reached - _ROUNDING).sum())
    p = count / null.size if exact else (count + 1) / (null.size + 1)
    low, high = np.quantile(null, [0.025, 0.975])
    return SwapTest(float(estimate), float(p), float(null.mean()), float(low), float(high))


def pseudo_values(
    columns: Float[np.ndarray, "units columns"], statistic: Statistic
) -> Float[np.ndarray, "units statistics"]:
    """Jackknife pseudo-values n T - (n - 1) T_(-j) of statistics T of sums: their mean is T, their spread its error.

    Units that are 0 throughout say nothing and are left out. A statistic that is undefined without one of the units has
    NaN throughout: the others alone would not show how it varies.
    """
    columns = np.asarray(columns, np.float64)
    columns = columns[columns.any(axis=1)]
    n = len(columns)
    total = columns.sum(axis=0, keepdims=True)
    values = n * statistic(total) - (n - 1) * statistic(total - columns)
    return np.where(np.isnan(values).any(axis=0), np.nan, values)


def equivalence(values: Float[np.ndarray, " units"], *, margin: float) -> float:
    """p value of TOST that the mean lies inside (-margin, margin); below alpha: equivalent within the margin.

    `values` are paired differences or :func:`pseudo_values`, NaN dropped; without any spread p is 0 inside the margins
    and 1 outside, and for fewer than two values it is NaN.
    """
    if not (np.isfinite(margin) and margin > 0):
        raise UsageError(f"equivalence margin: expected a number above 0, found {margin}")
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if values.size < 2:
        return float("nan")
    if np.ptp(values) <= _ROUNDING * max(1.0, float(np.abs(values).max())):
        return 0.0 if abs(values.mean()) < margin else 1.0
    from statsmodels.stats.weightstats import DescrStatsW  # here, since it takes a second to import

    return float(DescrStatsW(values).ttost_mean(-margin, margin)[0])


def holm(p_values: Sequence[float] | npt.ArrayLike) -> Float[np.ndarray, " tests"]:
    """p values adjusted over a declared family by Holm's step-down method; a NaN stays and does not count."""
    p = np.asarray(p_values, np.float64)
    if np.any((p < 0) | (p > 1)):
        raise UsageError(f"holm: p values must lie in [0, 1], found {p[(p < 0) | (p > 1)][0]}")
    adjusted, known = np.full(p.shape, np.nan), ~np.isnan(p)
    # Not statsmodels' multipletests: it collects garbage at every call, which takes 0.3 s beside a loaded model.
    order = np.argsort(p[known], kind="stable")
    steps = np.maximum.accumulate(p[known][order] * np.arange(len(order), 0, -1))
    adjusted[np.flatnonzero(known)[order]] = np.minimum(steps, 1.0)
    return adjusted
