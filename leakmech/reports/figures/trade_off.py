"""A scatter of two numbers of which one is bought with the other, and its Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from leakmech.reports.figures.canvas import (
    INK,
    RULE,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    add_titles,
    label_points,
    new_figure,
    save_with_data,
)
from leakmech.reports.figures.frames import Frame, checked

Axis = tuple[str, str]
"""A column and its label."""


def trade_off(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    x: Axis,
    y: Axis,
    kinds: Sequence[str],
    bounds: Sequence[str] = (),
    goal: float | None = None,
    beside: Sequence[str] = (),
    title: str,
    subtitle: str = "",
) -> list[Path]:
    """Draw what each of many changes gives in one number and keeps in another, and which of them nothing beats in both.

    Filled marks are measured on test samples, with their intervals; thin lines with small marks join the strengths of a
    family on the samples on which they are chosen. The dashed line is the Pareto front of what was tested,
    without kinds that are `bounds`; `goal` is what both numbers should reach at once. A name's family is what stands
    before its last hyphen; columns `beside` only go into the CSV.
    """
    columns = (x[0], y[0])
    optional = [f"{name}_{end}" for name in columns for end in ("low", "high")]
    drawn = checked(
        frame,
        "trade_off",
        key=("name", "split"),
        texts=("name", "kind", "split"),
        numbers=columns,
        optional=[*beside, *optional],  # random draws are not measured in all that others are
    )
    figure, axes = new_figure(8.2, 6.0)
    if goal is not None:
        axes.fill_between([goal, 1.6], goal, 1.6, color=SERIES_COLORS[2], alpha=0.08, linewidth=0)
    for value in (0, 1):
        axes.axvline(value, color=RULE, linewidth=0.8, zorder=0)
        axes.axhline(value, color=RULE, linewidth=0.8, zorder=0)
    places = drawn.rename(columns=dict(zip(columns, ("x", "y"), strict=True)))
    tested = places.loc[places["split"] == "test"]
    _draw_sweeps(axes, places.loc[places["split"] == "tune"])
    _draw_tested(axes, tested, columns, kinds)
    _draw_front(axes, tested.loc[~tested["kind"].isin(bounds)])
    axes.set_xlim(*_range(places["x"]))
    axes.set_ylim(*_range(places["y"]))
    axes.set(xlabel=x[1], ylabel=y[1])
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    add_titles(figure, title, subtitle)
    label_points(axes, list(zip(tested["x"], tested["y"], strict=True)), tested["name"].tolist(), size=7)
    return save_with_data(figure, path, drawn)


def _draw_sweeps(axes: Axes, rows: Frame) -> None:
    families = [name.rpartition("-")[0] for name in rows["name"]]
    for _, family in rows.groupby(families, sort=False):
        axes.plot(
            family["x"],
            family["y"],
            color=SOFT,
            linewidth=0.6,
            alpha=0.6,
            marker="o",
            markersize=2.5,
            markerfacecolor="white",
            zorder=1,
        )


def _draw_tested(axes: Axes, rows: Frame, columns: tuple[str, str], kinds: Sequence[str]) -> None:
    colors = dict(zip(kinds, (*SERIES_COLORS, SOFT), strict=False))
    markers = dict(zip(kinds, (*SERIES_MARKERS, "x"), strict=False))
    for kind, group in rows.groupby("kind", sort=False):
        x, y = group["x"].to_numpy(), group["y"].to_numpy()
        bars = {}
        for axis, name, values in (("xerr", columns[0], x), ("yerr", columns[1], y)):
            if {f"{name}_low", f"{name}_high"} <= set(group.columns):
                ends = [group[f"{name}_{end}"].to_numpy() for end in ("low", "high")]
                bars[axis] = np.nan_to_num(np.clip([values - ends[0], ends[1] - values], 0, None))
        color = colors.get(str(kind), INK)
        axes.errorbar(x, y, **bars, fmt="none", ecolor=color, elinewidth=0.7, alpha=0.35, zorder=2)
        axes.scatter(x, y, color=color, marker=markers.get(str(kind), "o"), s=34, label=str(kind), zorder=3)


def _draw_front(axes: Axes, rows: Frame) -> None:
    best, front = -np.inf, []
    for row in rows.sort_values("x", ascending=False).itertuples():
        if row.y > best:
            best = row.y
            front.append((row.x, row.y))
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=INK, linestyle="--", linewidth=0.9, label="Pareto front", zorder=2)


def _range(values: pd.Series) -> tuple[float, float]:
    return min(-0.1, float(values.min()) - 0.1), max(1.15, float(values.max()) + 0.1)
