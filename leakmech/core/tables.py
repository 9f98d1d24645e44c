"""Tables of results as CSV files: what is written is what is read back, whatever texts and names the cells hold."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.store import write_text

_TEXTS = ("token",)
"""Columns in which an empty cell is an empty text, and not a gap."""


def table_text(frame: pd.DataFrame) -> str:
    """A data frame as CSV. Texts with a carriage return are quoted, which pandas leaves undone and then cannot read."""
    text = frame.to_csv(index=False)
    return frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC) if "\r" in text else text


def write_table(path: Path, frame: pd.DataFrame) -> None:
    """Write a data frame as CSV, atomically."""
    write_text(path, table_text(frame))


def interval_columns(name: str, ends: Sequence[float | None] | None) -> dict[str, float | None]:
    """An interval that is called ``x_ci`` elsewhere, as the columns ``x_low`` and ``x_high``."""
    low, high = ends or (None, None)
    return {f"{name.removesuffix('_ci')}_low": low, f"{name.removesuffix('_ci')}_high": high}


def flat_numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a record, with intervals (``x_ci``) as two; what is nested is left out."""
    row: dict[str, Any] = {}
    for name, value in record.items():
        if name.endswith("_ci"):
            row |= interval_columns(name, value)
        elif value is None or isinstance(value, int | float):
            row[name] = value
    return row


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as CSV, with intervals (``x_ci``) in two columns each."""
    rows = []
    for record in records:
        row = {name: value for name, value in record.items() if not name.endswith("_ci")}
        for name, value in record.items():
            row |= interval_columns(name, value) if name.endswith("_ci") else {}
        rows.append(row)
    write_table(path, pd.DataFrame(rows))


def read_table(path: Path) -> pd.DataFrame:
    """What :func:`write_table` wrote: empty cells are gaps, "NA" and "null" are names, and a sample may be "007"."""
    frame = pd.read_csv(path, dtype={"sample": str}, keep_default_na=False, na_values=[""])
    return frame.fillna({name: "" for name in _TEXTS if name in frame})
