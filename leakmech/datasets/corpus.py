"""Corpora as streams of texts: the embedded archive, a local file, or a data set of the Hugging Face hub.

A corpus is never held in memory. It can be iterated any number of times, in the same order each time, so that
work on it can be continued: what was done for the first texts is looked up, not done again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError, nearest
from leakmech.core.rows import PARQUET, number_of_rows, parquet_columns, user_rows
from leakmech.datasets.archive import SDIST_SHA256, fetch_archive, load_ratings
from leakmech.models.hub import first_line, hub_reachable
from leakmech.models.quiet import quiet

EMBEDDED = "embedded"
DEFAULT_COLUMN = "text"
FILE_KINDS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")

_HUB_ID = re.compile(r"[\w.\-]+/[\w.\-]+")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Text:
    """One text of a corpus, its position, and the part of the corpus it belongs to (None where it has no parts)."""

    position: int
    text: str
    group: str | None = None


@dataclass(frozen=True)
class Corpus:
    """A stream of texts; `size` is None where their number is not known without reading them."""

    name: str
    size: int | None
    details: Mapping[str, Any]
    _open: Callable[[], Iterator[Text]]

    def __iter__(self) -> Iterator[Text]:
        return self._open()


def open_corpus(
    name: str = EMBEDDED,
    *,
    text_column: str = DEFAULT_COLUMN,
    group_column: str | None = None,
    subset: str | None = None,
    split: str = "train",
    revision: str | None = None,
) -> Corpus:
    """Open a corpus by name, file, folder or hub id; what cannot be read is refused now, not after an hour.

    `group_column` holds the part of the corpus that a text belongs to (a domain, a product, an author); stem and
    injections of one sample come from different parts.
    """
    if name == EMBEDDED:
        return _archive_corpus()
    path = Path(name).expanduser()
    columns = _Columns(name, text_column, group_column)
    if path.is_file():
        corpus = _file_corpus(path, columns)
    else:
        corpus = _hub_corpus(name, columns, subset=subset, split=split, revision=revision)
    if next(iter(corpus), None) is None:
        raise DatasetError(f"corpus {name}: holds no texts")
    return corpus


@dataclass(frozen=True)
class _Columns:
    """The columns of text and group in the rows of the corpus `name`."""

    name: str
    text: str
    group: str | None

    def check(self, found: list[str]) -> None:
        """Refuse a corpus without these columns."""
        for wanted, option in ((self.text, "--text-column"), (self.group, "--group-column")):
            if wanted is not None and wanted not in found:
                listed = ", ".join(found) or "none"
                raise DatasetError(f"corpus {self.name}: no column {wanted!r}; its columns are {listed} ({option})")

    def texts(self, rows: Iterator[Row]) -> Iterator[Text]:
        """The texts of the rows; null and empty ones are left out, but keep their position."""
        for position, row in enumerate(rows):
            text = row.get(self.text)
            if text is not None and not isinstance(text, str):
                raise DatasetError(
                    f"corpus {self.name}: row {position + 1}, column {self.text!r}: expected a text, "
                    f"found {type(text).__name__}"
                )
            if text and not text.isspace():
                group = row.get(self.group) if self.group else None
                yield Text(position, text, None if group is None else str(group))


# -- the embedded archive ----------------------------------------------------------------------------------------------


def _archive_corpus() -> Corpus:
    frame = load_ratings(fetch_archive())  # 24,000 short texts: a few megabytes

    def texts() -> Iterator[Text]:
        for position, (text, source) in enumerate(zip(frame["text"], frame["source"], strict=True)):
            yield Text(position, text, source)

    details = {"kind": "archive", "title": "Hutto & Gilbert (2014)", "sdist_sha256": SDIST_SHA256}
    return Corpus(EMBEDDED, len(frame), details, texts)


# -- files -------------------------------------------------------------------------------------------------------------


def _file_corpus(path: Path, columns: _Columns) -> Corpus:
    kind = path.suffix.lower()
    if kind not in FILE_KINDS:
        raise DatasetError(f"corpus {path}: unknown kind of file{nearest(kind, FILE_KINDS)}")
    try:
        size, rows = number_of_rows(path), _rows(path, columns)
    except OSError as problem:
        raise DatasetError(f"corpus {path}: cannot be read ({problem.strerror or first_line(problem)})") from problem
    details = {"kind": kind.removeprefix("."), "file": path.name, "bytes": path.stat().st_size}
    return Corpus(str(path), size, details, lambda: columns.texts(rows()))


def _rows(path: Path, columns: _Columns) -> Callable[[], Iterator[Row]]:
    """What opens the rows of a file that has these columns."""
    if path.suffix.lower() == ".txt":
        return lambda: _lines(path, columns)
    wanted = [name for name in (columns.text, columns.group) if name is not None]

    def rows() -> Iterator[Row]:
        # Rows without content are left out as texts, but keep their position.
        return (row for _, row in user_rows(path, columns=wanted, with_empty=True))

    if path.suffix.lower() == PARQUET:
        columns.check(parquet_columns(path))
    elif (first := next(rows(), None)) is not None:
        columns.check(list(first))
    return rows


def _lines(path: Path, columns: _Columns) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            yield from ({columns.text: line} for line in file)
        except UnicodeDecodeError as problem:
            raise DatasetError(f"corpus {path}: is not UTF-8 ({problem})") from problem


# -- the hub -----------------------------------------------------------------------------------------------------------


def _hub_corpus(name: str, columns: _Columns, *, subset: str | None, split: str, revision: str | None) -> Corpus:
    where = name.removeprefix("hub:")
    folder = Path(where).expanduser()
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(where) or Path(where).suffix.lower() in FILE_KINDS:
            raise DatasetError(f"corpus {name}: no such file; give a file, a hub id owner/name, or {EMBEDDED!r}")
        if not hub_reachable():
            raise DatasetError(
                f"corpus {name}: no such file, and the hub cannot be reached; give a local file, or {EMBEDDED!r}"
            )
    try:
        with quiet():
            from datasets import load_dataset

            stream = load_dataset(where, name=subset, split=split, streaming=True, revision=revision)
        first = next(iter(stream), None)
    except Exception as problem:  # `datasets` raises what its readers, file systems and HTTP clients raise
        raise DatasetError(f"corpus {name}: cannot be streamed ({first_line(problem)})") from problem
    if first is not None:
        columns.check(list(first))
    info = stream.info
    known = info.splits.get(split) if info.splits else None
    details = {"kind": "hub", "id": where, "subset": subset, "split": split, "revision": revision}
    return Corpus(
        name, known.num_examples if known and known.num_examples else None, details, lambda: columns.texts(iter(stream))
    )
