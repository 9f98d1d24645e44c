"""Differences between runs over the same samples, paired by sample.

With T = sum_j a_j / sum_j b_j a statistic of one run, the difference T(run) - T(baseline) is a function of four sums
over samples, and it is samples, with everything that both runs have of them, that are resampled or swapped. A sample
of which one run has nothing to say (no answer that is scored, or none that is topic-free) is left out of both sums, so
that a difference need not be that of the two runs' own values:

* **interval**: BCa bootstrap over samples;
* **p**: permutation test that exchanges the two runs within samples, two-sided, exact for few samples;
* **p_holm**: adjusted over the declared family, here all comparisons of one call. Each statistic is a family of its
  own: the headline, auc_el by default, is what the comparison is about, and the others are secondary;
* **p_equivalence**: TOST on the headline with a margin that was set beforehand, adjusted over the same family.

Runs with one seed are coupled: generation i of a prompt was drawn with the same noise in both. Nothing has to be done
about it here. Coupled generations agree more often, so the differences vary less between samples, and interval and p
value follow that spread alone. Runs under other seeds are compared as validly, with more variance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from leakmech.scoring.inference import equivalence, holm, pseudo_values, swap_test
from leakmech.scoring.leakage import LeakageScores, overall_leakage, valence_shifts
from leakmech.scoring.statistics import (
    LEVEL,
    Interval,
    UnitRatio,
    bootstrap,
    json_number,
    ratio_columns,
    ratios_of_sums,
)

STATISTICS = ("auc_el", "mu_el", "valence_shift")
"""What every comparison has; a headline of another name comes after them."""
HEADLINE = "auc_el"
Verdict = Literal["different", "equivalent", "different within the margin", "undecided"]
Columns = Float[np.ndarray, "samples columns"]


@dataclass(frozen=True)
class RunEstimate:
    """One statistic of one run with its 95 % interval; None for what cannot be computed."""

    run: str
    statistic: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Difference:
    """One statistic of `run` minus that of `baseline`; see the head of this module.

    Attributes
    ----------
    difference, low, high
        Value and paired 95 % interval, in units of the statistic; None for what cannot be computed.
    p, p_holm
        p value of the permutation test, as it is and adjusted over the family.
    p_equivalence
        p value of TOST, adjusted over the family; None without a margin.
    verdict
        For the headline: ``different`` (p_holm < alpha), ``equivalent`` (p_equivalence < alpha), ``different within the
        margin`` (both), else ``undecided``. None for the other statistics.
    """

    run: str
    baseline: str
    statistic: str
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    p_equivalence: float | None
    verdict: Verdict | None


def statistic_columns(scores: LeakageScores, *more: UnitRatio) -> Columns:
    """What is summed over samples for the :data:`STATISTICS` of one run, and for a headline of another name."""
    return ratio_columns(
        [
            overall_leakage(scores, pairing="all"),
            overall_leakage(scores, pairing="index"),
            UnitRatio.mean_of(valence_shifts(scores)["valence_shift"]),
            *more,
        ]
    )


def statistic_names(headline: str) -> tuple[str, ...]:
    """The statistics of a comparison, in the order of their columns."""
    return STATISTICS if headline in STATISTICS else (*STATISTICS, headline)


def paired_difference(sums: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "rows statistics"]:
    """Statistics of a run minus those of its baseline, from the sums of both runs' columns side by side."""
    run, baseline = np.split(sums, 2, axis=1)
    return ratios_of_sums(run) - ratios_of_sums(baseline)


def run_estimates(run: str, columns: Columns, *, headline: str = HEADLINE, seed: int, draws: int) -> list[RunEstimate]:
    """Value and interval of every statistic of one run."""
    values = ratios_of_sums(columns.sum(axis=0, keepdims=True))[0]
    intervals = bootstrap(columns, ratios_of_sums, seed=seed, draws=draws, level=LEVEL)
    return [
        RunEstimate(run, statistic, *map(json_number, (value, interval.low, interval.high)))
        for statistic, value, interval in zip(statistic_names(headline), values, intervals, strict=True)
    ]


def run_differences(
    columns: Mapping[str, Columns],
    pairs: Sequence[tuple[str, str]],
    *,
    headline: str = HEADLINE,
    margin: float | None,
    alpha: float,
    seed: int,
    draws: int,
) -> list[Difference]:
    """All comparisons of all statistics, for the declared family of pairs (run, baseline).

    `margin` is that of the equivalence test on the headline (None: no such test), `alpha` the level of the verdicts.
    """
    options: dict[str, Any] = {"headline": headline, "margin": margin, "seed": seed, "draws": draws}
    found = [d for run, base in pairs for d in pair_differences((run, base), columns[run], columns[base], **options)]
    return adjusted(found, headline=headline, alpha=alpha)


def pair_differences(
    names: tuple[str, str],
    run: Columns,
    baseline: Columns,
    *,
    headline: str = HEADLINE,
    margin: float | None,
    seed: int,
    draws: int,
) -> list[Difference]:
    """One comparison of all statistics, a family by itself until :func:`adjusted` joins it with others."""
    tests = _test_pair(run, baseline, headline=headline, margin=margin, seed=seed, draws=draws)
    return [
        Difference(
            *names,
            statistic=statistic,
            difference=json_number(test.difference),
            low=json_number(test.interval.low),
            high=json_number(test.interval.high),
            p=json_number(test.p),
            p_holm=json_number(test.p),
            p_equivalence=json_number(test.p_equivalence),
            verdict=None,
        )
        for statistic, test in zip(statistic_names(headline), tests, strict=True)
    ]


def adjusted(found: Sequence[Difference], *, headline: str = HEADLINE, alpha: float) -> list[Difference]:
    """The comparisons of a declared family, statistic by statistic: p values by Holm's method, and verdicts."""
    of_statistic = [[d for d in found if d.statistic == name] for name in dict.fromkeys(d.statistic for d in found)]
    differences = []
    for family in of_statistic:
        p_holm = holm([_or_nan(d.p) for d in family])
        p_equivalence = holm([_or_nan(d.p_equivalence) for d in family])
        for d, p, p_same in zip(family, p_holm, p_equivalence, strict=True):
            verdict = _verdict(p, p_same, alpha) if d.statistic == headline else None
            change: dict[str, Any] = {"p_holm": json_number(p), "p_equivalence": json_number(p_same)}
            differences.append(replace(d, verdict=verdict, **change))
    return differences


def _or_nan(value: float | None) -> float:
    return np.nan if value is None else value


@dataclass(frozen=True)
class _Tested:
    """One statistic of one pair of runs, before adjustment."""

    difference: float
    interval: Interval
    p: float
    p_equivalence: float


def _test_pair(
    run: Columns, baseline: Columns, *, headline: str, margin: float | None, seed: int, draws: int
) -> list[_Tested]:
    run, baseline = _of_both(run, baseline)
    observed, swapped = np.hstack([run, baseline]), np.hstack([baseline, run])
    intervals = bootstrap(observed, paired_difference, seed=seed, draws=draws, level=LEVEL)
    tests = swap_test(observed, swapped, paired_difference, seed=seed, draws=draws)
    names = statistic_names(headline)
    p_equivalence = np.full(len(names), np.nan)
    if margin is not None:
        place = names.index(headline)
        own = observed[:, place :: len(names)]
        p_equivalence[place] = equivalence(pseudo_values(own, paired_difference)[:, 0], margin=margin)
    return [
        _Tested(test.estimate, interval, test.p, p)
        for test, interval, p in zip(tests, intervals, p_equivalence, strict=True)
    ]


def _of_both(run: Columns, baseline: Columns) -> tuple[Columns, Columns]:
    """The columns of two runs, 0 where one of them has nothing of a sample for that statistic."""
    denominators = slice(run.shape[1] // 2, None)
    there = (run[:, denominators] != 0) & (baseline[:, denominators] != 0)
    kept = np.tile(there, (1, 2))
    return np.where(kept, run, 0.0), np.where(kept, baseline, 0.0)


def _verdict(p: float, p_equivalence: float, alpha: float) -> Verdict:
    different, equivalent = p < alpha, p_equivalence < alpha
    if different and equivalent:
        return "different within the margin"
    if different:
        return "different"
    return "equivalent" if equivalent else "undecided"
