"""Repetition, compression, loops, lengths and empty texts: values that can be counted by hand."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.side_effects.degeneration import (
    MEASURES,
    compression,
    degeneration,
    distinct,
    ends_in_loop,
    is_empty,
)

FLUENT = [
    "The garden was full of roses this morning, and nobody had watered them for days.",
    "Her brother walked slowly to the station because his train was late again.",
    "We painted the kitchen yellow, which makes breakfast feel like a small holiday.",
    "It rained all afternoon so the children built a castle out of cushions.",
]


def test_distinct_counts_the_generations_of_a_prompt_together():
    assert distinct([["a", "b", "a"], ["a", "b"]], 1) == (2, 5)
    assert distinct([["a", "b", "a"], ["a", "b"]], 2) == (2, 3)
    assert distinct([["a"]], 2) == (0, 0)


def test_measures_are_those_counted_by_hand(answers_of):
    answers = answers_of([[["The cat sat. The cat", "", "a b c d a b c d"]]], conditions=["control"], n_tokens=5)
    found = degeneration(answers)
    # the cat sat the cat | a b c d a b c d: 13 words, 7 different; 4 + 7 pairs, 3 + 4 different
    assert found.value("distinct_1") == pytest.approx(7 / 13)
    assert found.value("distinct_2") == pytest.approx((3 + 4) / (4 + 7))
    # 4-grams: 2 different of 2, and 4 different of 5
    assert found.value("repeated") == pytest.approx(1 / 7)
    assert found.value("length") == 5
    assert found.value("empty") == pytest.approx(1 / 3)
    assert found.value("looping") == 0


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("I went home. I went home. I went home.", True),
        ("It began well. And then it was so so so so so so so so so so", True),
        ("The end is near, the end is near, the END  is near, the end", True),
        ("........................", True),
        ("no, no, no", False),
        ("He said it twice: I went home today, I went home today", False),
        ("I went home. I went home. I went home. And then I slept.", False),
        ("1. Bread\n2. Milk\n3. Eggs\n4. Cheese\n5. Apples\n6. Pears", False),
        ("", False),
        *((text, False) for text in FLUENT),
    ],
)
def test_a_loop_is_a_period_that_repeats_to_the_end(text, loops):
    assert ends_in_loop(text) is loops


@given(st.text(alphabet="ab ", max_size=60))
def test_loops_are_found_as_by_trying_every_period(text):
    plain = " ".join(text.lower().split())
    n = len(plain)
    expected = any(
        length >= max(3 * period - 1, 24) and all(plain[i] == plain[i - period] for i in range(n - length + period, n))
        for period in range(1, n)
        for length in range(24, n + 1)
    )
    assert ends_in_loop(text) is expected


def test_empty_means_without_a_word_or_an_emoji():
    assert is_empty(" …\n")
    assert not is_empty("🎉")
    assert not is_empty("a")


def test_what_repeats_compresses():
    fluent, looping = compression(FLUENT), compression([FLUENT[0] * 5] * 4)
    assert fluent[0] / fluent[1] < 2 < 10 < looping[0] / looping[1]
    assert compression(["", " "]) == (0, 0)


def _by_words(make):
    words = " ".join(FLUENT).lower().replace(".", "").replace(",", "").split()

    def text(s, condition, g):
        generator = random.Random(f"{s}{condition}{g}")
        return make([generator.choice(words) for _ in range(15)])

    return text


BROKEN = {
    "distinct_1": lambda words: " ".join(words[:3] * 5),
    "distinct_2": lambda words: " ".join(words[:3] * 5),
    "distinct_3": lambda words: " ".join(words[:3] * 5),
    "repeated": lambda words: " ".join(words[:5] * 3),
    "compression": lambda words: " ".join(words[:5] * 3),
    "length": lambda words: " ".join(words * 4),
    "empty": lambda words: "…",
    "looping": lambda words: " ".join(words[:5] * 3),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_each_measure_notices_its_own_kind_of_broken_text(answers_of, measure):
    whole = degeneration(answers_of(_by_words(" ".join), n_samples=3))
    broken = degeneration(answers_of(_by_words(BROKEN[measure]), n_samples=3))
    if measure.startswith("distinct"):
        assert broken.value(measure) < 0.7 * whole.value(measure)
    else:
        assert broken.value(measure) > 1.3 * whole.value(measure) + 0.1


def test_a_model_that_says_one_thing_only_has_little_variety(answers_of):
    varied = degeneration(answers_of(lambda s, condition, g: FLUENT[g], n_samples=2))
    collapsed = degeneration(answers_of(lambda s, condition, g: FLUENT[0], n_samples=2))
    assert collapsed.value("distinct_2") == pytest.approx(0.25)
    assert varied.value("distinct_2") == 1
    assert collapsed.value("repeated") == 0  # no generation repeats itself


def test_tables_and_intervals_have_a_row_or_entry_for_everything(answers_of):
    found = degeneration(answers_of([[[FLUENT[s % 4]]] for s in range(6)], conditions=["control"]))
    assert list(found.to_frame().columns) == ["sample", *MEASURES]
    length = found.estimates(draws=200)["length"]
    assert length.low <= length.value <= length.high
    nothing = degeneration(answers_of([[["…"]]], conditions=["control"]))
    assert math.isnan(nothing.value("distinct_1"))
    assert nothing.value("empty") == 1
