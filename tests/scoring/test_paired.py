"""Differences between runs of which one has samples with nothing scored: a paired test of what both have."""

from __future__ import annotations

import numpy as np
import pytest

from leakmech.scoring.paired import HEADLINE, pair_differences
from leakmech.scoring.statistics import UnitRatio, ratio_columns

N = 60


def columns(values):
    """The columns of a run whose statistics are all the mean of these values; NaN: nothing scored."""
    return ratio_columns([UnitRatio.mean_of(np.asarray(values, dtype=float))] * 3)


def difference(run, baseline, *, margin=0.05, seed=0):
    found = pair_differences(("run", "base"), columns(run), columns(baseline), margin=margin, seed=seed, draws=400)
    return next(d for d in found if d.statistic == HEADLINE)


def missing(values, share, generator):
    return np.where(generator.random(len(values)) < share, np.nan, values)


@pytest.mark.fault("X330", "rows", "a comparison in which one run has one scored sample", "neither different nor equal")
def test_one_scored_sample_is_neither_a_difference_nor_an_equivalence() -> None:
    baseline = np.random.default_rng(0).normal(0.6, 0.2, N)
    found = difference([0.61, *[np.nan] * (N - 1)], baseline)
    assert found.difference == pytest.approx(0.61 - baseline[0])
    assert (found.low, found.high, found.p_equivalence) == (None, None, None)
    assert found.p == 1.0


def test_samples_that_one_run_lacks_change_nothing() -> None:
    generator = np.random.default_rng(1)
    run, baseline = generator.normal(0.6, 0.2, (2, N))
    run[40:] = np.nan
    found, alone = difference(run, baseline), difference(run[:40], baseline[:40])
    assert (found.difference, found.p_equivalence) == pytest.approx((alone.difference, alone.p_equivalence))
    assert found.p == pytest.approx(alone.p, abs=0.05)


def test_under_the_null_with_samples_missing_few_differences_are_found() -> None:
    found = []
    for seed in range(200):
        generator = np.random.default_rng(seed)
        stems = generator.normal(0.6, 0.2, N)
        run, baseline = (stems + generator.normal(0, 0.1, N) for _ in range(2))
        found.append(difference(missing(run, 0.8, generator), baseline, margin=None, seed=seed).p)
    assert np.mean(np.array(found) < 0.05) < 0.1  # 0.05 is expected; with all samples it was above 0.15
