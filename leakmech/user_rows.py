"""Rows of files that users write: JSON lines and CSV, each row with the number of its line for error messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leakmech.errors import DatasetError


def user_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, fields) of every row, one at a time; CSV exactly if the file's name ends in ``.csv``.

    Cells of a CSV file are texts, those that a short line lacks are None.

    Raises
    ------
    DatasetError
        The file cannot be read, or a line is malformed; the message names file and line.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from _csv_rows(path, file) if path.suffix.lower() == ".csv" else _json_rows(path, file)
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error})") from error


def _csv_rows(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise DatasetError(f"{path}:{reader.line_num}: has more cells than the header has columns")
            yield reader.line_num, row
    except csv.Error as error:
        raise DatasetError(f"{path}:{reader.reader.line_num}: is not valid CSV ({error})") from error


def _json_rows(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any]]]:
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
