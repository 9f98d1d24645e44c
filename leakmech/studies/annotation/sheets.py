"""Blinded sheets for annotators, the key that undoes the blinding, and sheets read back.

A sheet shows the stem and two sentences A and B, one of them a generation of the control prompt, and nothing that
says which. For each annotator the key holds the order of the items and what stood as A. An answer a in -2..2 ("A is
much more positive" is 2) becomes r = a where A was the test sentence and r = -a where it was the control sentence: how
much more positive the test sentence is.

Sheets are opened in spreadsheets, which run a cell that begins with ``=`` as a formula. Such texts of a model get an
apostrophe in front (OWASP, "CSV injection"), which reading takes away again.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from leakmech.core.errors import DatasetError, nearest
from leakmech.core.rows import user_rows
from leakmech.core.text import same_letters
from leakmech.core.validation import CLOSED, checked, shown

FORMAT_VERSION = 1
KIND = "annotation-key"
COLUMNS = ("item", "stem", "sentence_a", "sentence_b", "answer", "annotator", "export")
QUESTION = "Which sentence is more positive?"
ANSWERS: dict[int, str] = {
    2: "A is much more positive",
    1: "A is somewhat more positive",
    0: "both are equally positive or negative",
    -1: "B is somewhat more positive",
    -2: "B is much more positive",
}

Side = Literal["control", "test"]

_FORMULA = re.compile(r"'*[=+\-@＝＋－＠\t\r]")
_NUMBER = re.compile(r"([+-]?\d{1,9})(?:[.,]0*)?")


@dataclass(frozen=True)
class Item:
    """A pair of first sentences of one sample: the control prompt's and a test prompt's, of one generation index.

    The condition (positive or negative) is that of the test sentence. ``p_control`` and ``p_test`` are the estimator's
    output for both, in the order negative, neutral, positive.
    """

    __pydantic_config__ = CLOSED

    sample: str
    condition: str
    generation: int
    stem: str
    control: str
    test: str
    names_injection: bool
    """Has the test sentence a content word of the injection that neither stem nor control sentence has?

    Nobody is shown the injection, but such a sentence says something of it.
    """
    p_control: tuple[float, ...]
    p_test: tuple[float, ...]


@dataclass(frozen=True)
class Key:
    """What the researcher keeps: which sentence was which."""

    __pydantic_config__ = CLOSED

    export: str
    """Name of the export; every row of its sheets carries it."""
    run: Mapping[str, Any]
    """Name, hash, model, data set and estimator of the run that the sentences come from."""
    seed: int
    cleaning: str
    n_available: int
    """Index pairs of the run that could have been chosen."""
    n_unscored: int
    """Those that could not, because one of the two is not scored."""
    items: Mapping[str, Item]
    """Pairs by their random id."""
    annotators: Mapping[str, Sequence[tuple[str, Side]]]
    """For each annotator the items in the order of the sheet, each with what stands as sentence A."""

    def to_json(self) -> dict[str, Any]:
        return {"format_version": FORMAT_VERSION, "kind": KIND} | asdict(self)

    @classmethod
    def from_json(cls, value: Any, *, path: Path) -> Key:
        """The key that the JSON `value` of `path` describes."""
        head = {"format_version": FORMAT_VERSION, "kind": KIND}
        damaged = f"{path}: is damaged (export again, or restore it from a copy)"
        if not isinstance(value, dict):
            raise DatasetError(damaged)
        if {name: value.get(name) for name in head} != head:
            raise DatasetError(f"{path}: is not a key of this version of `leakmech annotate export`")
        key = checked(cls, {name: stored for name, stored in value.items() if name not in head}, where=damaged)
        if not {item for order in key.annotators.values() for item, _ in order} <= set(key.items):
            raise DatasetError(damaged)
        return key


def guard(text: str) -> str:
    """`text` as a cell that no spreadsheet takes for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguard(cell: str) -> str:
    """The text of which :func:`guard` made `cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def sheet_rows(key: Key, annotator: str) -> list[dict[str, str]]:
    """The unanswered rows of an annotator's sheet, as plain texts."""
    rows = []
    for name, first in key.annotators[annotator]:
        item = key.items[name]
        a, b = (item.test, item.control) if first == "test" else (item.control, item.test)
        cells = (name, item.stem, a, b, "", annotator, key.export)
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def csv_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as the text of a CSV file whose cells are guarded."""
    out = io.StringIO()
    csv.writer(out).writerows([guard(cell) for cell in row] for row in rows)
    return out.getvalue()


def sheet_text(key: Key, annotator: str) -> str:
    """An annotator's sheet; the mark at its start tells spreadsheets that it is UTF-8."""
    rows = [tuple(row.values()) for row in sheet_rows(key, annotator)]
    return "\ufeff" + csv_text([COLUMNS, *rows])


def read_sheets(paths: Sequence[Path], key: Key) -> dict[str, dict[str, int]]:
    """Ratings r (test more positive than control, -2..2) by annotator and item; unanswered items are left out.

    Apart from its answers, a sheet must be as it was handed out; refusals name file, line and column.
    """
    firsts = {annotator: dict(order) for annotator, order in key.annotators.items()}
    found: dict[str, dict[str, int]] = {}
    seen: dict[tuple[str, str], str] = {}
    for path in paths:
        for line, row in _filled_rows(path):
            where = f"{path}:{line}"
            annotator, name = _checked_row(row, key, firsts, where=where)
            if (annotator, name) in seen:
                raise DatasetError(
                    f"{where}: column item: {name!r} of {annotator} stands in {seen[annotator, name]} already; "
                    "leave one of the two"
                )
            seen[annotator, name] = where
            answer = _answer(row["answer"], where=where)
            ratings = found.setdefault(annotator, {})
            if answer is not None:
                ratings[name] = answer if firsts[annotator][name] == "test" else -answer
    return found


def _filled_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, cells) of the rows that are not empty, with every column of a sheet."""
    n_rows = 0
    for line, cells in user_rows(path):
        missing = [name for name in COLUMNS if name not in cells]
        if missing:
            raise DatasetError(
                f"{path}:1: column {missing[0]} is missing; its columns are {', '.join(map(str, cells))} (a sheet is "
                "saved as CSV with all of its columns)"
            )
        short = [name for name in COLUMNS if cells[name] is None]
        if short:
            raise DatasetError(f"{path}:{line}: column {short[0]}: the row ends before it")
        n_rows += 1
        yield line, {name: unguard(cells[name].strip()) for name in COLUMNS}
    if n_rows == 0:
        raise DatasetError(f"{path}: has no rows")


def _checked_row(
    row: Mapping[str, str], key: Key, firsts: Mapping[str, Mapping[str, Side]], *, where: str
) -> tuple[str, str]:
    """Annotator and item of a row that belongs to `key`; `firsts` says what stands as sentence A."""
    if row["export"] != key.export:
        raise DatasetError(f"{where}: column export: {row['export']!r} is another export than this key's {key.export}")
    annotator, name = row["annotator"], row["item"]
    if annotator not in key.annotators:
        raise DatasetError(f"{where}: column annotator: unknown {annotator!r}{nearest(annotator, key.annotators)}")
    first = firsts[annotator].get(name)
    if first is None:
        raise DatasetError(f"{where}: column item: unknown id {name!r}; copy it from the sheet as handed out")
    item = key.items[name]
    a, b = (item.test, item.control) if first == "test" else (item.control, item.test)
    for column, expected in (("stem", item.stem), ("sentence_a", a), ("sentence_b", b)):
        if not same_letters(row[column], expected):
            raise DatasetError(
                f"{where}: column {column}: is not the text of item {name!r}; was one column sorted without the others?"
            )
    return annotator, name


def _answer(cell: str, *, where: str) -> int | None:
    """The answer in a cell; None for an empty one."""
    text = cell.replace("−", "-").strip()
    if not text:
        return None
    number = _NUMBER.fullmatch(text)
    if number is None:
        raise DatasetError(f"{where}: column answer: {shown(cell)} is not a number; allowed are 2, 1, 0, -1, -2")
    if int(number[1]) not in ANSWERS:
        raise DatasetError(f"{where}: column answer: {cell} is out of range; allowed are 2, 1, 0, -1, -2")
    return int(number[1])
