"""Scatter plots in panels, some points named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leakmech.reports.figures.canvas import (
    RULE,
    SERIES_COLORS,
    Width,
    add_titles,
    draw_cells,
    finished,
    inches,
    label_points,
    name_cells,
    new_figure,
    new_panels,
)
from leakmech.reports.figures.frames import checked, words
from leakmech.reports.figures.series import Axis


def scatter_panels(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    x: Axis,
    y: Axis,
    rows: str,
    columns: str,
    name: str,
    mark: str,
    title: str,
    note: Callable[[str, str], str] = lambda _row, _column: "",
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw a panel for each pair of values of the columns `rows` and `columns` that has points.

    Points whose `name` is not empty are named; those for which the column `mark` is 1 are hollow. `note` gives a line
    for the head of a panel.
    """
    drawn = _drawn(frame, (rows, columns, name), (x[0], y[0], mark))
    down, across = list(dict.fromkeys(drawn[rows])), list(dict.fromkeys(drawn[columns]))
    size = (inches(width, 3.1 * len(across) + 0.6), 2.7 * len(down) + 0.3)
    figure, panels = new_panels(*size, rows=len(down), columns=len(across), sharey="row")
    filled: list[tuple[Any, Any]] = []
    for own_row, line in zip(down, panels, strict=True):
        for own_column, axes in zip(across, line, strict=True):
            part = drawn[(drawn[rows] == own_row) & (drawn[columns] == own_column)]
            if part.empty:
                axes.set_axis_off()
                continue
            _panel(axes, part, x, y, mark)
            axes.set_title(f"{words(own_row)}, {words(own_column)}  {note(own_row, own_column)}".strip(), fontsize=8.5)
            filled.append((axes, part))
        line[0].set_ylabel(y[1])
    for axes in panels[-1]:
        axes.set_xlabel(x[1])
    add_titles(figure, title, subtitle)
    for axes, part in filled:  # when all else is in its place
        named = part[part[name] != ""]
        if len(named):
            points = list(zip(named[x[0]], named[y[0]], strict=True))
            label_points(axes, points, named[name].tolist(), size=6.5, others=part[[x[0], y[0]]].to_numpy())
    return finished(figure, path, drawn)


def _drawn(frame: pd.DataFrame, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Any:
    numbered = frame.assign(point=[str(place) for place in range(len(frame))])
    return checked(numbered, "scatter_panels", texts=(*texts, "point"), numbers=numbers, key=("point",))


def _panel(axes: Any, part: Any, x: Axis, y: Axis, mark: str) -> None:
    axes.axhline(0, color=RULE, linewidth=0.8)
    for hollow in (0, 1):
        own = part[part[mark] == hollow]
        face = "none" if hollow else SERIES_COLORS[0]
        axes.scatter(own[x[0]], own[y[0]], s=14, facecolors=face, edgecolors=SERIES_COLORS[0], linewidths=0.8)
    axes.margins(0.15)


def value_map(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    label: str,
    title: str,
    limit: float | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw a table of signed numbers, whose index and columns are names, as coloured cells around zero."""
    values = frame.to_numpy(dtype=float)
    bound = limit or max(float(pd.Series(values.ravel()).abs().max()), 1e-9)
    figure, axes = new_figure(inches(width, 0.85 * values.shape[1] + 2.6), 0.42 * len(frame) + 1.6)
    draw_cells(axes, values, (-bound, bound), [[f"{value:+.2f}" for value in row] for row in values], label=label)
    name_cells(axes.set_xticks, [words(str(own)) for own in frame.columns], rotation=35, ha="right")
    name_cells(axes.set_yticks, [str(own) for own in frame.index])
    axes.invert_yaxis()
    add_titles(figure, title, subtitle)
    return finished(figure, path, frame, index=True)
