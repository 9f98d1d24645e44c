"""Charts of the page from tables of results: lines by series, named points, and tables as coloured cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from leakmech.reports.cells import is_number, number, significant
from leakmech.reports.figures.frames import Frame, words
from leakmech.reports.grid import Grid
from leakmech.reports.plane import Curve, Mark, Plane

Axis = tuple[str, str]
"""A column and its label."""


def lines(
    frame: Frame,
    *,
    x: Axis,
    y: Axis,
    series: str,
    caption: str,
    order: str | None = None,
    levels: Sequence[float] = (),
    is_log: bool = False,
) -> Plane:
    """A line for each value of the column `series`, through its points in the order of the column `order` or of `x`."""
    known = frame.dropna(subset=[x[0], y[0]])
    curves = [
        Curve(words(str(name)), _points(own.sort_values(order or x[0], kind="stable"), x[0], y[0]), place % 6)
        for place, (name, own) in enumerate(known.groupby(series, sort=False))
    ]
    return Plane(x[1], y[1], caption, curves=curves, y_nulls=levels, is_log=is_log)


def points(
    frame: Frame,
    *,
    x: Axis,
    y: Axis,
    name: str,
    caption: str,
    hollow: Callable[[Any], bool] = lambda _row: False,
    x_nulls: Sequence[float] = (),
    y_nulls: Sequence[float] = (0.0,),
) -> Plane:
    """A point for each row; those whose column `name` is not empty are numbered and named."""
    marks = [
        Mark(
            float(row[x[0]]),
            float(row[y[0]]),
            str(row[name] or ""),
            f"{significant(row[x[0]])}, {significant(row[y[0]])}",
            is_hollow=hollow(row),
        )
        for row in frame.to_dict("records")
        if is_number(row[x[0]]) and is_number(row[y[0]])
    ]
    return Plane(x[1], y[1], caption, marks=marks, x_nulls=x_nulls, y_nulls=y_nulls)


def cells(
    frame: Frame, *, across: str, down: str, caption: str, most: float = 0.0, decimals: int = 1, numbered: bool = False
) -> Grid:
    """A table of numbers, whose index and columns are names, as coloured cells with their numbers.

    `numbered` gives columns the numbers of the rows in place of their names, of a square table.
    """
    rows, columns = ([words(str(name)) for name in names] for names in (frame.index, frame.columns))
    if numbered or max(map(len, columns), default=0) > _LONG:
        rows = [f"{place} {name}" for place, name in enumerate(rows, 1)] if numbered else rows
        names, columns = columns, [str(place) for place in range(1, len(columns) + 1)]
        if not numbered:
            caption += f" Columns: {', '.join(f'{place} {name}' for place, name in enumerate(names, 1))}."
    values = {
        (int(row), int(column)): float(value) for (row, column), value in np.ndenumerate(frame.to_numpy(dtype=float))
    }
    marked = {place: number(value, decimals=decimals) for place, value in values.items() if is_number(value)}
    return Grid(values, rows, columns, across, down, caption, caption, marked, most, cell=36)


_LONG = 5  # letters of a column's name that a cell has room for


def _points(rows: Frame, x: str, y: str) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in zip(rows[x], rows[y], strict=True)]
