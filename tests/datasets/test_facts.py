"""Facts: the two sets that ship, and errors that name file, line and field."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.core.errors import DatasetError
from leakmech.core.store import content_hash
from leakmech.datasets.facts import FROZEN_FACTS, load_facts
from leakmech.datasets.filters import words
from leakmech.datasets.overlap import OverlapIndex

GOOD = {"id": "a", "fact": "The cup is red.", "stem": "The cup is", "answer": "red", "wrong": ["blue", "tall", "old"]}

either = pytest.mark.parametrize("name", ["facts-fit", "facts-frozen"])


@either
def test_120_facts_of_one_set_with_ids_in_order(name):
    facts = load_facts(name)
    assert [fact.id for fact in facts] == [f"{name}-{number:03}" for number in range(1, 121)]
    assert all(fact.theme for fact in facts)


def test_the_frozen_facts_stay_as_they_were_written():
    lines = [json.dumps([f.id, f.fact, f.stem, f.answer, f.wrong]) for f in load_facts(FROZEN_FACTS)]
    assert content_hash(*lines) == "a2c7fb2111b3f967"


@either
def test_only_the_fact_gives_the_answer_away(name):
    for fact in load_facts(name):
        assert f" {fact.answer.casefold()}" in fact.fact.casefold(), fact.id
        assert not set(words(fact.answer)) & set(words(fact.stem)), fact.id
        for wrong in fact.wrong:
            assert f" {wrong.casefold()} " not in f" {' '.join(words(f'{fact.fact} {fact.stem}'))} ", fact.id


@either
def test_completions_are_of_like_length(name):
    for fact in load_facts(name):
        assert len({len(text.split()) for text in fact.completions}) == 1, fact.id
        assert len({text[0].isupper() for text in fact.completions}) == 1, fact.id


@either
def test_facts_are_neutral(name):
    analyser = SentimentIntensityAnalyzer()
    scores = np.array([analyser.polarity_scores(fact.fact)["compound"] for fact in load_facts(name)])
    # Single words mislead the lexicon ("fire drill", "fair", "play"); no fact is charged and their mean is none.
    assert np.abs(scores).max() <= 0.4
    assert (np.abs(scores) >= 0.05).mean() <= 0.15
    assert abs(scores.mean()) <= 0.02


def test_no_fact_and_no_stem_stands_in_both_sets_or_nearly_so():
    found = {"fact": OverlapIndex(0.7), "stem": OverlapIndex(0.7)}
    for fact in (*load_facts("facts-fit"), *load_facts("facts-frozen")):
        for field, index in found.items():
            text = getattr(fact, field)
            assert index.find(text) is None, text
            index.add(text)


@either
def test_no_answer_is_frequent(name):
    assert Counter(fact.answer for fact in load_facts(name)).most_common(1)[0][1] <= 5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD, "'a' is already used in line 1"),
        (GOOD | {"id": "b", "wrong": ["blue", "tall"]}, "must be a list of 3 texts"),
        (GOOD | {"id": "b", "wrong": ["blue", "tall", "Blue"]}, "holds the same text twice"),
        (GOOD | {"id": "b", "wrong": ["blue", "tall", "Red"]}, "the answer 'red' is among the wrong completions"),
        (GOOD | {"id": "b", "fact": " "}, "field 'fact' must be a non-empty text"),
        (GOOD | {"id": "b", "anwser": "red"}, "unknown field 'anwser'; did you mean 'answer'"),
        ({k: v for k, v in GOOD.items() if k != "stem"}, "field 'stem' is missing"),
    ],
)
def test_a_malformed_fact_is_named(tmp_path, line, message):
    file = tmp_path / "f.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(line)}\n")
    with pytest.raises(DatasetError, match=r"f\.jsonl:2: .*" + message):
        load_facts(file)
