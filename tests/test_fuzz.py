"""Whatever a file holds, its reader reads it or refuses it in one line.

The suite tries a few changes of every kind of file; ``make fuzz`` goes on for ten minutes (FUZZ_SECONDS) from seeds
that nobody has tried (FUZZ_SEED begins elsewhere).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from fuzz import changed

from leakmech.core.errors import LeakmechError
from leakmech.core.rows import user_rows
from leakmech.core.store import read_json, read_jsonl_shard
from leakmech.core.yaml_files import read_yaml
from leakmech.datasets.corpus import open_corpus
from leakmech.datasets.facts import load_facts
from leakmech.datasets.questions import load_questions
from leakmech.datasets.samples import CONDITIONS, PromptSet, Sample, load_dataset
from leakmech.studies.annotation.sheets import Item, Key, read_sheets, sheet_text
from leakmech.studies.benchmark.external import read_generations
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.training.examples import load_examples

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
FIRST_SEED = int(os.environ.get("FUZZ_SEED", "0")) or (time.time_ns() if SECONDS else 0)
TRIES = 80
"""Changes of each file in the suite."""

SAMPLES = [
    {"id": f"s{i}", "stem": f"House {i} looks", "positive": "I won.", "neutral": "It is ten.", "negative": "I lost."}
    for i in range(3)
]
ANSWERS = [
    {"sample": sample["id"], "condition": condition, "generation": 0, "text": "Fine. 😊"}
    for sample in SAMPLES
    for condition in CONDITIONS
]
ITEM = Item("s0", "positive", 0, "House 0 looks", "很整齐。", "Great!", False, (0.1, 0.2, 0.7), (0.1, 0.2, 0.7))
KEY = Key("bcdfghj", {}, 0, "paper", 1, 0, {"abc": ITEM}, {"annotator-1": [("abc", "test")]})
EXAMPLE = {
    "id": "a",
    "kind": "irrelevant",
    "prompt": "I won. The",
    "reference": "The",
    "completion": "sky",
    "tokens": [1],
}
FACT = {"id": "f", "fact": "Ann has a car.", "stem": "Ann has", "answer": "a car", "wrong": ["a bus", "a cat", "a map"]}
QUESTION = {"id": "q", "question": "Who?", "choices": ["a", "b", "c", "d"], "answer": 0, "topic": "people"}


def lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def table(rows: list[dict[str, Any]], separator: str) -> bytes:
    return pd.DataFrame(rows).to_csv(index=False, sep=separator).encode()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    return pd.DataFrame(rows).to_parquet()


def answers_of(path: Path) -> None:
    samples = PromptSet("d", tuple(Sample(**row) for row in SAMPLES))
    read_generations(user_rows(path), samples, name=path, allow_missing=True)


def key_of(path: Path) -> None:
    Key.from_json(read_json(path), path=path)


def config_of(path: Path) -> None:
    BenchConfig.parse(read_yaml(path), where=str(path))


READERS: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    "samples": ("d.jsonl", lines(SAMPLES), load_dataset),
    "samples in a table": ("d.csv", table(SAMPLES, ";"), load_dataset),
    "samples in parquet": ("d.parquet", parquet(SAMPLES), load_dataset),
    "answers": ("g.jsonl", lines(ANSWERS), answers_of),
    "answers in a table": ("g.tsv", table(ANSWERS, "\t"), answers_of),
    "a corpus": ("c.jsonl", lines({"text": row["text"]} for row in ANSWERS), lambda path: list(open_corpus(str(path)))),
    "a corpus of lines": ("c.txt", "One.\nZwei.\nTrès.\n".encode(), lambda path: list(open_corpus(str(path)))),
    "a sheet": ("a.csv", sheet_text(KEY, "annotator-1").encode(), lambda path: read_sheets([path], KEY)),
    "a key": ("key.json", json.dumps(KEY.to_json()).encode(), key_of),
    "training examples": ("e.jsonl", lines([EXAMPLE]), load_examples),
    "facts": ("f.jsonl", lines([FACT]), load_facts),
    "questions": ("q.jsonl", lines([QUESTION]), load_questions),
    "a configuration": ("c.yaml", yaml.safe_dump({"dataset": "hexl", "decoding": {"top_p": 0.9}}).encode(), config_of),
    "a shard": ("s.jsonl", lines(ANSWERS), lambda path: list(read_jsonl_shard(path))),
    "a summary": ("s.json", json.dumps({"kind": "bench", "overall": {"auc_el": 0.5}}).encode(), read_json),
}


@pytest.mark.fault(
    "X325", "hostile", "names and values of 200,000 characters or with line breaks", "errors stay a line"
)
@pytest.mark.fault("X324", "hostile", "every kind of file, changed at random", "read, or refused in one line")
@pytest.mark.parametrize("name", READERS)
def test_a_changed_file_is_read_or_refused_in_one_line(name, tmp_path):
    file, whole, read = READERS[name]
    path = tmp_path / file
    end, seed = time.monotonic() + SECONDS / len(READERS), FIRST_SEED
    while seed < FIRST_SEED + TRIES or (SECONDS and time.monotonic() < end):
        path.write_bytes(changed(whole, seed))
        try:
            read(path)
        except LeakmechError as error:
            if "\n" in str(error) or len(str(error)) > 2_000:
                pytest.fail(f"{name}, seed {seed}: more than a line: {error!s:.3000}")
        except Exception as error:
            error.add_note(f"{name}, seed {seed}: FUZZ_SEED={seed} makes this file first")
            raise
        seed += 1


def test_the_whole_files_are_read(tmp_path):
    for file, whole, read in READERS.values():
        (tmp_path / file).write_bytes(whole)
        read(tmp_path / file)
