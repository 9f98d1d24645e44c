"""Verdicts on side effects, and the margins behind them."""

import numpy as np
import pytest

from leakmech.core.errors import ConfigError
from leakmech.side_effects.equivalence import Margins, side_effect


def judged(values, *, base=1.0, scale="difference", harm="up", margin=0.1):
    before = np.stack([np.full(len(values), base), np.ones(len(values))], axis=1)
    after = np.stack([base + np.asarray(values), np.ones(len(values))], axis=1)
    return side_effect("m", before, after, scale=scale, harm=harm, margin=margin, alpha=0.05, seed=0, draws=500)


def noise(mean, *, spread=0.05, n=30):
    values = np.random.default_rng(0).normal(size=n)
    return mean + spread * (values - values.mean()) / values.std()


@pytest.mark.parametrize(
    ("mean", "spread", "harm", "verdict"),
    [
        (0.0, 0.05, "up", "equivalent"),
        (0.05, 0.02, "up", "equivalent"),  # there, but within the margin
        (0.3, 0.05, "up", "worse"),
        (-0.3, 0.05, "up", "better"),
        (-0.3, 0.05, "down", "worse"),
        (0.3, 0.05, "down", "better"),
        (0.3, 0.05, "either", "worse"),
        (-0.3, 0.05, "either", "worse"),
        (0.05, 1.0, "up", "inconclusive"),
    ],
)
def test_verdicts(mean, spread, harm, verdict):
    found = judged(noise(mean, spread=spread), harm=harm)
    assert found.verdict == verdict
    assert found.effect == pytest.approx(mean)
    assert found.low < found.effect < found.high


def test_the_tests_are_t_tests_on_paired_differences():
    from scipy import stats

    values = noise(0.07, spread=0.1)
    found = judged(values)
    assert found.p_equivalence == pytest.approx(stats.ttest_1samp(values, 0.1, alternative="less").pvalue)
    assert found.p_harm == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue)


def test_ratios_are_tested_on_the_log_scale():
    found = judged(noise(0.5, spread=0.01), base=2.0, scale="ratio", margin=1.3)
    assert found.effect == pytest.approx(1.25)
    assert (found.base, found.changed) == pytest.approx((2, 2.5))
    assert found.verdict == "equivalent"
    assert judged(noise(0.5, spread=0.01), base=2.0, scale="ratio", margin=1.2).verdict == "worse"


def test_perplexities_are_shown_as_such():
    found = judged(noise(0.1, spread=0.01), base=2.0, scale="perplexity", margin=1.2)
    assert found.effect == pytest.approx(np.exp(0.1))
    assert found.base == pytest.approx(np.exp(2))
    assert found.scale == "ratio"


def test_values_without_spread_are_certain():
    assert judged(np.zeros(5)).verdict == "equivalent"
    assert judged(np.zeros(5)).p_harm == 1
    assert judged(np.full(5, 0.2)).verdict == "worse"
    assert judged(np.full(5, -0.2)).verdict == "better"


def test_one_unit_or_none_that_says_anything_decides_nothing():
    assert judged([0.0]).verdict == "inconclusive"
    silent = np.zeros((4, 2))
    found = side_effect("m", silent, silent, scale="ratio", harm="up", margin=1.1, alpha=0.05, seed=0, draws=100)
    assert (found.verdict, found.effect, found.p_equivalence) == ("inconclusive", None, None)


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ({"perplexity": 1.0}, "perplexity must be a number above 1, found 1.0"),
        ({"kl": 0.0}, "kl must be a number above 0"),
        ({"length": float("nan")}, "length must be a number above 1"),
        ({"alpha": 1.0}, r"alpha must be inside \(0, 1\)"),
    ],
)
def test_margins_are_checked(margins, message):
    with pytest.raises(ConfigError, match=message):
        Margins(**margins)
