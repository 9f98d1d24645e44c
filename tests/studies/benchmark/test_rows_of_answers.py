"""Answers from elsewhere as spreadsheets, pandas and JavaScript write them: scored as what they say."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import leakmech
from leakmech.datasets.samples import CONDITIONS

SAMPLES = [
    {
        "id": "s1",
        "stem": "The garden looks",
        "positive": "I love it.",
        "neutral": "It is a day.",
        "negative": "I hate it.",
    },
    {
        "id": "s2",
        "stem": "The corner shop is",
        "positive": "We won.",
        "neutral": "The bus stops.",
        "negative": "They lost.",
    },
]
ANSWERS = {
    "control": "tidy.",
    "positive": "wonderful and bright.",
    "neutral": "ordinary.",
    "negative": "awful and dead.",
}


@pytest.fixture
def score(tmp_path):
    """Score a file of answers to two samples with VADER."""
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SAMPLES))

    def run(file, **settings):
        out = tmp_path / f"run-{file.name}"
        return leakmech.score(
            file, dataset=str(tmp_path / "d.jsonl"), estimator="vader", bootstrap_draws=100, out=out, **settings
        )

    return run


def answers(k=2):
    return [
        {"sample": row["id"], "condition": condition, "generation": i, "text": f"The place looks {ANSWERS[condition]}"}
        for row in SAMPLES
        for condition in CONDITIONS
        for i in range(k)
    ]


def as_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.fault("X313", "rows", "the same answers as CSV, TSV, JSON lines and parquet", "the same scores")
@pytest.mark.fault("F11", "rows", "score of a table that ends in empty rows", "passed over")
def test_every_kind_of_file_has_the_same_scores(score, tmp_path):
    frame = pd.DataFrame(answers())
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    frame.to_csv(tmp_path / "a.csv", sep=";", index=False)
    with (tmp_path / "a.csv").open("a") as file:
        file.write(";;;\n;;;\n")
    frame.astype({"generation": float}).to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.astype({"generation": float}).to_parquet(tmp_path / "a.parquet")
    found = [score(tmp_path / f"a.{kind}").summary["overall"] for kind in ("csv", "tsv", "jsonl", "parquet")]
    assert found[1:] == found[:1] * 3
    assert found[0]["mu_el"] == 1.0


@pytest.mark.fault("F33", "rows", "score of a text that is NaN", "counts as missing")
def test_a_text_that_is_nan_is_missing(score, tmp_path):
    rows = answers()
    rows[3]["text"] = float("nan")
    assert score(as_jsonl(tmp_path / "nan.jsonl", rows), allow_missing=True).summary["n_missing"] == 1


@pytest.mark.fault("F13", "text", "score of an answer that ends in half of an emoji", "read as U+FFFD, scored")
def test_half_of_a_surrogate_pair_is_scored(score, tmp_path):
    rows = answers()
    rows[2]["text"] += " \ud83d"
    found = score(as_jsonl(tmp_path / "g.jsonl", rows))
    stored = [json.loads(line)["text"] for line in found.files.shard.read_text(encoding="utf-8").splitlines()]
    assert stored[2] == "The place looks wonderful and bright. \ufffd"
    assert found.summary["overall"]["mu_el"] == 1.0


@pytest.mark.fault("R10", "text", "halves of surrogate pairs in stems that a model completes", "read as U+FFFD")
def test_a_stem_with_half_of_a_surrogate_pair_is_completed(tmp_path, make_tiny, chat_tokenizer):
    file = as_jsonl(tmp_path / "d.jsonl", [row | {"stem": "The \ud83d garden"} for row in SAMPLES])
    found = leakmech.bench(
        make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dataset=str(file), out=tmp_path / "run", generations=1,
        dtype="float32", decoding={"max_new_tokens": 4}, estimator="vader", bootstrap_draws=100,
    )  # fmt: skip
    assert "The \ufffd garden" in found.files.prompts_file.read_text(encoding="utf-8")
