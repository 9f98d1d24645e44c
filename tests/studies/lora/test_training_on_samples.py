"""Training on data sets by name: how many examples, what is said beforehand, what shows progress."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import islice

import pytest

from leakmech.core.store import read_json
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.models.load import load_model
from leakmech.studies.lora.run import train_lora
from leakmech.training.examples import load_examples


@pytest.fixture(scope="module")
def loaded(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, device="cpu")


@pytest.fixture(scope="module")
def some_samples():
    """Other samples each time: texts that an encoder has read are not read again."""
    left = iter(load_dataset("relevant-fit").split("fit"))
    return lambda: tuple(islice(left, 24))


@pytest.fixture
def given(loaded, some_samples, tmp_path):
    """Settings of a training on pairs of a small data set, told as keywords."""
    PromptSet("some", some_samples()).save(tmp_path / "some.jsonl")
    return {
        "relevant": [str(tmp_path / "some.jsonl")], "mismatched": 1,
        "clear_pairs": {"relevant": 0.0, "irrelevant": 0.3}, "objectives": {"contrastive": 1.0},
        "shares": {"irrelevant": 1, "relevant": 1}, "evaluation": (), "epochs": 1,
        "decoding": {"max_new_tokens": 4}, "device": "cpu", "cache_dir": tmp_path / "cache", "model": loaded,
    }  # fmt: skip


@pytest.mark.fault(
    "X329", "settings", "train_lora(..., examples=8): the list has the name of a setting", "eight are made"
)
def test_a_number_of_examples_is_told_like_any_other_setting(given, tmp_path) -> None:
    result = train_lora(out=tmp_path / "a", examples=8, **given)
    assert len(load_examples(result.path / "examples.jsonl")) == 8
    assert read_json(result.path / "run.json")["config"]["examples"] == 8


def test_the_cost_is_said_before_texts_are_read_and_once(given, tmp_path) -> None:
    happened = []

    @contextmanager
    def progress(label, *, total, done):
        happened.append(label)
        yield lambda _: None

    for _ in range(2):
        train_lora(out=tmp_path / "a", examples=8, progress=progress, say=happened.append, **given)
    cost, reading, *_ = happened
    assert "for 8 examples" in cost
    assert reading == "embedding stems and injections"
    assert sum("for 8 examples" in line for line in happened) == 1


def test_where_the_number_is_not_known_the_cost_is_said_when_it_is(given, tmp_path) -> None:
    said = []
    result = train_lora(out=tmp_path / "a", say=said.append, **given)
    number = len(load_examples(result.path / "examples.jsonl"))
    assert [f"for {number} examples" in line for line in said] == [True]
