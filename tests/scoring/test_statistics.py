from __future__ import annotations

import math
import statistics as python_statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakmech.core.errors import UsageError
from leakmech.scoring import statistics
from leakmech.scoring.statistics import (
    Interval,
    UnitRatio,
    bootstrap_dz,
    bootstrap_ratio,
    bootstrap_ratios,
    cohens_dz,
    wilcoxon_greater,
)

# Few distinct values, so that ties and zeros are common; NaN stands for a missing unit.
values = st.lists(st.sampled_from([-2.0, -0.3, 0.0, 0.1, 0.3, 1.7, math.nan]), max_size=12)


def _is_nan(interval: Interval) -> bool:
    return math.isnan(interval.low) and math.isnan(interval.high)


def _brute_force_bca(statistic, n, *, seed, draws, level):
    """BCa in plain Python over the module's own resamples; `statistic` takes the indices of drawn units."""
    counts = np.vstack(list(statistics._resample_counts(n, draws, seed))).astype(int)
    resampled = [statistic([i for i in range(n) for _ in range(row[i])]) for row in counts]
    resampled = sorted(value for value in resampled if value is not None)
    estimate = statistic(range(n))
    left_out = [statistic([j for j in range(n) if j != i]) for i in range(n)]
    normal = python_statistics.NormalDist()
    below = sum(v < estimate - 1e-12 for v in resampled) + sum(abs(v - estimate) <= 1e-12 for v in resampled) / 2
    z0 = normal.inv_cdf(below / len(resampled))
    d = [sum(left_out) / n - value for value in left_out]
    a = sum(x**3 for x in d) / (6 * sum(x**2 for x in d) ** 1.5)
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        z = z0 + math.sqrt(n / (n - 1)) * stats.t.ppf(tail, n - 1)
        position = normal.cdf(z0 + z / (1 - a * z)) * (len(resampled) - 1)
        lower = int(position)
        upper = min(lower + 1, len(resampled) - 1)
        ends.append(resampled[lower] + (position - lower) * (resampled[upper] - resampled[lower]))
    return ends


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=4, max_size=9).filter(
        lambda units: len({a / b for a, b in units}) > 2
    )
)
def test_a_ratio_interval_equals_bca_written_out_in_plain_python(units):
    numerator, denominator = np.array(units, float).T

    def ratio(drawn):
        return sum(numerator[i] for i in drawn) / sum(denominator[i] for i in drawn)

    interval = bootstrap_ratio(numerator, denominator, seed=3, draws=200, level=0.8)
    expected = _brute_force_bca(ratio, len(units), seed=3, draws=200, level=0.8)
    assert [interval.low, interval.high] == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-40, 60), min_size=4, max_size=9, unique=True))
def test_a_d_z_interval_equals_bca_written_out_in_plain_python(units):
    differences = [unit / 10 for unit in units]

    def d_z(drawn):
        x = [differences[i] for i in drawn]
        return python_statistics.mean(x) / python_statistics.stdev(x) if len(set(x)) > 1 else None

    # The same seed as for ratios: the resamples of all statistics are shared.
    interval = bootstrap_dz(np.array(differences), seed=3, draws=200, level=0.8)
    expected = _brute_force_bca(d_z, len(units), seed=3, draws=200, level=0.8)
    assert [interval.low, interval.high] == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_intervals_agree_with_scipys_bca_for_a_mean_a_ratio_and_d_z():
    generator = np.random.default_rng(5)
    denominator = generator.integers(1, 11, size=60).astype(float)
    numerator = denominator * generator.beta(1, 4, size=60)
    skewed = generator.exponential(size=60) - 0.4
    # SciPy's intervals are not expanded for few units: ask for the level that ours amount to.
    level = 1 - 2 * stats.norm.sf(math.sqrt(60 / 59) * stats.t.ppf(0.975, 59))
    options = {"paired": True, "method": "BCa", "n_resamples": 20_000, "rng": np.random.default_rng(6)}
    options["confidence_level"] = level

    def scipy_interval(data, statistic):
        interval = stats.bootstrap(data, statistic, **options).confidence_interval
        return [interval.low, interval.high]

    cases = [
        (
            bootstrap_ratio(numerator, np.ones(60), seed=1, draws=40_000),
            scipy_interval((numerator,), lambda x, axis=-1: x.mean(axis=axis)),
        ),
        (
            bootstrap_ratio(numerator, denominator, seed=1, draws=40_000),
            scipy_interval((numerator, denominator), lambda x, y, axis=-1: x.sum(axis=axis) / y.sum(axis=axis)),
        ),
        (
            bootstrap_dz(skewed, seed=1, draws=40_000),
            scipy_interval((skewed,), lambda x, axis=-1: x.mean(axis=axis) / x.std(axis=axis, ddof=1)),
        ),
    ]
    for ours, theirs in cases:
        width = theirs[1] - theirs[0]
        assert [ours.low, ours.high] == pytest.approx(theirs, abs=0.02 * width)


def test_intervals_cover_the_truth_at_their_level():
    # Units of unequal size whose share varies between units: an interval over pairs would be far too narrow.
    generator = np.random.default_rng(11)
    runs, units = 2000, 60
    size = generator.integers(2, 21, size=(runs, units)).astype(float)
    share = generator.binomial(size.astype(int), generator.beta(3, 1, size=(runs, units))).astype(float)
    shift = generator.normal(0.5, 1.0, size=(runs, units))
    hits_ratio = hits_dz = 0
    for run in range(runs):
        ratio = bootstrap_ratio(share[run], size[run], seed=run, draws=1000)
        d_z = bootstrap_dz(shift[run], seed=run, draws=1000)
        hits_ratio += ratio.low <= 0.75 <= ratio.high
        hits_dz += d_z.low <= 0.5 <= d_z.high
    # Three standard errors of 2000 binomial trials are 0.015; BCa is known to cover a little too rarely at 60 units.
    assert 0.925 <= hits_ratio / runs <= 0.965
    assert 0.925 <= hits_dz / runs <= 0.965


def test_a_lower_level_gives_an_interval_inside_the_higher_one():
    x = np.random.default_rng(2).normal(size=40)
    wide, narrow = (bootstrap_ratio(x, np.ones(40), seed=1, level=level) for level in (0.95, 0.5))
    assert wide.low < narrow.low < x.mean() < narrow.high < wide.high


def test_the_interval_depends_on_the_seed_and_on_nothing_else():
    x, y = np.random.default_rng(2).normal(size=(2, 30))
    alone = bootstrap_ratio(x, np.ones(30), seed=1)
    beside = bootstrap_ratios(np.stack([y, x, x * y], axis=1), np.ones((30, 3)), seed=1)[1]
    assert (beside.low, beside.high) == pytest.approx((alone.low, alone.high), abs=1e-12)
    assert bootstrap_ratio(x, np.ones(30), seed=1) == alone
    assert bootstrap_ratio(x, np.ones(30), seed=2) != alone


def test_the_size_of_the_chunks_does_not_change_the_draws(monkeypatch):
    whole = np.vstack(list(statistics._resample_counts(7, 50, 4)))
    monkeypatch.setattr(statistics, "_CHUNK_ELEMENTS", 21)
    chunks = list(statistics._resample_counts(7, 50, 4))
    assert [len(chunk) for chunk in chunks] == [3] * 16 + [2]
    assert np.array_equal(np.vstack(chunks), whole)
    assert (whole.sum(axis=1) == 7).all()


def test_equal_units_give_an_interval_of_zero_width():
    # 0.1 is not a binary fraction: sums in another order differ in the last digit and must not widen the interval.
    interval = bootstrap_ratio(np.full(20, 0.1), np.ones(20), seed=1)
    assert interval.low == interval.high == pytest.approx(0.1)
    weighted = bootstrap_ratio(np.arange(1, 9) * 0.3, np.arange(1.0, 9.0), seed=1)
    assert weighted.low == weighted.high == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("numerator", "denominator"),
    [([], []), ([1.0], [2.0]), ([0.0, 0.0], [0.0, 0.0]), ([1.0, 0.0, np.nan], [2.0, 0.0, 1.0])],
)
def test_fewer_than_two_informative_units_have_no_interval(numerator, denominator):
    assert _is_nan(bootstrap_ratio(np.array(numerator), np.array(denominator), seed=1))


def test_a_unit_with_nan_counts_as_one_that_says_nothing():
    with_nan = bootstrap_ratio(np.array([1, 0, 2, np.nan, 1]), np.array([2.0, 2, 2, 2, np.nan]), seed=1)
    with_zero = bootstrap_ratio(np.array([1.0, 0, 2, 0, 0]), np.array([2.0, 2, 2, 0, 0]), seed=1)
    assert with_nan == with_zero
    assert with_nan.low < 0.5 < with_nan.high


def test_draws_of_one_value_throughout_do_not_widen_a_d_z_interval():
    # With three units every ninth draw holds one value only; its spread is 0, not a rounding error of 1e-17.
    interval = bootstrap_dz(np.array([0.1, 0.7, 0.23]) / 3, seed=1)
    assert 0 < interval.low < interval.high < 20


def test_an_estimate_outside_all_draws_has_the_outermost_draws_as_ends():
    draws, left_out = np.linspace(0, 1, 101), np.r_[np.zeros(99), -1.0]
    interval = statistics._bca(2.0, draws, left_out, level=1 - 1e-12)
    assert 0 < interval.low < interval.high == 1.0


def test_the_d_z_interval_does_not_change_with_the_unit_or_with_missing_values():
    x = np.random.default_rng(3).normal(0.3, 1, size=25)
    x[[3, 9]] = np.nan
    plain, scaled = bootstrap_dz(x, seed=1), bootstrap_dz(1000 * x, seed=1)
    assert (scaled.low, scaled.high) == pytest.approx((plain.low, plain.high), rel=1e-9)
    assert plain.low < cohens_dz(x) < plain.high


@pytest.mark.parametrize("differences", [[], [np.nan, np.nan], [0.2], [0.2, 0.5], [0.1] * 6, [0.0] * 6])
def test_d_z_without_spread_or_enough_values_has_no_interval(differences):
    assert _is_nan(bootstrap_dz(np.array(differences), seed=1))


@settings(deadline=None)
@given(values)
def test_cohens_dz_is_mean_over_standard_deviation(differences):
    kept = [d for d in differences if not math.isnan(d)]
    result = cohens_dz(np.array(differences))
    if len(set(kept)) < 2:
        assert math.isnan(result)
    else:
        assert result == pytest.approx(python_statistics.mean(kept) / python_statistics.stdev(kept))


@settings(max_examples=40, deadline=None)  # SciPy permutes all signs when there are ties
@given(values)
def test_wilcoxon_equals_scipy_on_the_values_that_are_there(differences):
    kept = np.array([d for d in differences if not math.isnan(d)])
    result = wilcoxon_greater(np.array(differences))
    if kept.size == 0:
        assert math.isnan(result)
    elif not kept.any():
        assert result == 1.0
    else:
        # SciPy would take the zeros itself, but then no longer the exact distribution for what is left.
        assert result == pytest.approx(stats.wilcoxon(kept[kept != 0], alternative="greater").pvalue)


def test_wilcoxon_is_one_sided_and_exact_for_few_values():
    rises = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.0, np.nan])
    assert wilcoxon_greater(rises) == pytest.approx(1 / 2**5)
    assert wilcoxon_greater(-rises) == 1.0


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), max_size=8))
def test_adding_unit_ratios_pools_their_sums(units):
    numerator, denominator = np.array(units, float).reshape(-1, 2).T
    pooled = UnitRatio(numerator, denominator) + UnitRatio(np.ones(len(units)), np.ones(len(units)))
    if units:
        total = sum(a for a, _ in units) + len(units), sum(b for _, b in units) + len(units)
        assert pooled.value == pytest.approx(total[0] / total[1])
    else:
        assert math.isnan(pooled.value)


def test_the_mean_of_values_leaves_out_what_is_missing():
    assert UnitRatio.mean_of(np.array([1.0, np.nan, 4.0])).value == 2.5
    assert math.isnan(UnitRatio.mean_of(np.array([np.nan])).value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: bootstrap_ratio(x, x[:2], seed=1), "must have one shape"),
        (lambda x: bootstrap_ratio(x[:, None], x[:, None], seed=1), "must have one shape"),
        (lambda x: bootstrap_ratio(x, -x, seed=1), "must not be negative"),
        (lambda x: bootstrap_ratio(x, x, seed=1, draws=0), "draws must be at least 1"),
        (lambda x: bootstrap_ratio(x, x, seed=1, level=95), "level inside"),
    ],
)
def test_a_bootstrap_that_makes_no_sense_is_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call(np.array([1.0, 2.0, 3.0]))
