"""Cutting sentences to stems that are open."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import ConfigError
from leakmech.datasets.english import word_list
from leakmech.datasets.stems import FUNCTION_WORDS, LINKING_VERBS, StemRules, is_open_end

WORDS = sorted(
    word_list("function_words")
    | word_list("linking_verbs")
    | {"garden", "teacher", "old", "opened", "quickly", "Monday,", '"quiet"', "(new", "end.", "cities"}
)


@pytest.mark.parametrize(
    ("sentence", "stem"),
    [
        ("The battery life is excellent.", "The battery life is"),
        ("My first day as manager was long.", "My first day as manager was"),
        ("Public restrooms are rare in this city.", "Public restrooms are"),
        ("The plan would be costly.", "The plan would be"),
        ("The new service has been slow since May.", "The new service has been"),
    ],
)
def test_a_sentence_is_cut_behind_its_linking_verb(sentence, stem):
    assert StemRules().cut(sentence) == stem


@pytest.mark.parametrize(
    "sentence",
    [
        "The battery life is.",  # nothing was left behind the cut
        "It is cold today.",
        "There was a storm in May.",
        "What you want is a rest.",
        "But the old garden is gone.",
        "The man who was here left.",
        "Is the garden open on Monday?",
        "The old, quiet garden is open.",
        'The "old" garden is open.',
        "The garden I like is open.",
        "All I see is a wall of stone.",
        "The asshole is late again.",
        "A ticket at example.org is cheap.",
        "Nobody knows the way to it.",
    ],
)
def test_what_leaves_no_open_continuation_is_not_cut(sentence):
    assert StemRules().cut(sentence) is None


def test_a_stem_of_the_kind_phrase_ends_in_a_word_of_content_before_a_new_phrase():
    rules = StemRules(end="phrase")
    assert rules.cut("The new office opened in spring.") == "The new office opened"
    assert rules.cut("The teacher with the old car is here.") == "The teacher with the old car"


def test_a_stem_of_helping_verbs_alone_is_no_stem_whatever_length_is_allowed():
    assert StemRules(min_words=1).cut("Is a garden open on Monday?") is None


def test_the_shortest_open_stem_of_the_allowed_length_is_taken():
    sentence = "The garden of the old teacher is open."
    assert StemRules(min_words=3).cut(sentence) == "The garden of the old teacher is"
    assert StemRules(max_words=6).cut(sentence) is None


@given(st.lists(st.sampled_from(WORDS), max_size=14), st.sampled_from(["linking-verb", "phrase"]))
def test_no_stem_ends_in_a_function_word_or_in_punctuation(tokens, end):
    rules = StemRules(end=end)
    stem = rules.cut(" ".join(tokens))
    if stem is None:
        return
    last = stem.split()[-1].lower()
    assert 3 <= len(stem.split()) <= 8
    assert last[-1].isalnum()
    assert not any(mark in stem for mark in '"()“”.,!?')
    assert last in LINKING_VERBS if end == "linking-verb" else last not in FUNCTION_WORDS
    assert len(tokens) > len(stem.split())


def test_determiners_prepositions_and_helping_verbs_are_no_open_ends():
    for word in ("the", "My", "of", "with", "and", "because", "she", "don't", "has", "will"):
        assert not is_open_end(word, linking_verbs=True)
    assert is_open_end("is", linking_verbs=True)
    assert not is_open_end("is")
    assert is_open_end("opened")


def test_unknown_ends_are_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'phrase'"):
        StemRules(end="phrases")  # pyright: ignore[reportArgumentType]
