"""What figures are drawn from: plain columns, checked before anything is drawn.

A figure draws a table as it is. A missing column, no rows, a value that is not a number or two rows for one place of
the drawing are refused by name, for each of them would give a figure that looks finished and is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from leakmech.core.errors import FigureError

Frame: TypeAlias = Any
"""A checked table. Its columns are known; pandas' own annotations take each for one of several types."""

INTERVAL = ("low", "high")


def checked(
    frame: pd.DataFrame,
    figure: str,
    *,
    key: Sequence[str] | None = None,
    whole: Sequence[str] = (),
    texts: Sequence[str] = (),
    numbers: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Frame:
    """The columns that `figure` draws, in the order given here, with rows numbered from 0.

    No two rows share all of `key`, by default the `whole` numbers and the texts. Numbers are finite, `whole` ones count
    from 0; `optional` numbers may be absent, or missing in some rows, and ``low`` and ``high`` come together.
    """
    wanted = [*whole, *texts, *numbers]
    for column in wanted:
        if column not in frame.columns:
            raise FigureError(
                f"{figure}: column {column!r} is missing (found: {', '.join(map(str, frame.columns)) or 'none'}); "
                f"needed are {', '.join(wanted)}"
            )
    if frame.empty:
        raise FigureError(f"{figure}: the table has no rows, so there is nothing to draw")
    present = [column for column in optional if column in frame.columns]
    if len(set(present) & set(INTERVAL)) == 1:
        raise FigureError(f"{figure}: an interval needs both columns 'low' and 'high'; found {present[0]!r} alone")
    drawn: Frame = frame[[*wanted, *present]].reset_index(drop=True)
    for column in (*whole, *numbers):
        _check_numbers(drawn, figure, column, whole=column in whole)
    for column in present:
        _check_numbers(drawn, figure, column, whole=False, missing_allowed=True)
    drawn = drawn.astype(dict.fromkeys(whole, int) | dict.fromkeys(texts, str))
    key = [*whole, *texts] if key is None else key
    repeated = drawn.duplicated(list(key))
    if repeated.any():
        row = drawn[repeated].iloc[:1]
        raise FigureError(
            f"{figure}: several rows for {', '.join(f'{name} {row[name].iloc[0]}' for name in key)}; keep one of them "
            "(one method, one data set)"
        )
    return drawn


def _check_numbers(frame: Frame, figure: str, column: str, *, whole: bool, missing_allowed: bool = False) -> None:
    values = frame[column]
    if not is_numeric_dtype(values) or is_bool_dtype(values):
        raise FigureError(f"{figure}: column {column!r} must hold numbers, found for example {values.iloc[0]!r}")
    array = values.to_numpy(dtype=float)
    bad = np.isinf(array) if missing_allowed else ~np.isfinite(array)
    if bad.any():
        raise FigureError(
            f"{figure}: column {column!r} is {array[bad][0]:g} in {_place(frame, bad)}; leave it out or mend it"
        )
    if whole and ((array < 0) | (array != np.floor(array))).any():
        bad = (array < 0) | (array != np.floor(array))
        raise FigureError(f"{figure}: column {column!r} must hold whole numbers from 0, found {array[bad][0]:g}")


def _place(frame: Frame, bad: np.ndarray) -> str:
    """The first bad row and what else it says, and how many there are."""
    row = int(np.argmax(bad))
    names = [name for name in frame.columns if isinstance(frame[name].iloc[row], str | int | np.integer)][:3]
    text = f"row {row}" + (f" ({', '.join(f'{name} {frame[name].iloc[row]}' for name in names)})" if names else "")
    return text if bad.sum() == 1 else f"{text} and {bad.sum() - 1} more"


def has_interval(frame: Frame) -> bool:
    """Whether `frame` has columns ``low`` and ``high`` with at least one value."""
    return set(INTERVAL) <= set(frame.columns) and bool(frame[list(INTERVAL)].notna().all(axis=1).any())


def head_name(layer: int, head: int) -> str:
    """``L12H3``."""
    return f"L{layer}H{head}"


def neuron_name(layer: int, neuron: int) -> str:
    """``L12N873``."""
    return f"L{layer}N{neuron}"


def words(name: str) -> str:
    """A column value such as ``difference_of_means`` as a reader says it."""
    return name.replace("_", " ")
