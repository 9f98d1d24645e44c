"""Fluency: 1 for the base model itself, bounded, falling in each part, and the stated product."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import Sample
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation
from leakmech.prompts.render import Renderer
from leakmech.side_effects.fluency import N_COLUMNS, answer_quality, fluency, fluency_of_sums

# nats, tokens, filled, answers, then different n-grams and n-grams for n = 1, 2, 3
BASE = np.array([200.0, 100, 20, 20, 60, 80, 50, 60, 38, 40])


def parts(changed, base=BASE):
    return fluency_of_sums(np.hstack([base, changed])[None])[0]


def test_the_base_models_own_answers_have_fluency_one():
    np.testing.assert_allclose(parts(BASE), 1, rtol=0, atol=1e-15)


def test_each_part_is_the_stated_formula():
    slower = BASE.copy()
    slower[0] = 250  # 2.5 instead of 2 nats a token
    np.testing.assert_allclose(parts(slower), [np.exp(-0.5), np.exp(-0.5), 1, 1])
    dull = BASE.copy()
    dull[4::2] /= 2
    np.testing.assert_allclose(parts(dull), [0.5, 1, 0.5, 1])
    longer, shorter = BASE.copy(), BASE.copy()
    longer[:2] *= 2
    shorter[:2] /= 2
    np.testing.assert_allclose(parts(longer), [0.5, 1, 1, 0.5])
    np.testing.assert_allclose(parts(shorter), [0.5, 1, 1, 0.5])
    empty = BASE.copy()
    empty[[0, 1, 2]] *= 0.75  # the same answers where there are any
    np.testing.assert_allclose(parts(empty), [0.75, 1, 1, 0.75])
    both = BASE.copy()
    both[0], both[4::2] = 250, BASE[4::2] / 2
    assert parts(both)[0] == pytest.approx(0.5 * np.exp(-0.5))


def test_being_better_than_the_base_model_is_not_rewarded():
    better = BASE.copy()
    better[0], better[4::2] = 150, BASE[5::2]
    np.testing.assert_allclose(parts(better), 1)


def test_what_lies_between_answers_with_and_without_the_injection_costs_nothing():
    free = BASE.copy()
    free[:2] /= 2  # half as long, at the same nats a token
    free[4::2] *= 1.1
    for tokens, fluent in ((100, 1), (75, 1), (50, 1), (40, 0.8), (125, 0.8)):
        changed = BASE.copy()
        changed[:2] *= tokens / 100
        found = fluency_of_sums(np.hstack([BASE, changed, free])[None])[0]
        np.testing.assert_allclose(found, [fluent, 1, 1, fluent])
    np.testing.assert_allclose(fluency_of_sums(np.hstack([BASE, free, free])[None])[0], 1)
    dull = BASE.copy()
    dull[4::2] *= 0.8
    assert fluency_of_sums(np.hstack([BASE, BASE, dull])[None])[0][2] == 1
    np.testing.assert_allclose(fluency_of_sums(np.hstack([BASE, dull, free])[None])[0][2], 0.8)
    silent = np.array([0, 0, 0, 20, 0, 0, 0, 0, 0, 0.0])  # a range of one end, and answers may be empty as well
    np.testing.assert_allclose(fluency_of_sums(np.hstack([BASE, free, silent])[None])[0][3], 0.5)


@pytest.mark.parametrize(
    ("column", "values"),
    [(0, [200, 210, 300, 900, 1e6]), (4, [60, 50, 20, 1, 0]), (2, [20, 15, 4, 1]), (1, [100, 120, 250, 1000])],
)
def test_fluency_is_bounded_and_falls_with_every_part(column, values):
    found = []
    for value in values:
        changed = BASE.copy()
        scale = value / BASE[column]
        if column in (1, 2):  # lengths and empty answers at the same nats a token
            changed[[0, 1] if column == 1 else [0, 1, 2]] *= scale
        else:
            changed[column] = value
        found.append(parts(changed)[0])
    assert found[0] == pytest.approx(1)
    assert all(later < earlier for earlier, later in pairwise(found))
    assert min(found) >= 0


def test_a_model_that_answers_nothing_has_fluency_zero():
    np.testing.assert_array_equal(parts(np.array([0, 0, 0, 20, 0, 0, 0, 0, 0, 0.0])), 0)


@pytest.fixture
def renderer(chat_tokenizer):
    return Renderer(chat_tokenizer)


@pytest.fixture
def controls(renderer):
    sample = Sample(id="", stem="The day was", positive="Joy.", neutral="Fact.", negative="Woe.")
    return {f"s{i}": renderer.prompt(replace(sample, id=f"s{i}", stem=f"Day {i} was"), "control") for i in range(6)}


def fluent(s, condition, g):
    return f"{['calm', 'warm', 'long', 'grey'][g]} and {condition} in town {s}."


def test_answers_are_judged_after_the_control_prompt_of_their_sample(tiny, renderer, controls, answers_of):
    answers = answers_of(fluent, n_samples=2)
    found = answer_quality(tiny, answers, controls=controls, renderer=renderer)
    assert found.columns.shape == (2, N_COLUMNS)
    texts = [text for sample, text in zip(answers.samples, answers.answers, strict=True) if sample == "s1"]
    prompt = tuple(renderer.token_ids(controls["s1"].rendered))
    expected = log_likelihoods(
        tiny,
        [
            Continuation(str(i), "u", prompt, tuple(renderer.tokenizer(t, add_special_tokens=False)["input_ids"]))
            for i, t in enumerate(texts)
        ],
    )
    assert found.columns[1, 0] == pytest.approx(-expected.log_likelihood.sum(), rel=1e-5)
    assert found.columns[1, 1] == expected.n_tokens.sum()
    assert found.columns[1, 1] == sum(map(len, texts))  # one token a byte


def test_a_base_model_and_itself_and_broken_answers(tiny, renderer, controls, answers_of):
    own = answer_quality(tiny, answers_of(fluent, n_samples=6), controls=controls, renderer=renderer)
    same = fluency(own, own, draws=200)
    for part in (same.fluency, same.perplexity, same.repetition, same.length):
        assert (part.value, part.low, part.high) == (1, 1, 1)

    def quality(make):
        return answer_quality(tiny, answers_of(make, n_samples=6), controls=controls, renderer=renderer)

    dull = fluency(own, quality(lambda s, condition, g: "calm calm calm calm calm."), draws=200)
    assert dull.repetition.high < 0.5
    short = fluency(own, quality(lambda s, condition, g: fluent(s, condition, g)[:8]), draws=200)
    assert short.length.high < 0.6
    silent = fluency(own, quality(lambda s, condition, g: fluent(s, condition, g) if g else ""), draws=200)
    assert silent.length.value == pytest.approx(0.75, rel=0.05)
    assert silent.to_frame()["part"].tolist() == ["fluency", "perplexity", "repetition", "length"]


def test_less_probable_answers_have_less_fluency(tiny, renderer, controls, answers_of):
    """Of two answers of one length the base model prefers one: whoever gives the other has lost fluency."""
    first, second = "an open door", "no quiet mice"[:12]
    costs = {}
    for text in (first, second):
        quality = answer_quality(
            tiny, answers_of(lambda s, c, g, t=text: t, n_samples=3), controls=controls, renderer=renderer
        )
        costs[text] = (quality.columns[:, 0].sum(), quality)
    better, worse = sorted(costs.values(), key=lambda entry: entry[0])
    found = fluency(better[1], worse[1], draws=200).perplexity
    assert found.value == pytest.approx(np.exp((better[0] - worse[0]) / (12 * 48)), rel=1e-6)
    assert found.value < 1


def test_different_prompts_and_silent_base_models_are_refused(tiny, renderer, controls, answers_of):
    def quality(make, n):
        return answer_quality(tiny, answers_of(make, n_samples=n), controls=controls, renderer=renderer)

    own = quality(fluent, 2)
    with pytest.raises(UsageError, match="answered different prompts"):
        fluency(own, quality(fluent, 3))
    silent = quality(lambda s, condition, g: "", 2)
    with pytest.raises(UsageError, match="all empty"):
        fluency(silent, own)
    with pytest.raises(UsageError, match="'s0' has no control prompt"):
        answer_quality(tiny, answers_of(fluent, n_samples=1), controls={}, renderer=renderer)
