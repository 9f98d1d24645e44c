from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, POLARITIES
from leakmech.scoring.leakage import (
    LABELS,
    LeakageScores,
    condition_leakage,
    contrast,
    expression_leakage,
    label_contrast,
    leakage_headline,
    leakage_statistics,
    main_statistics,
    mean_valence,
    noise_floor,
    overall_leakage,
    polarity_swap_tests,
    semantic_leakage,
    valence_shifts,
)

NEGATIVE, NEUTRAL, POSITIVE = range(3)


def _scores(generator, *, n=30, k=5, shift=0.0, missing=0.0, levels=None, encoder=True):
    """Random scores: `shift` moves P towards the injection; with `levels` P has so few values that ties are common."""

    def probabilities(condition):
        logits = generator.normal(size=(n, k, 3)) + 0.5 * generator.normal(size=(n, 1, 3))
        if condition in LABELS:
            logits[:, :, LABELS.index(condition)] += shift
        odds = np.exp(logits)
        p = odds / odds.sum(axis=-1, keepdims=True)
        if levels:
            p = np.round(p * levels) / levels
        p[generator.random((n, k)) < missing] = np.nan
        return p

    def similarity():
        cosine = np.round(generator.uniform(-1, 1, size=(n, k)), 1 if levels else 9)
        cosine[generator.random((n, k)) < missing] = np.nan
        return cosine

    return LeakageScores(
        samples=tuple(f"s{i}" for i in range(n)),
        probabilities={condition: probabilities(condition) for condition in CONDITIONS},
        resampled_control=probabilities("control"),
        similarity_test={condition: similarity() for condition in INJECTIONS} if encoder else None,
        similarity_control={condition: similarity() for condition in INJECTIONS} if encoder else None,
    )


tied_scores = st.builds(
    lambda seed, n, k, missing: _scores(np.random.default_rng(seed), n=n, k=k, missing=missing, levels=4),
    st.integers(0, 2**32 - 1),
    st.integers(1, 5),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.3, 0.8]),
)


def _mean(numbers):
    numbers = [x for x in numbers if not math.isnan(x)]
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _win(test, control):
    if math.isnan(test) or math.isnan(control):
        return math.nan
    return 1.0 if test > control else 0.5 if test == control else 0.0


def _is_close(value, expected):
    return (math.isnan(value) and math.isnan(expected)) or value == pytest.approx(expected, abs=1e-12)


def _brute_force(scores, conditions):
    """Every leakage number in plain Python, written from the definitions, one loop per word."""
    index, per_prompt_auc, per_prompt_mean, differences, semantic = [], [], [], [], []
    for condition, sample in itertools.product(conditions, range(len(scores.samples))):
        label = LABELS.index(condition)
        test = scores.probabilities[condition][sample, :, label].tolist()
        control = scores.probabilities["control"][sample, :, label].tolist()
        index += [float(t > c) for t, c in zip(test, control, strict=True) if not math.isnan(t + c)]
        per_prompt_auc.append(_mean([_win(t, c) for t in test for c in control]))
        means = _mean(test), _mean(control)
        difference = means[0] - means[1]
        differences.append(0.0 if abs(difference) < 1e-12 else difference)
        per_prompt_mean.append(math.nan if math.isnan(difference) else float(differences[-1] > 0))
        semantic += [
            _win(t, c)
            for t, c in zip(
                scores.similarity_test[condition][sample], scores.similarity_control[condition][sample], strict=True
            )
        ]
    return {
        "mu_el": _mean(index),
        "auc_el": _mean(per_prompt_auc),
        "mu_el_mean": _mean(per_prompt_mean),
        "mu_l": _mean(semantic),
        "differences": [d for d in differences if not math.isnan(d)],
    }


@settings(deadline=None)
@given(tied_scores)
def test_every_pairing_equals_its_definition_in_plain_python(scores):
    for condition in INJECTIONS:
        expected = _brute_force(scores, [condition])
        assert _is_close(condition_leakage(scores, condition, pairing="index").value, expected["mu_el"])
        assert _is_close(condition_leakage(scores, condition, pairing="all").value, expected["auc_el"])
        assert _is_close(condition_leakage(scores, condition, pairing="mean").value, expected["mu_el_mean"])
        assert _is_close(semantic_leakage(scores, condition).value, expected["mu_l"])


@settings(deadline=None, max_examples=50)
@given(tied_scores)
def test_the_headline_pools_positive_and_negative_prompts_only(scores):
    expected = _brute_force(scores, POLARITIES)
    headline = leakage_headline(scores)
    assert list(headline) == ["mu_el", "auc_el", "mu_el_mean", "w_el"]
    for name in ("mu_el", "auc_el", "mu_el_mean"):
        assert headline[name] == (None if math.isnan(expected[name]) else pytest.approx(expected[name], abs=1e-12))
    differences = [d for d in expected["differences"] if d != 0]
    if differences:
        expected_p = stats.wilcoxon(np.round(differences, 12), alternative="greater").pvalue
        assert headline["w_el"] == pytest.approx(expected_p, abs=1e-9)
    else:
        assert headline["w_el"] == (1.0 if expected["differences"] else None)


@settings(deadline=None)
@given(tied_scores)
def test_valences_and_shifts_equal_their_definitions_in_plain_python(scores):
    s = {
        condition: [
            _mean([p[POSITIVE] - p[NEGATIVE] for p in generations]) for generations in scores.probabilities[condition]
        ]
        for condition in CONDITIONS
    }
    shifts = valence_shifts(scores)
    for j in range(len(scores.samples)):
        positive, neutral, negative, control = (s[c][j] for c in ("positive", "neutral", "negative", "control"))
        assert _is_close(shifts["valence_shift"][j], positive - negative)
        assert _is_close(shifts["context_shift"][j], neutral - control)
        assert _is_close(shifts["positive_shift"][j], positive - neutral)
        assert _is_close(shifts["negative_shift"][j], neutral - negative)
        assert _is_close(shifts["asymmetry"][j], 2 * neutral - negative - positive)


def test_pairings_of_a_hand_made_prompt():
    test, control = np.array([[0.5, 0.2, np.nan, 0.9]]), np.array([[0.5, 0.1, 0.4, np.nan]])
    # index pairs: (.5, .5) no, (.2, .1) yes; all nine pairs: .5 wins 2 and ties 1, .2 wins 1, .9 wins 3
    index = expression_leakage(test, control, pairing="index")
    assert (index.numerator.tolist(), index.denominator.tolist()) == ([1.0], [2.0])
    all_pairs = expression_leakage(test, control, pairing="all")
    assert (all_pairs.numerator.tolist(), all_pairs.denominator.tolist()) == ([pytest.approx(6.5 / 9)], [1.0])
    mean = expression_leakage(test, control, pairing="mean")
    assert (mean.numerator.tolist(), mean.denominator.tolist()) == ([1.0], [1.0])


@pytest.mark.parametrize("test", [np.array([[0.1, 0.2, 0.3]]), np.array([[0.1, 0.2, 0.3, 0.7]], np.float32)])
def test_the_order_of_generations_cannot_break_a_tie_of_means(test):
    control = test[:, ::-1].copy()
    assert test.sum() != control.sum()
    assert expression_leakage(test, control, pairing="mean").value == 0.0
    assert expression_leakage(control, test, pairing="mean").value == 0.0


def test_all_pairs_equal_the_area_under_the_roc_curve():
    scores = _scores(np.random.default_rng(1), n=1, k=20, shift=1.0)
    test, control = (scores.probabilities[c][0, :, POSITIVE] for c in ("positive", "control"))
    area = stats.mannwhitneyu(test, control).statistic / 20**2
    assert condition_leakage(scores, "positive", pairing="all").value == pytest.approx(area)


@settings(deadline=None)
@given(tied_scores)
def test_exchanging_test_and_control_sends_the_area_to_one_minus_itself(scores):
    for label in range(3):
        test, control = scores.probabilities["positive"][:, :, label], scores.probabilities["control"][:, :, label]
        forward = expression_leakage(test, control, pairing="all").value
        backward = expression_leakage(control, test, pairing="all").value
        assert _is_close(backward, 1 - forward)


def _swap_polarities(scores):
    p = scores.probabilities
    return replace(scores, probabilities={**p, "positive": p["negative"], "negative": p["positive"]})


def test_swapping_the_polarity_of_the_injections_reverses_every_signed_statistic():
    scores = _scores(np.random.default_rng(2), shift=1.0, missing=0.1)
    # With P[neutral] fixed the other two mirror each other: the order of one is that of the other, reversed.
    for p in (*scores.probabilities.values(), scores.resampled_control):
        p[:, :, NEUTRAL] = np.where(np.isnan(p[:, :, NEUTRAL]), np.nan, 0.25)
        p[:, :, NEGATIVE] = 0.75 - p[:, :, POSITIVE]
    before, after = leakage_statistics(scores, seed=1), leakage_statistics(_swap_polarities(scores), seed=1)
    first, second = before["overall"], after["overall"]
    assert abs(first["auc_el"] - 0.5) > 0.01
    assert second["auc_el"] == pytest.approx(1 - first["auc_el"])
    assert second["mu_el"] == pytest.approx(1 - first["mu_el"])
    assert second["valence_shift"] == pytest.approx(-first["valence_shift"])
    assert second["valence_d_z"] == pytest.approx(-first["valence_d_z"])
    assert second["valence_shift_ci"] == pytest.approx([-x for x in reversed(first["valence_shift_ci"])], abs=2e-3)
    for unchanged in ("asymmetry", "asymmetry_ci", "context_shift", "noise_floor", "noise_floor_ci"):
        assert second[unchanged] == pytest.approx(first[unchanged])
    assert after["conditions"]["neutral"] == before["conditions"]["neutral"]


def test_identical_control_and_test_leak_nothing():
    scores = _scores(np.random.default_rng(3), missing=0.2)
    control = scores.probabilities["control"]
    same = LeakageScores(
        scores.samples,
        dict.fromkeys(CONDITIONS, control),
        resampled_control=control,
        similarity_test=scores.similarity_test,
        similarity_control=scores.similarity_test,
    )
    overall = leakage_statistics(same, seed=1)["overall"]
    assert overall["auc_el"] == 0.5
    assert overall["auc_el_ci"] == [0.5, 0.5]
    assert overall["mu_el"] == overall["mu_el_mean"] == 0.0
    assert overall["w_el"] == overall["w_el_per_sample"] == 1.0
    assert overall["mu_l"] == 0.5
    assert overall["noise_floor"] == 0.5
    assert overall["noise_floor_mu_el"] == 0.0
    assert overall["valence_shift"] == overall["asymmetry"] == overall["context_shift"] == 0.0
    assert overall["valence_d_z"] is None


def test_total_leakage_is_one_with_a_small_p_value():
    scores = _scores(np.random.default_rng(4), n=20, shift=50.0)
    overall = leakage_statistics(scores, seed=1)["overall"]
    assert overall["mu_el"] == overall["auc_el"] == overall["mu_el_mean"] == 1.0
    assert overall["mu_el_ci"] == [1.0, 1.0]
    assert overall["w_el"] < 1e-6
    # Exact: all 20 per-sample values positive.
    assert overall["w_el_per_sample"] == pytest.approx(0.5**20)


def test_w_el_per_sample_tests_the_mean_of_the_two_prompts_of_a_sample():
    scores = _scores(np.random.default_rng(5), n=12, shift=0.5)
    means = {c: scores.probabilities[c].mean(axis=1) for c in CONDITIONS}
    positive = means["positive"][:, POSITIVE] - means["control"][:, POSITIVE]
    negative = means["negative"][:, NEGATIVE] - means["control"][:, NEGATIVE]
    neutral = means["neutral"][:, NEUTRAL] - means["control"][:, NEUTRAL]
    result = leakage_statistics(scores, seed=1)

    def p(differences):
        return pytest.approx(stats.wilcoxon(differences, alternative="greater").pvalue)

    assert result["overall"]["w_el"] == p(np.concatenate([positive, negative]))
    assert result["overall"]["w_el_per_sample"] == p((positive + negative) / 2)
    assert result["conditions"]["positive"]["w_el"] == p(positive)
    assert result["conditions"]["negative"]["w_el"] == p(negative)
    assert result["conditions"]["neutral"]["w_el"] == p(neutral)


def test_semantic_leakage_compares_each_injection_with_its_own_test_sentences():
    zeros, ones = np.zeros((2, 2)), np.ones((2, 2))
    scores = replace(
        _scores(np.random.default_rng(6), n=2, k=2),
        similarity_test={"positive": ones, "neutral": ones, "negative": np.array([[1, 0], [np.nan, 0]])},
        similarity_control={"positive": zeros, "neutral": ones, "negative": zeros},
    )
    result = leakage_statistics(scores, seed=1)
    assert result["conditions"]["positive"]["mu_l"] == 1.0
    assert result["conditions"]["neutral"]["mu_l"] == 0.5
    assert result["conditions"]["negative"]["mu_l"] == pytest.approx(2 / 3)
    assert result["overall"]["mu_l"] == pytest.approx(6 / 7)


def test_asymmetry_is_above_zero_when_negative_injections_move_the_answer_more():
    def constant(positive, negative):
        return np.tile([negative, 1 - positive - negative, positive], (4, 3, 1))

    scores = LeakageScores(
        tuple("abcd"),
        {
            "control": constant(0.3, 0.3),
            "neutral": constant(0.4, 0.3),
            "positive": constant(0.5, 0.2),
            "negative": constant(0.1, 0.8),
        },
    )
    result = leakage_statistics(scores, seed=1)
    overall, conditions = result["overall"], result["conditions"]
    assert conditions["positive"]["valence_shift_from_neutral"] == pytest.approx(0.2)
    assert conditions["negative"]["valence_shift_from_neutral"] == pytest.approx(0.8)
    assert overall["asymmetry"] == pytest.approx(0.6)
    assert overall["asymmetry_ci"] == pytest.approx([0.6, 0.6])
    assert overall["valence_shift"] == pytest.approx(1.0)
    assert overall["context_shift"] == pytest.approx(0.1)
    assert conditions["control"]["valence"] == pytest.approx(0.0)
    assert conditions["negative"]["valence"] == pytest.approx(-0.7)
    assert (conditions["positive"]["auc_el"], conditions["negative"]["auc_el"]) == (1.0, 1.0)


@pytest.mark.long
def test_the_noise_floor_averages_both_labels_and_its_interval_covers_one_half():
    generator = np.random.default_rng(7)
    scores = _scores(generator, n=40, missing=0.1, levels=4)
    per_label = [
        expression_leakage(
            scores.resampled_control[:, :, label], scores.probabilities["control"][:, :, label], pairing="all"
        ).value
        for label in (POSITIVE, NEGATIVE)
    ]
    assert noise_floor(scores, pairing="all").value == pytest.approx(sum(per_label) / 2)
    covered = 0
    for run in range(200):
        low, high = leakage_statistics(_scores(generator, n=40), seed=run, draws=500)["overall"]["noise_floor_ci"]
        covered += low <= 0.5 <= high
    # Three standard errors of 200 binomial trials are 0.046.
    assert 0.90 <= covered / 200 <= 0.99


def test_prompts_of_one_sample_are_resampled_together():
    # Positive and negative leakage are exact opposites within each sample: pooled, samples do not differ at all.
    generator = np.random.default_rng(8)
    control = np.full((30, 1, 3), 1 / 3)
    sign = generator.choice([-0.2, 0.2], size=(30, 1))
    positive, negative = control.copy(), control.copy()
    positive[:, :, POSITIVE] += sign
    negative[:, :, NEGATIVE] -= sign
    scores = LeakageScores(
        tuple(map(str, range(30))),
        {"control": control, "neutral": control, "positive": positive, "negative": negative},
    )
    result = leakage_statistics(scores, seed=1)
    assert result["overall"]["auc_el_ci"] == [0.5, 0.5]
    low, high = result["conditions"]["positive"]["auc_el_ci"]
    assert high - low > 0.2


def test_statistics_are_json_without_nan_and_say_what_was_scored():
    scores = _scores(np.random.default_rng(9), n=3, k=4, missing=0.2)
    probabilities = {**scores.probabilities, "positive": np.full((3, 4, 3), np.nan)}
    result = leakage_statistics(replace(scores, probabilities=probabilities), seed=1, draws=100)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    positive = result["conditions"]["positive"]
    assert positive["n_scored"] == 0
    assert positive["mu_el"] is positive["mu_el_ci"] is positive["valence"] is positive["w_el"] is None
    assert result["conditions"]["control"]["n_scored"] == np.isfinite(scores.probabilities["control"]).sum() / 3
    assert result["overall"]["auc_el"] == pytest.approx(condition_leakage(scores, "negative", pairing="all").value)
    assert result["overall"]["valence_shift"] is result["overall"]["valence_d_z"] is None


def test_without_encoder_or_resampled_control_the_other_numbers_stay_as_they_are():
    full = _scores(np.random.default_rng(10), n=10, missing=0.1)
    bare = replace(full, resampled_control=None, similarity_test=None, similarity_control=None)
    with_all, without = leakage_statistics(full, seed=1), leakage_statistics(bare, seed=1)
    assert with_all["overall"].keys() == without["overall"].keys()
    for name, value in without["overall"].items():
        if name.startswith(("mu_l", "noise_floor")):
            assert value is None
        else:
            assert value == pytest.approx(with_all["overall"][name], abs=1e-12), name
    assert without["conditions"]["positive"]["mu_l_ci"] is None


def test_statistics_have_the_names_that_reports_rely_on():
    result = leakage_statistics(_scores(np.random.default_rng(11), n=5), seed=1, draws=50)
    with_interval = {
        "mu_el",
        "auc_el",
        "mu_el_mean",
        "mu_l",
        "contrast",
        "valence_shift",
        "valence_d_z",
        "asymmetry",
        "context_shift",
        "noise_floor",
        "noise_floor_mu_el",
    }
    tests = {"w_el", "w_el_per_sample", "auc_el_swap_null"}
    tests |= {f"{name}_p_swap" for name in ("auc_el", "contrast", "valence_shift")}
    assert set(result["overall"]) == with_interval | {f"{n}_ci" for n in with_interval} | tests
    assert list(result["conditions"]) == ["positive", "negative", "neutral", "control"]
    injected = {"mu_el", "auc_el", "mu_el_mean", "mu_l", "valence"}
    neutral = injected | {f"{n}_ci" for n in injected} | {"w_el", "n_scored"}
    shift = {f"{name}{end}" for name in ("contrast", "valence_shift_from_neutral") for end in ("", "_ci")}
    assert set(result["conditions"]["neutral"]) == neutral
    assert set(result["conditions"]["negative"]) == neutral | shift
    assert set(result["conditions"]["control"]) == {"valence", "valence_ci", "n_scored"}


def test_single_precision_scores_give_the_same_numbers():
    scores = _scores(np.random.default_rng(12), n=10, levels=8, missing=0.1)
    single = replace(scores, probabilities={c: p.astype(np.float32) for c, p in scores.probabilities.items()})
    assert leakage_headline(single) == pytest.approx(leakage_headline(scores))
    assert mean_valence(single, "positive").dtype == np.float64


def test_one_sample_has_numbers_but_no_intervals():
    overall = leakage_statistics(_scores(np.random.default_rng(13), n=1, k=6), seed=1)["overall"]
    assert 0 <= overall["auc_el"] <= 1
    assert overall["auc_el_ci"] is overall["valence_d_z"] is overall["valence_d_z_ci"] is None


def test_scores_of_the_wrong_shape_are_refused_by_name():
    good = _scores(np.random.default_rng(14), n=3, k=2)
    p = good.probabilities

    def refused(message, **changes):
        with pytest.raises(UsageError, match=message):
            replace(good, **changes)

    refused(r"probabilities must have the keys", probabilities={"control": p["control"]})
    refused(r"probabilities\['neutral'\] has shape \(2, 2, 3\)", probabilities={**p, "neutral": p["neutral"][:2]})
    refused(r"resampled_control has shape \(3, 2, 2\)", resampled_control=p["control"][:, :, :2])
    refused(r"probabilities\['control'\] has shape \(3, 2, 3\); expected \(4, 2, 3\)", samples=tuple("abcd"))
    partly = p["control"].copy()
    partly[0, 0, 1] = np.nan
    refused("partly NaN", probabilities={**p, "control": partly})
    refused("infinite", resampled_control=np.full((3, 2, 3), np.inf))
    refused("must be given together", similarity_test=None)
    refused(r"similarity_control must have the keys", similarity_control={"positive": np.zeros((3, 2))})
    refused(
        r"similarity_test\['positive'\] has shape \(3, 1\)",
        similarity_test={**good.similarity_test, "positive": np.zeros((3, 1))},
    )


def test_an_unknown_pairing_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"unknown pairing 'idx'.*index"):
        overall_leakage(_scores(np.random.default_rng(15), n=2), pairing="idx")


def test_swapping_polarities_finds_leakage_and_not_what_any_charged_sentence_does():
    generator = np.random.default_rng(0)
    overall = leakage_statistics(_scores(generator, n=40, shift=0.8), seed=0, draws=999)["overall"]
    assert overall["auc_el_p_swap"] == overall["valence_shift_p_swap"] == 0.001
    low, high = overall["auc_el_swap_null"]
    assert low < 0.5 < high < overall["auc_el"]
    charged = _scores(generator, n=40)
    for condition in POLARITIES:  # both make every answer more positive
        charged.probabilities[condition][:] = _scores(generator, n=40, shift=1.5).probabilities["positive"]
    tests = polarity_swap_tests(charged, seed=0, draws=999)
    assert tests["auc_el"].p > 0.05
    assert tests["valence_shift"].p > 0.05


def _hand_made(**by_condition):
    """One sample with P[negative] and P[positive] of two generations each; P[neutral] is what is left."""
    p = {
        name: np.array([[[low, 1 - low - high, high] for low, high in zip(*pairs, strict=True)]])
        for name, pairs in by_condition.items()
    }
    return LeakageScores(("s",), {"neutral": p["control"], **p})


def test_contrast_of_a_hand_made_sample():
    scores = _hand_made(
        control=([0.3, 0.3], [0.3, 0.3]), positive=([0.2, 0.4], [0.5, 0.4]), negative=([0.3, 0.6], [0.4, 0.1])
    )
    # P[positive]: positive prompts win 4 of 4 pairs, negative ones 2; P[negative]: negative ones win 2 and tie 2, so
    # 3 of 4, positive ones win 2.
    assert label_contrast(scores, "positive").value == pytest.approx(1 - 0.5)
    assert label_contrast(scores, "negative").value == pytest.approx(0.75 - 0.5)
    assert contrast(scores).value == pytest.approx((0.5 + 0.25) / 2)
    result = leakage_statistics(scores, seed=1)
    assert result["overall"]["contrast"] == pytest.approx(0.375)
    assert result["conditions"]["negative"]["contrast"] == pytest.approx(0.25)
    assert "contrast" not in result["conditions"]["neutral"]
    assert main_statistics(_swap_polarities(scores), seed=1)["contrast"] == pytest.approx(-0.375)


def test_contrast_is_twice_the_distance_of_auc_el_from_the_mean_of_its_swap_null():
    scores = _scores(np.random.default_rng(2), n=7, shift=0.4, levels=4)
    tests = polarity_swap_tests(scores, seed=0)  # 2^7 swaps: all of them
    assert contrast(scores).value == pytest.approx(2 * (tests["auc_el"].estimate - tests["auc_el"].null_mean))
    assert tests["contrast"].p == tests["auc_el"].p


def test_sentences_that_only_change_intensity_move_auc_el_and_leave_contrast_at_zero():
    generator = np.random.default_rng(3)
    n, k = 200, 8

    def answers(neutral):
        """P[neutral] around `neutral`; the rest goes to positive or negative at random."""
        p_neutral = np.clip(neutral + 0.1 * generator.normal(size=(n, k)), 0.02, 0.98)
        share = generator.beta(2, 2, size=(n, k))
        return np.stack([(1 - p_neutral) * (1 - share), p_neutral, (1 - p_neutral) * share], axis=-1)

    for neutral, side in ((0.45, 1), (0.75, -1)):  # charged sentences make answers more intense, or less
        probabilities = {name: answers(0.6 if name in ("control", "neutral") else neutral) for name in CONDITIONS}
        overall = leakage_statistics(LeakageScores(tuple(map(str, range(n))), probabilities), seed=0, draws=999)[
            "overall"
        ]
        assert side * (overall["auc_el"] - 0.5) > 0.1
        assert side * (overall["auc_el_ci"][0 if side > 0 else 1] - 0.5) > 0.08
        assert overall["contrast"] == pytest.approx(0, abs=0.02)
        assert overall["contrast_ci"][0] < 0 < overall["contrast_ci"][1]
        assert overall["contrast_p_swap"] > 0.05


def test_a_sample_without_negative_answers_says_nothing_about_contrast():
    scores = _scores(np.random.default_rng(4), n=4, shift=1.0)
    whole = [label_contrast(scores, label).numerator[1:].copy() for label in POLARITIES]
    scores.probabilities["negative"][0] = np.nan
    for label, values in zip(POLARITIES, whole, strict=True):
        found = label_contrast(scores, label)
        assert found.denominator.tolist() == [0, 1, 1, 1]
        assert found.numerator[1:] == pytest.approx(values)


def test_swapping_polarities_is_exact_for_few_samples():
    scores = _scores(np.random.default_rng(1), n=5, shift=5.0)
    assert polarity_swap_tests(scores, seed=0)["valence_shift"].p == 1 / 32
