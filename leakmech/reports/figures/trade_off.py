"""The figure of a comparison of mitigations: how much leakage each takes out, and how much feeling it leaves in."""

from __future__ import annotations

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

GOAL = 0.8
"""Leakage reduction and retention that a mitigation should reach at once: the shaded corner."""
_KINDS = ("intervention", "adapter", "instruction", "rewrite", "decoding", "oracle", "baseline")
_NUMBERS = ("leakage_reduction", "retention", "fluency")


def draw_mitigations(frame: pd.DataFrame, folder: str | Path) -> list[Path]:
    """``pareto.png``, ``.pdf`` and ``.csv``: retention against leakage reduction.

    Filled marks are measured on test samples, with their 95 % intervals; thin lines with small marks join the strengths
    of a family on the samples on which they are chosen. The dashed line is the Pareto front of what was tested:
    nothing but the oracle has both more reduction and more retention.

    Parameters
    ----------
    frame
        Rows of ``tables/mitigations.csv``.
    folder
        Where the files go.

    Returns
    -------
    list of Path
        Empty where no mitigation has both numbers: the base model did not leak, or had no relevant affect to keep.

    Raises
    ------
    FigureError
        A column is missing or holds no numbers.
    """
    kept = frame.loc[frame["leakage_reduction"].notna() & frame["retention"].notna() & (frame["kind"] != "base")]
    if kept.empty:  # where the base model does not leak there is nothing to take out
        return []
    optional = [f"{name}_{end}" for name in _NUMBERS[:2] for end in ("low", "high")]
    drawn = checked(
        kept, "pareto", key=("name", "split"), texts=("name", "kind", "split"), numbers=_NUMBERS, optional=optional
    )
    figure, axes = new_figure(8.2, 6.0)
    axes.fill_between([GOAL, 1.6], GOAL, 1.6, color="#009e73", alpha=0.08, linewidth=0)
    for value in (0, 1):
        axes.axvline(value, color=RULE, linewidth=0.8, zorder=0)
        axes.axhline(value, color=RULE, linewidth=0.8, zorder=0)
    _draw_sweeps(axes, drawn.loc[drawn["split"] == "tune"])
    tested = drawn.loc[drawn["split"] == "test"]
    _draw_tested(axes, tested)
    _draw_front(axes, tested.loc[~tested["kind"].isin(["oracle", "baseline"])])
    axes.set_xlim(*_range(drawn["leakage_reduction"]))
    axes.set_ylim(*_range(drawn["retention"]))
    axes.set_xlabel("leakage reduction (1: none is left)", fontsize=9)
    axes.set_ylabel("retention of relevant affect (1: as before)", fontsize=9)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    points = list(zip(tested["leakage_reduction"], tested["retention"], strict=True))
    add_titles(
        figure,
        "What takes out the leakage, and what it leaves of the feeling",
        "filled: test samples with 95 % intervals; open: strengths on tune samples; shaded: both at least 0.8",
    )
    label_points(axes, points, tested["name"].tolist(), size=7)
    return save_with_data(figure, Path(folder) / "pareto.png", drawn)


def _draw_sweeps(axes: Axes, rows: Frame) -> None:
    families = [name.rpartition("-")[0] for name in rows["name"]]
    for _, family in rows.groupby(families, sort=False):
        axes.plot(
            family["leakage_reduction"],
            family["retention"],
            color=SOFT,
            linewidth=0.6,
            alpha=0.6,
            marker="o",
            markersize=2.5,
            markerfacecolor="white",
            zorder=1,
        )


def _draw_tested(axes: Axes, rows: Frame) -> None:
    kinds: list[str] = list(_KINDS)
    colors = dict(zip(kinds, (*SERIES_COLORS, SOFT), strict=True))
    markers = dict(zip(kinds, (*SERIES_MARKERS, "x"), strict=True))
    for kind, group in rows.groupby("kind", sort=False):
        x, y = group["leakage_reduction"].to_numpy(), group["retention"].to_numpy()
        bars = {}
        for axis, name, values in (("xerr", "leakage_reduction", x), ("yerr", "retention", y)):
            ends = [group[f"{name}_{end}"].to_numpy() for end in ("low", "high")]
            bars[axis] = np.nan_to_num(np.clip([values - ends[0], ends[1] - values], 0, None))
        color = colors.get(str(kind), INK)
        axes.errorbar(x, y, **bars, fmt="none", ecolor=color, elinewidth=0.7, alpha=0.35, zorder=2)
        axes.scatter(x, y, color=color, marker=markers.get(str(kind), "o"), s=34, label=str(kind), zorder=3)


def _draw_front(axes: Axes, rows: Frame) -> None:
    best, front = -np.inf, []
    for row in rows.sort_values("leakage_reduction", ascending=False).itertuples():
        if row.retention > best:
            best = row.retention
            front.append((row.leakage_reduction, row.retention))
    if len(front) > 1:
        axes.plot(*zip(*front, strict=True), color=INK, linestyle="--", linewidth=0.9, label="Pareto front", zorder=2)


def _range(values: pd.Series) -> tuple[float, float]:
    return min(-0.1, float(values.min()) - 0.1), max(1.15, float(values.max()) + 0.1)
