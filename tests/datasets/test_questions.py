"""Everyday questions: the 100 that ship, and errors that name file, line and field."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets.questions import load_questions

GOOD = {"id": "a", "topic": "food", "question": "Sour?", "choices": ["lemon", "rice", "milk", "bread"], "answer": 0}


def test_the_right_choices_stand_equally_often_at_each_place():
    questions = load_questions()
    assert Counter(question.answer for question in questions) == {0: 25, 1: 25, 2: 25, 3: 25}
    assert max(Counter(question.answer for question in questions[:20]).values()) <= 10


def test_a_hundred_different_questions_of_ten_topics():
    questions = load_questions()
    assert len({question.question.lower() for question in questions}) == 100
    assert set(Counter(question.topic for question in questions).values()) == {10}
    assert len({question.id for question in questions}) == 100


def test_choices_give_nothing_away_by_their_length():
    questions = load_questions()
    for question in questions:
        assert len({len(choice.split()) for choice in question.choices}) == 1, question.id
        lengths = [len(choice) for choice in question.choices]
        assert max(lengths) - min(lengths) <= 5, question.id
    # Taking the longest choice (the mean place among ties) is right about as often as guessing.
    longest = [
        (len(q.choices[q.answer]) == max(map(len, q.choices)))
        / [len(c) for c in q.choices].count(len(max(q.choices, key=len)))
        for q in questions
    ]
    assert 0.15 <= sum(longest) / 100 <= 0.35


def test_a_question_knows_its_right_choice():
    wool = load_questions()[0]
    assert wool.question == "Which animal gives us wool?"
    assert wool.choices[wool.answer] == "sheep"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (GOOD | {"id": "a"}, "field 'id': 'a' is already used in line 1"),
        (GOOD | {"id": "b", "answer": 4}, "field 'answer' must be a whole number from 0 to 3, found 4"),
        (GOOD | {"id": "b", "answer": True}, "field 'answer' must be a whole number from 0 to 3, found True"),
        (GOOD | {"id": "b", "choices": ["a", "b", "c"]}, "field 'choices' must be a list of 4 texts"),
        (GOOD | {"id": "b", "choices": ["a", "b", "c", "A"]}, "field 'choices' holds the same text twice"),
        (GOOD | {"id": "b", "choices": ["a", "b", "c", 4]}, "field 'choices' must be a non-empty text, found 4"),
        (GOOD | {"id": "b", "question": " "}, "field 'question' must be a non-empty text"),
        (GOOD | {"id": "b", "anwser": 1}, "unknown field 'anwser'; did you mean 'answer'"),
        ({k: v for k, v in GOOD.items() if k != "topic"}, "field 'topic' is missing"),
    ],
)
def test_a_malformed_question_is_named(tmp_path, line, message):
    file = tmp_path / "q.jsonl"
    file.write_text(f"{json.dumps(GOOD)}\n{json.dumps(line)}\n")
    with pytest.raises(DatasetError, match=r"q\.jsonl:2: .*" + message):
        load_questions(file)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / "q.jsonl").write_text("")
    with pytest.raises(DatasetError, match=r"q\.jsonl: is empty"):
        load_questions(tmp_path / "q.jsonl")
