"""Numbers of several runs or conditions, each with its interval: a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leakmech.reports.cells import number, typeset, with_interval
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    MARGIN_COLOR,
    NARROW,
    SERIES_COLORS,
    SOFT,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    new_figure,
    text_width,
    wrapped,
)

_difference = partial(number, decimals=3, signed=True)


def forest_plot(
    rows: Sequence[Mapping[str, Any]],
    path: str | Path | None = None,
    *,
    quantity: str,
    value: str = "difference",
    null: float = 0.0,
    margin: float | None = None,
    title: str = "",
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw numbers with their intervals, a line at `null` (no difference, no leakage), and the margin of equivalence.

    A row has ``label``, ``low``, ``high`` and its number under the name `value`; None stands for what could not be
    computed. A row's ``condition``, if it has one, is its colour.
    """
    whole = inches(width, WIDTHS["page"])
    names = ["\n".join(wrapped(row["label"], whole / 3.5, size=8)) for row in rows]
    lines = sum(name.count("\n") + 1 for name in names)
    figure, axes = new_figure(whole, 0.9 + (0.26 if whole < NARROW else 0.17) * lines + 0.12 * len(rows))
    if margin is not None:
        axes.axvspan(null - margin, null + margin, color=MARGIN_COLOR, alpha=0.15, linewidth=0)
        axes.set_title(f"shaded: differences that are none (±{margin:g})", fontsize=8, color=SOFT, loc="left")
    axes.axvline(null, color=INK, linewidth=0.8, linestyle="--")
    show = _difference if null == 0 else number
    told = [_told(row, row[value], show) for row in rows]
    for position, (row, text) in enumerate(zip(rows, told, strict=True)):
        _draw_number(axes, row, row[value], position)
        # In a narrow figure the numbers stand over the marks, else at the right edge.
        at, va, ha = (
            ((1, position - 0.2), "bottom", "right") if whole < NARROW else ((1.02, position), "center", "left")
        )
        axes.annotate(text, at, xycoords=("axes fraction", "data"), fontsize=8, annotation_clip=False, va=va, ha=ha)
    axes.set_yticks(range(len(rows)), names, fontsize=8, parse_math=False)
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.margins(x=0.08)
    room = whole - 0.3 - max((text_width(line, size=8) for name in names for line in name.split("\n")), default=0.0)
    axes.set_xlabel("\n".join(wrapped(quantity, room, size=9)))
    add_titles(figure, title, subtitle)
    return finished(figure, path, pd.DataFrame([dict(row) for row in rows]))


def _told(row: Mapping[str, Any], value: float | None, show: Any) -> str:
    return "nothing to compare" if value is None else typeset(with_interval(value, row["low"], row["high"], show))


def _draw_number(axes: Axes, row: Mapping[str, Any], value: float | None, position: int) -> None:
    """Point and interval."""
    if value is None:
        return
    color = CONDITION_COLORS.get(str(row.get("condition")), SERIES_COLORS[0])
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [position] * 2, color=color, linewidth=1.8)
    axes.plot(value, position, marker="s", markersize=5, color=color)
