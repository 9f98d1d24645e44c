"""Tilt is the covariance of valence and log-likelihood; what has none is named and left out."""

import numpy as np
import pytest
import torch

from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.tilt import (
    FORMS,
    NO_SPREAD,
    TOO_FEW,
    TiltData,
    affective_tilt,
    shift_statistics,
    text_numbers,
    tilt_statistics,
)

OPTIONS = {"seed": 0, "draws": 500}


def made_up(*, n_samples=12, n_completions=16, slope=None, conditions=CONDITIONS, seed=0):
    """Log-likelihoods that lean on valence: log p(y | x) = log p(y) + slope[x] v(y), 5 tokens each."""
    generator = np.random.default_rng(seed)
    valence = generator.uniform(-1, 1, size=(n_samples, n_completions))
    base = generator.normal(-20, 4, size=(n_samples, n_completions))
    slopes = np.array([(slope or {}).get(condition, 0.0) for condition in conditions])
    return TiltData(
        samples=tuple(f"s{i}" for i in range(n_samples)),
        conditions=conditions,
        text_numbers=np.tile(np.arange(n_completions), (n_samples, 1)),
        n_tokens=np.full((n_samples, n_completions), 5),
        log_p=base[:, None] + slopes[:, None] * valence[:, None],
        valence={"made-up": valence},
        shares_word=np.zeros((n_samples, n_completions), dtype=bool),
    )


def changed(data, **values):
    return TiltData(**{**vars(data), **values})


# -- one prompt ------------------------------------------------------------------------------------------------------


def test_tilt_is_the_covariance_worked_out_by_hand():
    # v - mean: -1, 0, 1; sum of products with log p: 1 * -3 - 1 * -7 = 4; over n - 1 = 2.
    found = affective_tilt(torch.tensor([-7.0, -1.0, -3.0]), torch.tensor([-0.5, 0.5, 1.5]))
    assert found.item() == pytest.approx(2.0)


def test_what_does_not_count_changes_nothing():
    log_p, valence = torch.tensor([-7.0, -1.0, -3.0, -900.0]), torch.tensor([-0.5, 0.5, 1.5, 100.0])
    counted = torch.tensor([True, True, True, False])
    assert affective_tilt(log_p, valence, counted=counted).item() == pytest.approx(2.0)
    assert affective_tilt(log_p, valence, counted=torch.tensor([True, False, False, False])).isnan()


def test_the_gradient_raises_what_is_gladder_than_the_mean():
    log_p = torch.tensor([-7.0, -1.0, -3.0], requires_grad=True)
    affective_tilt(log_p, torch.tensor([-0.5, 0.5, 1.5])).backward()
    assert log_p.grad.tolist() == pytest.approx([-0.5, 0.0, 0.5])


def test_summed_tilt_is_the_first_order_change_of_the_expected_valence():
    generator = torch.Generator().manual_seed(0)
    valence, log_p = (torch.randn(200_000, generator=generator, dtype=torch.float64) for _ in range(2))
    # Samples of the base model are equally likely; a prompt makes them more or less so by a small step.
    step = 1e-3
    weights = torch.softmax(step * (0.5 * valence + log_p), dim=0)
    change = (weights * valence).sum() - valence.mean()
    assert affective_tilt(step * (0.5 * valence + log_p), valence).item() == pytest.approx(change.item(), rel=2e-3)


# -- stems -----------------------------------------------------------------------------------------------------------


def test_a_slope_on_valence_is_found_times_the_variance():
    data = made_up(slope={"positive": 0.8})
    variance = data.valence["made-up"].var(axis=1, ddof=1)
    for form, scale in (("summed", 1), ("per_token", 1 / 5)):
        tilts = data.tilts(form)
        np.testing.assert_allclose(data.shift(tilts, "positive", "negative"), 0.8 * scale * variance)
        np.testing.assert_allclose(data.shift(tilts, "neutral", "control"), 0, atol=1e-12)


def test_a_text_that_was_drawn_twice_counts_twice():
    data = made_up(n_samples=1, n_completions=8)
    twice = {name: np.repeat(getattr(data, name), [2] + [1] * 7, axis=-1) for name in ("text_numbers", "log_p")}
    valence = np.repeat(data.valence["made-up"], [2] + [1] * 7, axis=-1)
    repeated = changed(
        data, **twice, valence={"made-up": valence}, n_tokens=np.full((1, 9), 5), shares_word=np.zeros((1, 9), bool)
    )
    expected = np.cov(valence[0], twice["log_p"][0, 0], ddof=1)[0, 1]
    assert repeated.tilts("summed")[0, 0] == pytest.approx(expected)
    assert repeated.n_distinct(repeated.there).tolist() == [8]


def test_stems_without_tilt_are_named_and_left_out():
    data = made_up(slope={"positive": 1.0, "negative": -1.0})
    numbers, valence = data.text_numbers.copy(), data.valence["made-up"].copy()
    numbers[2] = np.arange(16) % 4  # four different texts
    numbers[5, 4:] = -1  # four completions are there
    valence[7] = 0.25
    poor = changed(data, text_numbers=numbers, valence={"made-up": valence})
    found = tilt_statistics(poor, sampled=np.zeros(12), **OPTIONS)
    assert found["left_out"] == {TOO_FEW: ["s2", "s5"], NO_SPREAD: ["s7"]}
    assert np.isnan(poor.tilts("summed")[[2, 5, 7]]).all()
    for form in FORMS:
        assert (found[form]["n"], found[form]["n_right"]) == (9, 9)


def test_equal_texts_have_one_number():
    assert text_numbers(["a", "b", "a", "c"]) == [0, 1, 0, 2]


# -- samples ---------------------------------------------------------------------------------------------------------


def test_the_swap_null_turns_signs():
    # Of the eight choices of signs of 1, 2, 3 only one reaches the observed effect.
    found = shift_statistics(np.array([1.0, 2.0, 3.0, np.nan]), **OPTIONS)
    assert found["p_swap"] == 1 / 8
    assert found["d_z"] == pytest.approx(2.0)
    assert (found["n"], found["n_right"], found["right_sign"]) == (3, 3, 1.0)
    low, high = found["d_z_swap_null"]
    assert low == pytest.approx(-high)


@pytest.mark.fault("X332", "answers", "both prompts rewritten to one text: every tilt shift is 0", "half, p 1")
def test_no_shift_at_all_is_no_sign_and_no_effect():
    found = shift_statistics(np.zeros(20), **OPTIONS)
    assert (found["right_sign"], found["right_sign_ci"], found["p_swap"]) == (0.5, [0.5, 0.5], 1.0)
    assert (found["n_right"], found["n_tied"]) == (0, 20)
    some = shift_statistics(np.array([*[0.0] * 4, 1.0, 1.0, 1.0, -1.0]), **OPTIONS)
    assert some["right_sign"] == (3 + 2) / 8


def test_a_planted_effect_is_found_and_labels_without_meaning_are_not():
    found = tilt_statistics(
        made_up(n_samples=40, slope={"positive": 0.5, "negative": -0.5}), sampled=np.arange(40.0), **OPTIONS
    )
    assert found["summed"]["right_sign"] == 1.0
    assert found["summed"]["p_swap"] < 0.01
    assert found["summed"]["context_shift"] == pytest.approx(0, abs=1e-12)
    noise = np.random.default_rng(1).normal(size=(40, 4, 16))
    empty = changed(made_up(n_samples=40), log_p=made_up(n_samples=40).log_p + noise)
    nothing = tilt_statistics(empty, sampled=np.arange(40.0), **OPTIONS)["summed"]
    assert nothing["p_swap"] > 0.05
    assert nothing["d_z_swap_null"][0] < nothing["d_z"] < nothing["d_z_swap_null"][1]
    assert nothing["d_z_ci"][0] < 0 < nothing["d_z_ci"][1]


def test_agreement_with_sampled_leakage_is_a_correlation():
    data = made_up(slope={"positive": 1.0})
    shift = data.shift(data.tilts("summed"), "positive", "negative")
    found = tilt_statistics(data, sampled=3 * shift + 1, **OPTIONS)
    assert found["summed"]["sampled_r"] == pytest.approx(1.0)
    without = tilt_statistics(data, sampled=np.full(12, np.nan), **OPTIONS)
    assert without["summed"]["sampled_r"] is None


def test_completions_with_a_word_of_an_injection_can_be_left_out():
    data = made_up(slope={"positive": 0.0})
    copied = np.zeros((12, 16), dtype=bool)
    copied[:, 0] = True
    log_p = data.log_p.copy()
    log_p[:, 1, 0] += 5 * np.sign(data.valence["made-up"][:, 0])  # what copies a word of the positive injection
    found = tilt_statistics(changed(data, log_p=log_p, shares_word=copied), sampled=np.zeros(12), **OPTIONS)
    assert found["summed"]["right_sign"] > 0.8
    assert found["without_shared_words"]["summed"]["shift"] == pytest.approx(0, abs=1e-12)
    assert found["without_shared_words"]["n_dropped"] == 12


def test_fewer_completions_and_other_estimators_stand_beside_on_the_same_stems():
    data = made_up(slope={"positive": 0.5, "negative": -0.5})
    opposite = changed(data, valence={**data.valence, "opposite": -data.valence["made-up"]})
    found = tilt_statistics(opposite, sampled=np.zeros(12), **OPTIONS)
    assert [row["completions"] for row in found["by_completions"]] == [4, 8, 12, 16]
    assert {row["n"] for row in found["by_completions"]} == {12}
    assert found["by_completions"][-1]["summed_d_z"] == found["summed"]["d_z"]
    assert found["by_estimator"]["opposite"]["summed"]["d_z"] == pytest.approx(-found["summed"]["d_z"])
    flat = changed(data, valence={"made-up": data.valence["made-up"], "flat": np.zeros((12, 16))})
    by = tilt_statistics(flat, sampled=np.zeros(12), **OPTIONS)["by_estimator"]["flat"]
    assert len(by["left_out"][NO_SPREAD]) == 12
    assert (by["summed"]["d_z"], by["summed"]["n"]) == (None, 0)


def test_conditions_that_a_run_has_not_are_null():
    data = made_up(conditions=("positive", "negative"), slope={"positive": 0.5})
    found = tilt_statistics(data, sampled=np.zeros(12), **OPTIONS)["per_token"]
    assert found["by_condition"] == {"positive": None, "neutral": None, "negative": None}
    assert found["context_shift"] is None
    assert found["d_z"] > 0
