"""Two injections of opposite polarity: the shift between their orders is found, and nothing else is claimed."""

import numpy as np
import pytest

from leakmech.datasets.samples import CONDITIONS, Condition
from leakmech.scoring.leakage import LeakageScores, leakage_statistics
from leakmech.scoring.order import NO_POLARITY, order_statistics, without_polarity


def simulated(*, last, n=60, k=4, seed=0):
    """Answers whose valence is raised by `last` if the positive sentence stands last, lowered if the negative does."""
    generator = np.random.default_rng(seed)
    probabilities: dict[Condition, np.ndarray] = {}
    for condition in CONDITIONS:
        moved = {"positive": last, "negative": -last}.get(condition, 0.0)
        valence = np.clip(generator.normal(scale=0.2, size=(n, k)) + moved, -0.9, 0.9)
        probabilities[condition] = np.stack([(1 - valence) / 2, np.zeros((n, k)), (1 + valence) / 2], axis=-1)
    return LeakageScores(tuple(f"s{i}" for i in range(n)), probabilities)


@pytest.mark.parametrize("last", [0.1, -0.1])
def test_the_shift_is_twice_what_the_last_sentence_does_whichever_way(last):
    found = order_statistics(simulated(last=last), None, seed=0, draws=500)
    assert found["order_shift"] == pytest.approx(2 * last, abs=0.06)  # two standard errors
    low, high = found["order_shift_ci"]
    assert low < 2 * last < high
    assert found["order_shift_p_swap"] < 0.01
    assert found["order_shift_topic_free"] is None


def test_without_an_effect_of_order_the_test_rejects_one_run_in_twenty():
    p = [
        order_statistics(simulated(last=0, n=20, seed=s), None, seed=0, draws=200)["order_shift_p_swap"]
        for s in range(120)
    ]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.06)  # three standard errors
    assert np.mean(p) == pytest.approx(0.5, abs=0.08)


def test_the_mean_by_hand():
    valence = {"positive": [[0.5, 0.1], [0.2, 0.2]], "negative": [[0.1, 0.1], [0.4, 0.2]]}
    given: dict[Condition, np.ndarray] = {c: np.array(valence.get(c, [[0.0, 0.0]] * 2)) for c in CONDITIONS}
    probabilities: dict[Condition, np.ndarray] = {
        c: np.stack([(1 - v) / 2, np.zeros_like(v), (1 + v) / 2], axis=-1) for c, v in given.items()
    }
    scores = LeakageScores(("a", "b"), probabilities)
    # (0.3 - 0.1 + 0.2 - 0.3) / 2
    assert order_statistics(scores, None, seed=0, draws=100)["order_shift"] == pytest.approx(0.05)
    flags: dict[Condition, np.ndarray] = {c: np.zeros((2, 2), bool) for c in CONDITIONS}
    flags["positive"][0, 0] = True
    # without 0.5 the mean of a is 0.1: (0.0 - 0.1) / 2
    assert order_statistics(scores, flags, seed=0, draws=100)["order_shift_topic_free"] == pytest.approx(-0.05)


def test_what_needs_a_polarity_is_null_with_a_reason_and_the_rest_stays():
    found = leakage_statistics(simulated(last=0.1), seed=0, draws=100)
    summary = without_polarity({**found, "paper": {}, "curve": [{"auc_el": 0.6, "topic_rate": 0.1}]})
    assert summary["no_mu_el"] == NO_POLARITY
    assert "paper" not in summary
    assert summary["curve"] == [{"auc_el": None, "topic_rate": 0.1}]
    overall = summary["overall"]
    gone = {name for name, value in overall.items() if value is None and found["overall"][name] is not None}
    assert {"mu_el", "mu_el_ci", "auc_el", "auc_el_swap_null", "contrast", "contrast_p_swap", "w_el"} <= gone
    assert overall["valence_shift"] == found["overall"]["valence_shift"]
    assert summary["conditions"]["positive"]["mu_el"] is None
    assert summary["conditions"]["positive"]["valence"] == found["conditions"]["positive"]["valence"]
