"""Rows of files that users write: JSON lines and CSV, each row with the number of its line for error messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from leakmech.core.errors import DatasetError
from leakmech.core.validation import checked

TABLES = (".csv", ".tsv")
_DELIMITERS = ",;\t"


def user_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, fields) of every row; the file is a table if its name ends in .csv or .tsv, else JSON lines.

    The cells of a table are texts; those that a short line lacks are None. They are divided by commas, semicolons or
    tabs, whichever the header has most of: spreadsheets write semicolons where numbers have decimal commas.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _table_rows(path, file) if path.suffix.lower() in TABLES else _json_rows(path, file)
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}:{_first_undecodable_line(path)}: is not UTF-8; save the file as UTF-8") from error


def _first_undecodable_line(path: Path) -> int:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return number
    raise AssertionError(f"{path}: every line is UTF-8")


def _table_rows(path: Path, file: IO[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    header = file.readline()
    file.seek(0)
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.DictReader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DatasetError(f"{path}:{reader.line_num}: has more cells than the header has columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.reader.line_num}: is not valid CSV ({error})") from error


def _json_rows(path: Path, file: IO[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            raise DatasetError(f"{path}:{number}: empty line")
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: is not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, row


# -- rows --------------------------------------------------------------------------------------------------------------


class _WithId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_WithId)


def read_items(path: Path, kind: type[Item]) -> tuple[Item, ...]:
    """A `kind` for every row of a file; an empty cell of a table is a field that is not there."""
    items: list[Item] = []
    seen: dict[str, int] = {}
    table = Path(path).suffix.lower() in TABLES
    for number, row in user_rows(path):
        values = {key: value for key, value in row.items() if value not in ("", None)} if table else row
        item = checked(kind, values, where=f"{path}:{number}")
        if item.id in seen:
            raise DatasetError(f"{path}:{number}: field 'id': {item.id!r} is already used in line {seen[item.id]}")
        seen[item.id] = number
        items.append(item)
    if not items:
        raise DatasetError(f"{path}: is empty; expected one {kind.__name__} in each line")
    return tuple(items)
