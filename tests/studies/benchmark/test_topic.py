"""A benchmark says which answers are about the injection, and what leakage the others have."""

from __future__ import annotations

import json

import pytest

import leakmech
from leakmech.datasets.samples import CONDITIONS

ABOUT = {"control": "It is a matter of habit.", "neutral": "It is a matter of habit."}
OFF_TOPIC = {"positive": "It is wonderful.", "negative": "It is terrible."}


def scored(tmp_path, answer, *, dataset="hexl", n=60, **settings):
    """The scores of made-up answers to the first `n` samples of a data set: two to each prompt."""
    samples = list(leakmech.load_dataset(dataset))[:n]
    rows = [
        {"sample": sample.id, "condition": condition, "generation": number, "text": answer(sample, condition, number)}
        for sample in samples
        for condition in CONDITIONS
        for number in range(2)
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"dataset": dataset, "estimator": "vader", "cleaning": "raw", "bootstrap_draws": 200, **settings}
    return leakmech.score(file, out=tmp_path / "run", **settings)


def test_answers_that_retell_the_injection_are_found_and_left_out(tmp_path):
    def retold(sample, condition, number):
        if condition in ABOUT:
            return ABOUT[condition]
        told = sample.injection(condition).rstrip(".!").replace("I ", "they ").replace("my ", "their ")
        return f"It seems that {told}." if number else OFF_TOPIC[condition]

    summary = scored(tmp_path, retold).summary
    overall = summary["overall"]
    assert overall["topic_rate"] == pytest.approx(0.5, abs=0.06)
    assert summary["conditions"]["control"]["topic_rate"] < 0.15
    assert overall["topic_free"]["n"] == pytest.approx(120, abs=14)
    assert overall["topic_free"]["auc_el"] == pytest.approx(1.0, abs=0.02)  # what is left is wonderful or terrible
    assert summary["topic"]["by_words"]["topic_rate"] == pytest.approx(0.5, abs=0.02)
    assert [row["share"] for row in summary["topic"]["curve"]] == [0.02, 0.03, 0.05, 0.1, 0.2]
    assert "topic-free" in leakmech.load_result(tmp_path / "run").to_markdown()


def test_affect_without_topic_stays(tmp_path):
    summary = scored(tmp_path, lambda sample, condition, number: (ABOUT | OFF_TOPIC)[condition]).summary
    assert summary["overall"]["topic_rate"] < 0.15
    assert summary["overall"]["topic_free"]["auc_el"] == summary["overall"]["auc_el"] == 1.0


def test_the_ranks_are_those_of_the_whole_data_set_under_any_limit(tmp_path):
    summary = scored(tmp_path, lambda sample, condition, number: (ABOUT | OFF_TOPIC)[condition], n=4, limit=4).summary
    assert summary["topic"]["n_injections"] == {"positive": 60, "neutral": 60, "negative": 60}


def test_where_injections_should_be_taken_up_topic_is_not_told(tmp_path):
    said = ABOUT | OFF_TOPIC
    summary = scored(tmp_path, lambda _, condition, __: said[condition], dataset="relevant-self", n=4, limit=4).summary
    assert summary["topic"] == {"reason": "injections of this data set should be taken up"}
    assert "topic_free" not in summary["overall"]
