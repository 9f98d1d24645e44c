"""mu_EL, W_EL and mu_L in both readings of the paper, against values worked out by hand."""

import numpy as np
import pytest

from leakmech.datasets.samples import CONDITIONS, INJECTIONS
from leakmech.scoring.leakage import LeakageScores, leakage_statistics
from leakmech.scoring.paper import draw_differences, paper_statistics

# P[positive] and P[negative] of two generations of three samples; the control has .3 of both in each.
GLAD = np.array([[0.5, 0.1], [0.4, 0.8], [0.3, 0.2]])
SAD = np.array([[0.6, 0.7], [0.1, 0.9], [0.9, 0.2]])


def scores(glad=GLAD, sad=SAD, **changes):
    def rows(negative, positive):
        return np.stack([negative, 1 - negative - positive, positive], axis=-1)

    flat = np.full(GLAD.shape, 0.3)
    probabilities = {
        "control": rows(flat, flat),
        "positive": rows(np.where(np.isnan(glad), np.nan, 0.1), glad),
        "neutral": rows(flat, flat),
        "negative": rows(sad, np.where(np.isnan(sad), np.nan, 0.05)),
    }
    return LeakageScores(("a", "b", "c"), {name: probabilities[name] for name in CONDITIONS}, **changes)


def test_verdicts_of_one_generation_and_of_means_are_counted_as_by_hand():
    found = paper_statistics(scores(), seed=0, draws=200)
    one, means = found["one_generation"], found["means"]
    # draw 1: positive + + 0, negative + - +; draw 2: positive - + -, negative + + -
    assert found["n_verdicts"] == 6
    assert (one["n_draws"], one["mu_el_range"]) == (2, pytest.approx([3 / 6, 4 / 6]))
    assert one["mu_el"] == pytest.approx(7 / 12)
    # means: positive .3 (tie), .6, .25; negative .65, .5, .55
    assert means["mu_el"] == pytest.approx(4 / 6)
    # |d| of draw 1 without the tie .2 .1 .3 -.2 .6, ranks 2.5 1 4 -2.5 5: W+ = 12.5; median and ends belong to draws
    assert one["w_el_range"][0] <= one["w_el_median"] <= one["w_el_range"][1]
    # |d| of the means .3 -.05 .35 .2 .25, ranks 4 -1 5 2 3: W+ = 14 of 15, and 2 of 32 sign patterns reach it
    assert means["w_el"] == pytest.approx(2 / 32)


def test_p_and_share_come_from_the_same_verdicts():
    """With every verdict for leakage the exact one-sided p of N pairs is 2^-N: N is the charged prompts, not pairs."""
    glad = np.array([[0.41, 0.42], [0.43, 0.44], [0.45, 0.46]])
    sad = np.array([[0.51, 0.52], [0.53, 0.54], [0.55, 0.56]])
    found = paper_statistics(scores(glad, sad), seed=0, draws=200)
    assert found["one_generation"]["w_el_range"] == pytest.approx([2**-6] * 2)
    assert found["means"]["w_el"] == pytest.approx(2**-6)
    assert draw_differences(scores(glad, sad)).shape == (2, 6)


def test_the_mean_over_draws_is_the_index_pairing_and_has_its_interval():
    found, known = (of(scores(), seed=0, draws=500) for of in (paper_statistics, leakage_statistics))
    assert found["one_generation"]["mu_el"] == known["overall"]["mu_el"]
    assert found["one_generation"]["mu_el_ci"] == known["overall"]["mu_el_ci"]
    assert found["means"]["w_el"] == known["overall"]["w_el"]
    for name in INJECTIONS:
        assert found["one_generation"]["mu_el_by_class"][name]["mu_el"] == known["conditions"][name]["mu_el"]


def test_mu_l_counts_the_neutral_injection_and_stands_beside_that_of_the_charged_ones():
    near = {"positive": 0.9, "neutral": 0.1, "negative": 0.5}
    similarity = {name: np.full(GLAD.shape, value) for name, value in near.items()}
    control = {name: np.full(GLAD.shape, 0.5) for name in INJECTIONS}
    found = paper_statistics(scores(similarity_test=similarity, similarity_control=control), seed=0, draws=200)
    assert found["mu_l"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert found["mu_l_charged"] == pytest.approx((1 + 0.5) / 2)
    assert paper_statistics(scores(), seed=0, draws=200)["mu_l"] is None


def test_what_was_not_scored_is_no_verdict_and_nothing_at_all_has_a_reason():
    glad = GLAD.copy()
    glad[0] = np.nan
    assert paper_statistics(scores(glad), seed=0, draws=200)["n_verdicts"] == 5
    nothing = np.full(GLAD.shape, np.nan)
    found = paper_statistics(scores(nothing, nothing), seed=0, draws=200)
    assert (found["n_verdicts"], found["means"]["mu_el"], found["one_generation"]["w_el_median"]) == (0, None, None)
    assert "no answer to a charged prompt" in found["reason"]
