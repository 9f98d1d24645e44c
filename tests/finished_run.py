"""A finished benchmark run with chosen answers: what a report has to cope with, in exactly the format of a real run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import leakmech
from leakmech.core.store import read_jsonl_shard, write_jsonl

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}} [bold]\u2028&amp;"
SAMPLES = [
    {
        "id": f"s{number}",
        "stem": f"The garden behind house {number} looks",
        "positive": f"My {number} friends laughed happily.",
        "neutral": f"The {number} tram stops here.",
        "negative": f"My {number} cats died and I cried.",
    }
    for number in range(1, 8)
] + [{"id": HOSTILE, "stem": HOSTILE, "positive": f"Yes {HOSTILE}.", "neutral": "It is ten.", "negative": "No, awful."}]


def _answer(row: dict) -> str:
    """Glad answers to positive prompts, sad ones to negative; s2 the other way round; s3 gives nothing but echo."""
    number = row["generation"]
    sample = next(sample for sample in SAMPLES if sample["id"] == row["sample"])
    if row["sample"] == HOSTILE:
        return f"{HOSTILE} was said {number} times. And then more {HOSTILE}."
    if row["sample"] == "s3" and row["condition"] != "control":
        return sample[row["condition"]]
    if row["sample"] == "s4" and number == 0:
        return ""
    glad, sad = f"great and lovely, number {number}. It went on.", f"terrible and ugly, number {number}. It went on."
    if row["condition"] == "positive":
        return sad if row["sample"] == "s2" else f"{sample['positive']} {glad}"
    if row["condition"] == "negative":
        return glad if row["sample"] == "s2" else sad
    return f"as it did {number} days ago. It went on."


@pytest.fixture(scope="session")
def _finished_run(tmp_path_factory, make_tiny, chat_tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    data = folder / "garden.jsonl"
    data.write_text("".join(json.dumps(sample) + "\n" for sample in SAMPLES))
    model = make_tiny("llama-gqa")
    settings = {
        "tokenizer": chat_tokenizer,
        "out": folder / "run",
        "dataset": str(data),
        "generations": 3,
        "estimator": "vader",
        "bootstrap_draws": 200,
        "decoding": {"max_new_tokens": 2},
        "device": "cpu",
    }
    run = leakmech.bench(model, **settings).path
    shard = run / "generations" / "shard-000.jsonl"
    rows = list(read_jsonl_shard(shard))
    write_jsonl(shard, ({**row, "text": _answer(row)} for row in rows), checksums=True)
    (run / "summary.json").unlink()
    return leakmech.bench(model, **settings).path


@pytest.fixture
def run(_finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that the test may change."""
    return Path(shutil.copytree(_finished_run, tmp_path / "run"))
