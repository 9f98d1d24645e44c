from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from leakmech.core.errors import UsageError
from leakmech.scoring.inference import equivalence, holm, pseudo_values, swap_test


def _difference(sums):
    return (sums[:, [0]] - sums[:, [1]]) / 10


def _ratio(sums):
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[:, [0]] / sums[:, [1]]


pairs = st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=8)


@given(pairs)
def test_few_units_are_tested_exactly_over_all_swaps(values):
    observed = np.array(values, float)
    [test] = swap_test(observed, observed[:, ::-1], _difference, seed=0, draws=256)
    differences = observed[:, 0] - observed[:, 1]
    null = [abs(np.dot(signs, differences)) for signs in itertools.product([1, -1], repeat=len(values))]
    assert test.p == pytest.approx(np.mean(np.array(null) >= abs(differences.sum()) - 1e-9))
    assert test.estimate == pytest.approx(differences.sum() / 10)


def test_many_units_are_tested_as_scipy_does_by_random_swaps():
    generator = np.random.default_rng(0)
    observed = generator.normal(loc=(0.35, 0), size=(40, 2))
    [ours] = swap_test(observed, observed[:, ::-1], _difference, seed=1, draws=20_000, alternative="greater")
    theirs = stats.permutation_test(
        (observed[:, 0], observed[:, 1]),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=20_000,
        alternative="greater",
        rng=2,
    )
    assert 0.001 < theirs.pvalue < 0.2
    assert ours.p == pytest.approx(theirs.pvalue, abs=0.006)
    assert ours.null_mean == pytest.approx(0, abs=0.05)
    assert ours.null_low == pytest.approx(-ours.null_high, rel=0.05)


def test_random_swaps_never_give_a_p_value_of_0_and_repeat_with_the_seed():
    observed = np.tile([1.0, 0.0], (30, 1))
    first, again, other = (
        swap_test(observed, observed[:, ::-1], _difference, seed=seed, draws=99)[0] for seed in (0, 0, 1)
    )
    assert first.p == 0.01
    assert first == again
    assert first.null_mean != other.null_mean


def test_units_that_do_not_change_say_nothing():
    observed = np.ones((20, 2))
    assert swap_test(observed, observed, _difference, seed=0, draws=99)[0].p == 1.0


def test_an_undefined_statistic_has_no_p_value():
    columns = np.zeros((5, 2))
    [test] = swap_test(columns, columns, _ratio, seed=0)
    assert math.isnan(test.p)
    assert math.isnan(test.null_mean)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"swapped": np.ones((3, 2))}, r"observed \(4, 2\) and swapped \(3, 2\) must have one shape"),
        ({"observed": np.ones((0, 2)), "swapped": np.ones((0, 2))}, "must have one shape"),
        ({"draws": 0}, "draws must be at least 1"),
        ({"alternative": "less"}, "found less"),
    ],
)
def test_a_swap_test_that_cannot_be_made_is_refused(change, message):
    arguments = {"observed": np.ones((4, 2)), "swapped": np.ones((4, 2)), "draws": 10, "alternative": "greater"}
    arguments |= change
    with pytest.raises(UsageError, match=message):
        swap_test(arguments.pop("observed"), arguments.pop("swapped"), _difference, seed=0, **arguments)


def test_pseudo_values_of_a_mean_are_the_values():
    values = np.array([0.3, -1.0, 2.0, 0.5])
    columns = np.stack([values, np.ones(4)], axis=1)
    np.testing.assert_allclose(pseudo_values(columns, _ratio)[:, 0], values)


def test_pseudo_values_leave_out_what_says_nothing():
    columns = np.array([[0.3, 1.0], [0.0, 0.0], [-1.0, 1.0]])
    np.testing.assert_allclose(pseudo_values(columns, _ratio)[:, 0], [0.3, -1.0])
    assert np.isnan(pseudo_values(columns[:2], _ratio)).all()  # without its only unit there is no ratio


def test_pseudo_values_of_a_ratio_have_its_spread():
    """Their standard error agrees with the delta method."""
    generator = np.random.default_rng(3)
    weight = generator.uniform(1, 3, size=400)
    amount = weight * generator.normal(0.5, 0.2, size=400)
    pseudo = pseudo_values(np.stack([amount, weight], axis=1), _ratio)[:, 0]
    ratio = amount.sum() / weight.sum()
    assert pseudo.mean() == pytest.approx(ratio, abs=1e-3)
    assert pseudo.std(ddof=1) == pytest.approx((amount - ratio * weight).std(ddof=1) / weight.mean(), rel=0.02)


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(0.01, 2))
def test_equivalence_is_a_90_percent_interval_inside_the_margins(values, margin):
    values = np.array(values)
    if values.std() < 1e-3:
        return
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.9)
    if min(abs(low + margin), abs(high - margin)) > 1e-9:
        assert (equivalence(values, margin=margin) < 0.05) == (-margin < low and high < margin)


def test_equivalence_of_values_without_spread_is_certain():
    assert equivalence(np.full(5, 0.1), margin=0.2) == 0.0
    assert equivalence(np.full(5, 0.2), margin=0.2) == 1.0
    assert math.isnan(equivalence(np.array([0.1, np.nan]), margin=0.2))


@pytest.mark.parametrize("margin", [0.0, -0.1, math.nan, math.inf])
def test_a_margin_must_be_a_number_above_0(margin):
    with pytest.raises(UsageError, match="expected a number above 0"):
        equivalence(np.zeros(3), margin=margin)


def test_holm_multiplies_the_smallest_by_all_the_next_by_one_less_and_stays_monotone():
    adjusted = holm([0.01, 0.04, 0.03, math.nan])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, np.nan])
    assert np.isnan(holm([math.nan, math.nan])).all()
    assert holm([]).shape == (0,)


def test_holm_is_that_of_statsmodels():
    for p_values in (np.random.default_rng(0).random(50) ** 4, [0.2, 0.2, 0.01, 0.2], [1.0], [0.0, 1.0, 0.5]):
        np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], atol=1e-15)


def test_holm_refuses_what_is_no_probability():
    with pytest.raises(UsageError, match=r"must lie in \[0, 1\], found 1.2"):
        holm([0.1, 1.2])
