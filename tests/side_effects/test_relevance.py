"""Relevance of answers to stems and to the base model's answers."""

import numpy as np
import pytest

from leakmech.core.errors import UsageError
from leakmech.side_effects.relevance import relevance

STEMS = {f"s{i}": f"the garden behind house {i} looks" for i in range(5)}


def about_the_stem(s, condition, g):
    return f"the garden behind house {s} looks {['green', 'wild', 'small', 'dry'][g]}"


def test_the_base_model_differs_by_nothing_from_itself(answers_of, encoder):
    base = answers_of(about_the_stem, n_samples=5)
    found = relevance(base, base, stems=STEMS, encoder=encoder)
    for kind in ("to_stem", "to_base"):
        difference = found.difference(kind, draws=200)
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)


def test_values_are_the_mean_cosines(answers_of, encoder):
    base = answers_of([[["a b", "a c"]]], conditions=["control"])
    changed = answers_of([[["a d", "a c"]]], conditions=["control"])
    found = relevance(base, changed, stems={"s0": "a"}, encoder=encoder)
    half = 1 / np.sqrt(2)  # "a" and "a b"
    np.testing.assert_allclose(found.base["to_stem"], [[2 * half, 2]], atol=1e-6)
    # pairs of different generations: b0-b1 and b1-b0 share "a"; c0-b1 shares "a", c1-b0 shares "a"
    np.testing.assert_allclose(found.base["to_base"], [[1.0, 2]], atol=1e-6)
    np.testing.assert_allclose(found.changed["to_base"], [[1.0, 2]], atol=1e-6)
    assert found.to_frame().loc[0, "changed_to_stem"] == pytest.approx(half, abs=1e-6)


def test_answers_about_something_else_are_noticed(answers_of, encoder):
    base = answers_of(about_the_stem, n_samples=5)
    lost = answers_of(lambda s, condition, g: f"stocks fell {s} points {g} in tokyo", n_samples=5)
    found = relevance(base, lost, stems=STEMS, encoder=encoder)
    assert found.difference("to_stem", draws=200).high < -0.5
    assert found.difference("to_base", draws=200).high < -0.5


def test_empty_answers_say_nothing(answers_of, encoder):
    base = answers_of(about_the_stem, n_samples=2)
    half = answers_of(lambda s, c, g: about_the_stem(s, c, g) if g < 2 else "", n_samples=2)
    found = relevance(base, half, stems=STEMS, encoder=encoder)
    assert found.changed["to_stem"][:, 1].tolist() == [8, 8]
    assert found.base["to_stem"][:, 1].tolist() == [16, 16]
    assert found.changed["to_base"][0, 1] == 4 * 2 * 3  # four prompts, two answers, three other generations each


def test_bad_input_is_named(answers_of, encoder):
    base = answers_of(about_the_stem, n_samples=2)
    with pytest.raises(UsageError, match=r"answered different prompts, e\.g\. only one of them 's2/"):
        relevance(base, answers_of(about_the_stem, n_samples=3), stems=STEMS, encoder=encoder)
    with pytest.raises(UsageError, match="'s0' has no stem"):
        relevance(base, base, stems={}, encoder=encoder)
