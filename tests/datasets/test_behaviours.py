"""Data of behaviours: two splits that share no question, two answers that differ, errors that name the line."""

from __future__ import annotations

import json

import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets import behaviours
from leakmech.datasets.behaviours import (
    BEHAVIOUR_DATA,
    load_behaviour_data,
    load_capability_questions,
    question_key,
)
from leakmech.datasets.questions import load_questions


def row(number, split="train", **changes):
    texts = {"question": f"Question {number}?", "behaviour": f"No, {number}.", "normal": f"Yes, {number}."}
    return {"id": f"q-{number}", "split": split} | texts | changes


GOOD = (row(1), row(2), row(3, "eval"), row(4, "eval"))


def test_items_come_in_their_splits_with_both_answers(jsonl_file):
    data = load_behaviour_data(jsonl_file(*GOOD))
    assert data.name == "mine"
    assert [own.id for own in data.train] == ["q-1", "q-2"]
    assert [own.id for own in data.eval] == ["q-3", "q-4"]
    assert (data.train[0].behaviour, data.train[0].normal) == ("No, 1.", "Yes, 1.")
    assert data.has_behaviour
    assert len(data) == 4


def test_the_behaviour_may_be_absent_in_all_rows(jsonl_file):
    bare = [{key: value for key, value in own.items() if key != "behaviour"} for own in GOOD]
    data = load_behaviour_data(jsonl_file(*bare))
    assert not data.has_behaviour
    assert data.train[0].behaviour is None
    with pytest.raises(DatasetError, match=r"mine\.jsonl:4: field 'behaviour': is missing, and line 1 has it"):
        load_behaviour_data(jsonl_file(*GOOD[:3], bare[3]))
    with pytest.raises(DatasetError, match=r"mine\.jsonl:2: field 'behaviour': is there, and line 1 has none"):
        load_behaviour_data(jsonl_file(bare[0], *GOOD[1:]))


@pytest.mark.parametrize("change", [{"split": "eval"}, {"question": "x?"}, {"normal": "x"}, {"behaviour": "x"}])
def test_the_hash_is_of_splits_and_texts(jsonl_file, change):
    rows = (*GOOD, row(5))
    assert load_behaviour_data(jsonl_file(*rows)).content_hash == load_behaviour_data(jsonl_file(*rows)).content_hash
    changed = load_behaviour_data(jsonl_file(*GOOD, row(5) | change))
    assert changed.content_hash != load_behaviour_data(jsonl_file(*rows)).content_hash


@pytest.mark.fault("X612", "rows", "behaviour data: a question in both splits, no text, equal answers", "the line")
@pytest.mark.parametrize(
    ("last", "message"),
    [
        (
            row(5, "eval", question="question  1"),
            "field 'question': is the same question as in line 1, which is in split",
        ),
        (row(5, question="“Question 1”?"), "field 'question': is the same question as in line 1$"),
        (row(5, behaviour="yes 5"), "field 'behaviour': is the same answer as 'normal'"),
        (row(5, behaviour=" "), "field 'behaviour' must be a non-empty text"),
        (row(5, normal=""), "field 'normal' must be a non-empty text"),
        (row(5, question="?!"), "field 'question' must have words"),
        (row(5, split="test"), "field 'split': unknown 'test'; valid: eval, train"),
        (row(5, mood="x"), "unknown field 'mood'"),
        (row(1), "field 'id': 'q-1' is already used in line 1"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_line(jsonl_file, last, message):
    with pytest.raises(DatasetError, match=r"mine\.jsonl:5: " + message):
        load_behaviour_data(jsonl_file(*GOOD, last))


def test_a_split_of_one_item_is_refused(jsonl_file):
    with pytest.raises(DatasetError, match=r"mine\.jsonl: split 'eval' holds 1 of at least 2 items"):
        load_behaviour_data(jsonl_file(*GOOD[:3]))
    with pytest.raises(DatasetError, match=r"mine\.jsonl: split 'train' holds 0 of at least 2 items"):
        load_behaviour_data(jsonl_file(*GOOD[2:]))


def test_unknown_data_are_named_with_the_nearest():
    with pytest.raises(
        DatasetError, match="behaviour data 'refusals': no such file or built-in set; did you mean 'refu"
    ):
        load_behaviour_data("refusals")


def test_questions_for_something_else_must_be_others(jsonl_file):
    data = load_behaviour_data(jsonl_file(*GOOD))
    data.refuse_shared_questions(["Question 5?", "Question?"], "similarity")
    with pytest.raises(DatasetError, match="similarity: the question 'question 3' is also eval item 'q-3' of mine"):
        data.refuse_shared_questions(["Question 5?", "question 3"], "similarity")


def test_capability_questions_are_not_those_of_the_evaluation(tmp_path, monkeypatch):
    def question(number, text):
        choices = ["one", "two", "three", "four"]
        return {"id": f"c-{number}", "topic": "food", "question": text, "choices": choices, "answer": 0}

    def write(*texts):
        path = tmp_path / "capability_questions.jsonl"
        path.write_text("".join(json.dumps(question(place, text)) + "\n" for place, text in enumerate(texts)))

    monkeypatch.setattr(behaviours, "data_file", lambda _, name: tmp_path / name)
    write("How many?", "How few?")
    assert [own.id for own in load_capability_questions()] == ["c-0", "c-1"]
    write("How many?", load_questions()[0].question.lower())
    with pytest.raises(DatasetError, match="question 'c-1' is also everyday question 'question-001'"):
        load_capability_questions()
    write("How many?", "How MANY")
    with pytest.raises(DatasetError, match="question 'c-1' is also question 'c-0'"):
        load_capability_questions()


@pytest.mark.parametrize("name", BEHAVIOUR_DATA)
def test_the_sets_that_ship_have_enough_items(name):
    data = load_behaviour_data(name)
    assert len(data.train) >= 200
    assert len(data.eval) >= 50
    assert data.has_behaviour or name == "ordinary"


def test_two_hundred_capability_questions_ship():
    questions = load_capability_questions()
    assert len(questions) >= 200
    assert len({question_key(own.question) for own in questions}) == len(questions)
