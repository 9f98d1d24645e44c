"""Lines of one number over another, a line for each series, in one panel or several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from leakmech.core.errors import FigureError
from leakmech.reports.figures.canvas import (
    RULE,
    SERIES_COLORS,
    SERIES_MARKERS,
    WIDTHS,
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

Axis = tuple[str, str]
"""A column and its label."""
_MOST_MARKERS = 12
_MOST_PANELS = 4


def series_lines(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    x: Axis,
    y: Axis,
    series: str,
    title: str,
    panel: str | None = None,
    order: str | None = None,
    level: float | None = None,
    logarithmic: bool = False,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw the series of a table, with a panel for each value of the column `panel`; a dashed line marks a `level`.

    A line joins its points in the order of the column `order`, by default that of `x`.
    """
    texts = (series, *((panel,) if panel else ()))
    along = order or x[0]
    numbers = tuple(dict.fromkeys((x[0], y[0], along)))
    drawn = checked(frame, "series_lines", texts=texts, numbers=numbers, key=(*texts, along))
    panels = list(dict.fromkeys(drawn[panel])) if panel else [None]
    names = list(dict.fromkeys(drawn[series]))
    if len(panels) > _MOST_PANELS or len(names) > len(SERIES_COLORS):
        raise FigureError(
            f"series_lines: {len(panels)} panels and {len(names)} series are more than one figure shows; keep up to "
            f"{_MOST_PANELS} and {len(SERIES_COLORS)}"
        )
    wide = inches(width, WIDTHS["page"] if len(panels) > 1 else 4.8)
    across = max(1, min(len(panels), int(wide / 2.2)))
    down = -(-len(panels) // across)
    figure, grid = new_panels(wide, 2.7 * down + 0.4, rows=down, columns=across, sharey=True)
    row = [axes for line in grid for axes in line]
    for axes in row[len(panels) :]:
        axes.set_axis_off()
    for axes, own in zip(row, panels, strict=False):
        part = drawn if own is None else drawn[drawn[panel] == own]
        for name, color, marker in zip(names, SERIES_COLORS, SERIES_MARKERS, strict=False):
            line = part[part[series] == name].sort_values(along, kind="stable")
            few = len(line) <= _MOST_MARKERS
            axes.plot(line[x[0]], line[y[0]], color=color, marker=marker if few else "", markersize=4, label=name)
        if level is not None:
            axes.axhline(level, color=RULE, linestyle="--", linewidth=1.0)
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlabel(x[1])
        if own is not None:
            axes.set_title(words(str(own)), fontsize=9)
    for line in grid:
        line[0].set_ylabel(y[1])
    row[len(panels) - 1].legend(frameon=False, fontsize=8)
    add_titles(figure, title, subtitle)
    return finished(figure, path, drawn)


def count_map(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    rows: str,
    title: str,
    labels: tuple[str, str],
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw a table of counts, each row as shares of its sum; `rows` is the column that names them."""
    drawn = frame.set_index(rows).astype(float)
    shares = drawn.div(drawn.sum(axis=1), axis=0).to_numpy()
    figure, axes = new_figure(inches(width, 0.75 * drawn.shape[1] + 2.2), 0.42 * len(drawn) + 1.3)
    draw_cells(axes, shares, (-1, 1), [[f"{value:.2f}" for value in row] for row in shares], label="share of the row")
    name_cells(axes.set_xticks, list(drawn.columns), rotation=30)
    name_cells(axes.set_yticks, list(drawn.index))
    axes.invert_yaxis()
    axes.set(xlabel=labels[1], ylabel=labels[0])
    add_titles(figure, title, subtitle)
    return finished(figure, path, pd.DataFrame(shares, index=drawn.index, columns=drawn.columns), index=True)


def named_points(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    x: Axis,
    y: Axis,
    name: str,
    title: str,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw a scatter whose points all have names."""
    drawn = checked(frame, "named_points", texts=(name,), numbers=(x[0], y[0]))
    figure, axes = new_figure(inches(width, 5.0), 3.8)
    axes.axhline(0, color=RULE, linewidth=0.8)
    axes.axvline(0, color=RULE, linewidth=0.8)
    axes.scatter(drawn[x[0]], drawn[y[0]], color=SERIES_COLORS[0], s=28)
    axes.margins(0.2)
    axes.set(xlabel=x[1], ylabel=y[1])
    add_titles(figure, title, subtitle)
    points: Sequence[tuple[float, float]] = list(zip(drawn[x[0]], drawn[y[0]], strict=True))
    label_points(axes, points, drawn[name].tolist(), size=8.5)
    return finished(figure, path, drawn)
