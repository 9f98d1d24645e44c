"""Corpora as streams: every kind of file, the embedded archive, a folder that `datasets` loads, and what is refused."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets import corpus as corpus_module
from leakmech.datasets.corpus import Text, open_corpus

ROWS = [
    {"text": "First one.", "area": "a"},
    {"text": "Second,\none.", "area": "b"},
    {"text": "Third “one”.", "area": "a"},
]


def write(path):
    """The three rows as the kind of file that the suffix says."""
    if path.suffix == ".parquet":
        pd.DataFrame(ROWS).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        pd.DataFrame(ROWS).to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(params=[".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"])
def file(request, tmp_path):
    return write(tmp_path / f"corpus{request.param}")


def test_every_kind_of_file_gives_the_same_texts(file):
    corpus = open_corpus(str(file), group_column="area")
    expected = [Text(index, row["text"], row["area"]) for index, row in enumerate(ROWS)]
    assert list(corpus) == expected
    assert list(corpus) == expected, "a second pass gives the same"
    assert corpus.size in (3, None)


def test_every_kind_of_file_without_the_column_lists_its_columns(file):
    with pytest.raises(DatasetError, match=r"no column 'body'; its columns are text, area \(--text-column\)"):
        open_corpus(str(file), text_column="body")
    with pytest.raises(DatasetError, match=r"no column 'domain'; its columns are text, area \(--group-column\)"):
        open_corpus(str(file), group_column="domain")


def test_a_text_file_has_one_text_a_line_and_empty_ones_are_passed_over(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\ufeffFirst one.\n\n  \nSecond one.", encoding="utf-8")
    assert [(one.position, one.text.strip()) for one in open_corpus(str(path))] == [
        (0, "First one."),
        (3, "Second one."),
    ]


def test_a_folder_that_datasets_can_load_is_streamed(tmp_path):
    write(tmp_path / "train.jsonl")
    corpus = open_corpus(str(tmp_path), group_column="area")
    assert [(one.text, one.group) for one in corpus] == [(row["text"], row["area"]) for row in ROWS]
    assert len(list(corpus)) == 3
    with pytest.raises(DatasetError, match="no column 'body'; its columns are text, area"):
        open_corpus(str(tmp_path), text_column="body")
    with pytest.raises(DatasetError, match="cannot be streamed"):
        open_corpus(str(tmp_path), split="validation")


def test_the_embedded_corpus_is_the_archive_with_its_sources_as_groups(monkeypatch, tmp_path):
    frame = pd.DataFrame({"text": ["I won.", "We lost."], "source": ["tweets", "nyt"]})
    monkeypatch.setattr(corpus_module, "fetch_archive", lambda: tmp_path)
    monkeypatch.setattr(corpus_module, "load_ratings", lambda folder: frame)
    corpus = open_corpus()
    assert list(corpus) == [Text(0, "I won.", "tweets"), Text(1, "We lost.", "nyt")]
    assert corpus.size == 2


def test_without_the_hub_a_hub_id_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(corpus_module, "hub_reachable", lambda: False)
    with pytest.raises(DatasetError, match="corpus someone/corpus: no such file, and the hub cannot be reached"):
        open_corpus("someone/corpus")


@pytest.mark.parametrize("name", ["missing.jsonl", "folder/missing.csv", "no such thing"])
def test_a_file_that_does_not_exist_is_not_looked_for_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(corpus_module, "hub_reachable", lambda: pytest.fail("asked the hub"))
    with pytest.raises(DatasetError, match="no such file"):
        open_corpus(name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", "", "holds no texts"),
        ("blank.txt", "\n\n", "holds no texts"),
        ("empty.csv", "", "holds no texts"),
        ("torn.jsonl", '{"text": "a"}\n{"text', r"torn.jsonl:2: is not valid JSON"),
        ("list.jsonl", "[1]\n", r"list.jsonl:1: expected a JSON object, found list"),
        ("number.jsonl", '{"text": 5}\n', "row 1, column 'text': expected a text, found int"),
        ("corpus.docx", "x", "unknown kind of file"),
        ("corpus.parquet", "x", "is not a parquet file"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DatasetError, match=message):
        list(open_corpus(str(path)))
