"""Tables of results as a reader sees them: intervals beside their values, components by name, the first rows only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from leakmech.reports.cells import DASH, cell, with_interval
from leakmech.reports.figures.frames import Frame, head_name, neuron_name, words
from leakmech.reports.tables import Table

MAX_ROWS = 20
_PLACES = ("layer", "head", "neuron", "low", "high")


def frame_table(frame: pd.DataFrame, file: str, *, columns: tuple[str, ...] = ()) -> Table:
    """The first rows of a table of results whose rows all are in `file`, or the chosen rows if it says which were.

    ``x_low`` and ``x_high`` become the interval of ``x``, plain ``low`` and ``high`` that of a score, share or effect.
    A column that says the same in every row is said once, under the table.
    """
    drawn: Frame = frame
    count = f"{len(drawn):,} rows"
    if "chosen" in drawn.columns and drawn["chosen"].astype(bool).any():
        drawn = drawn[drawn["chosen"].astype(bool)].drop(columns="chosen")
        title = f"The chosen of {count}; all in {file}."
    else:
        title = f"The first {MAX_ROWS} of {count}; all in {file}." if len(drawn) > MAX_ROWS else f"{count}."
    kept = [name for name in columns if name in drawn.columns]
    ends = [f"{name}_{end}" for name in kept for end in ("low", "high") if f"{name}_{end}" in drawn.columns]
    drawn, same = _without_constants(drawn[[*kept, *ends]] if kept else drawn)
    header, rows = _cells(_named(drawn.head(MAX_ROWS)))
    return Table(title, header, rows, [f"In every row: {', '.join(same)}."] if same else ())


def _without_constants(frame: Frame) -> tuple[Frame, list[str]]:
    """The columns that differ between rows, and what the others say; a component's layer and index always stay."""
    if len(frame) < 2:
        return frame, []
    first: Any = frame.iloc[0]
    constant = [
        name
        for name in frame.columns[1:]
        if name not in _PLACES and not str(name).endswith(("_low", "_high")) and _is_constant(frame[name])
    ]
    said = [f"{_heading(str(name))} {cell(first[name])}" for name in constant if not _is_missing(first[name])]
    ends = [f"{name}_{end}" for name in constant for end in ("low", "high") if f"{name}_{end}" in frame.columns]
    return frame.drop(columns=[*constant, *ends]), said


def _is_constant(values: Frame) -> bool:
    return bool(values.isna().all() or (values.notna().all() and values.nunique() == 1))


def _is_missing(value: Any) -> bool:
    return cell(value) == DASH


def _named(frame: Frame) -> Frame:
    """With the component's name (``L12H3``) in place of layer and index."""
    for column, name in (("head", head_name), ("neuron", neuron_name)):
        if {"layer", column} <= set(frame.columns) and frame[["layer", column]].notna().all(axis=None):
            names = [name(layer, index) for layer, index in zip(frame["layer"], frame[column], strict=True)]
            frame = frame.drop(columns=["layer", column, *({"name"} & set(frame.columns))])
            frame.insert(0, column, names)
    return frame


def _cells(frame: Frame) -> tuple[list[str], list[list[str]]]:
    """Header and finished texts; columns of interval ends are folded into the column they belong to."""
    columns = list(map(str, frame.columns))
    frame = frame.set_axis(columns, axis=1)
    ends = {name: (f"{name}_low", f"{name}_high") for name in columns}
    ends |= {
        name: ("low", "high")
        for name in ("score", "effect", "share")
        if name in columns and f"{name}_low" not in columns
    }
    folded = {name: pair for name, pair in ends.items() if set(pair) <= set(columns)}
    inner = {end for pair in folded.values() for end in pair}
    kept = [name for name in columns if name not in inner]
    header = [_heading(name) + (" [95 % CI]" if name in folded else "") for name in kept]
    rows = [[_text(record, name, folded.get(name)) for name in kept] for record in frame.to_dict("records")]
    return header, rows


def _text(record: Mapping[str, Any], name: str, ends: tuple[str, str] | None) -> str:
    if ends is None:
        return cell(record[name])
    return with_interval(record[name], record[ends[0]], record[ends[1]], cell)


def _heading(column: str) -> str:
    return words(column).replace("d z", "d_z").replace("auc", "AUC")
