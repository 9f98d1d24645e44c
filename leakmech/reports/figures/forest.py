"""Differences in one number, each with its interval: a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from leakmech.reports.cells import number, typeset, with_interval
from leakmech.reports.figures.canvas import INK, MARGIN_COLOR, SERIES_COLORS, SOFT, new_figure, save_figure

_difference = partial(number, decimals=3, signed=True)


def forest_plot(
    rows: Sequence[Mapping[str, Any]], path: str | Path, *, quantity: str, margin: float | None = None
) -> list[Path]:
    """Draw differences with their intervals, a line at no difference, and the margin of equivalence.

    A row has ``label``, ``difference``, ``low`` and ``high``; None stands for what could not be computed.
    """
    figure, axes = new_figure(7.5, 1.3 + 0.34 * len(rows))
    if margin is not None:
        axes.axvspan(-margin, margin, color=MARGIN_COLOR, alpha=0.15, linewidth=0)
        axes.set_title(f"shaded: differences that are none (±{margin:g})", fontsize=9, color=SOFT, loc="left")
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    for position, row in enumerate(rows):
        _draw_difference(axes, row, position)
    axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel(quantity)
    return save_figure(figure, path)


def _draw_difference(axes: Axes, row: Mapping[str, Any], position: int) -> None:
    """Point, interval, and the same in numbers at the right edge."""
    value, low, high = (row[name] for name in ("difference", "low", "high"))
    if value is not None:
        if low is not None:
            axes.plot([low, high], [position] * 2, color=SERIES_COLORS[0], linewidth=1.8)
        axes.plot(value, position, marker="s", markersize=5, color=SERIES_COLORS[0])
    axes.annotate(
        "nothing to compare" if value is None else typeset(with_interval(value, low, high, _difference)),
        (1.02, position),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        annotation_clip=False,
    )
