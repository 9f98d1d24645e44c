"""Figures of directions: how well they separate, layer by layer, and how alike they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from pandas.api.types import is_bool_dtype

from leakmech.core.errors import FigureError
from leakmech.reports.cells import number, significant
from leakmech.reports.figures.canvas import (
    INK,
    NARROW,
    RULE,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    WIDTHS,
    Width,
    add_titles,
    draw_cells,
    finished,
    inches,
    name_cells,
    new_panels,
    text_width,
)
from leakmech.reports.figures.frames import Frame, checked, words

_PLACE = ("site", "position", "kind")
_STATISTICS = {"auc": "AUC on test", "d_z": "d_z on test"}
_SPREAD = ("random_{}_p95", "shuffled_{}_p95", "test_{}_low", "test_{}_high", "tune_{}")


def layer_curves(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw how well directions separate positive from negative, layer by layer and method by method.

    Each site, position and kind gets a row of panels.

    Random directions are a grey area from chance to their 95th percentile, fits with shuffled labels dotted lines at
    theirs; a ring marks the direction that was chosen on ``tune``, a thin line how its method did there.
    """
    drawn = checked(
        frame,
        "layer_curves",
        whole=("layer",),
        texts=(*_PLACE, "method"),
        numbers=("test_auc", "test_d_z"),
        optional=[name.format(statistic) for statistic in _STATISTICS for name in _SPREAD],
    )
    drawn["chosen"] = _chosen(frame)
    drawn = drawn.sort_values([*_PLACE, "method", "layer"], kind="stable", ignore_index=True)
    places = list(drawn.groupby(list(_PLACE), sort=False))
    if len(places) > 4:
        raise FigureError(
            f"layer_curves: {len(places)} places (site, position, kind) are more than one figure shows; keep up to 4"
        )
    wide = inches(width, WIDTHS["page"])
    down, across = (2 * len(places), 1) if wide < NARROW else (len(places), 2)
    figure, grid = new_panels(
        wide, (2.1 if wide < NARROW else 2.5) * down + 0.5, rows=down, columns=across, sharex=True
    )
    flat = [axes for row in grid for axes in row]
    panels = list(zip(flat[::2], flat[1::2], strict=True))
    methods = list(dict.fromkeys(drawn["method"]))
    for axes_pair, (place, rows) in zip(panels, places, strict=True):
        for axes, (statistic, label) in zip(axes_pair, _STATISTICS.items(), strict=True):
            _draw_layers(axes, rows, statistic, methods)
            axes.set_ylabel(label)
        if len(places) > 1:
            axes_pair[0].set_title(", ".join(map(str, place)), fontsize=9, color=SOFT, loc="left", parse_math=False)
    for axes in grid[-1]:
        axes.set_xlabel("layer (0 = first)")
    _layer_legend(figure, panels, drawn, columns=2 if wide < NARROW else 3)
    add_titles(figure, _chosen_title(drawn) if title is None else title, subtitle)
    return finished(figure, path, drawn)


def _chosen(frame: pd.DataFrame) -> np.ndarray:
    if "chosen" not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    if not is_bool_dtype(frame["chosen"]):
        raise FigureError("layer_curves: column 'chosen' must hold true or false")
    return frame["chosen"].to_numpy(dtype=bool)


def _draw_layers(axes: Axes, rows: Frame, statistic: str, methods: Sequence[str]) -> None:
    nothing = 0.5 if statistic == "auc" else 0.0
    axes.axhline(nothing, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    if f"random_{statistic}_p95" in rows:
        band = rows.groupby("layer")[f"random_{statistic}_p95"].max().dropna()
        axes.fill_between(
            band.index, nothing, band, color=RULE, linewidth=0, label="random directions, to 95th percentile"
        )
    for index, method in enumerate(methods):
        curve = rows[rows["method"] == method]
        color, marker = SERIES_COLORS[index % 6], SERIES_MARKERS[index % 6]
        _draw_optional(axes, curve, f"shuffled_{statistic}_p95", color=color, linewidth=1, linestyle=":")
        if curve["chosen"].any():
            _draw_optional(axes, curve, f"tune_{statistic}", color=color, linewidth=0.8, alpha=0.55)
        axes.plot(
            curve["layer"],
            curve[f"test_{statistic}"],
            color=color,
            marker=marker,
            markersize=3.2,
            linewidth=1.3,
            label=words(method),
        )
        low, high = f"test_{statistic}_low", f"test_{statistic}_high"
        if {low, high} <= set(curve.columns):
            axes.vlines(curve["layer"], curve[low], curve[high], color=color, linewidth=1.6)
    _draw_ring(axes, rows[rows["chosen"]], statistic)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_optional(axes: Axes, curve: Frame, column: str, **style: Any) -> None:
    if column in curve and curve[column].notna().any():
        axes.plot(curve["layer"], curve[column], **style)


def _draw_ring(axes: Axes, chosen: Frame, statistic: str) -> None:
    if len(chosen):
        axes.plot(
            chosen["layer"],
            chosen[f"test_{statistic}"],
            linestyle="none",
            marker="o",
            markersize=11,
            markerfacecolor="none",
            markeredgecolor=INK,
            markeredgewidth=1.3,
            label="chosen on tune",
            zorder=5,
        )


def _layer_legend(figure: Figure, panels: Sequence[Sequence[Axes]], drawn: Frame, *, columns: int) -> None:
    """One legend under the panels; what dotted and thin lines are is said once, not by method."""
    handles: dict[str, Any] = {}
    for axes in (axes for row in panels for axes in row):
        handles |= {text: line for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    if any(name.startswith("shuffled") and drawn[name].notna().any() for name in drawn):
        handles["fitted with shuffled labels, 95th percentile"] = Line2D([], [], color=SOFT, linestyle=":")
    if any(name.startswith("tune") for name in drawn) and drawn["chosen"].any():
        handles["on tune"] = Line2D([], [], color=SOFT, linewidth=0.8)
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, fontsize=8, frameon=False
    )


def _chosen_title(drawn: Frame) -> str:
    chosen = drawn[drawn["chosen"]]
    if chosen.empty:
        best = drawn.loc[drawn["test_auc"].idxmax()]
        return (
            f"Separation is best at layer {best['layer']} ({words(best['method'])}): AUC {best['test_auc']:.2f}, "
            f"d_z {significant(best['test_d_z'])} on test"
        )
    is_one_place = (drawn[list(_PLACE)] == drawn[list(_PLACE)].iloc[0]).all(axis=None)
    said = []
    for row in chosen.to_dict("records"):
        place = "" if is_one_place else f"{', '.join(row[name] for name in _PLACE)}, "
        place = f"{row['kind']}, " if len(chosen) > 1 else place
        said.append(
            f"{place}layer {row['layer']}, {words(row['method'])}; on test AUC {row['test_auc']:.2f}, "
            f"d_z {significant(row['test_d_z'])}"
        )
    return f"Chosen on tune: {'. '.join(said)}"


def cosine_heat_map(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw cosines between directions from a square table; numbers stand in the cells if they fit."""
    labels = [str(label) for label in frame.columns]
    if not labels or labels != [str(label) for label in frame.index]:
        raise FigureError(
            "cosine_heat_map: needs a square table with the same labels on both sides, found "
            f"{frame.shape[0]} rows and {frame.shape[1]} columns"
        )
    if len(set(labels)) < len(labels):
        raise FigureError("cosine_heat_map: two directions have the same label; give each its own")
    values = frame.to_numpy(dtype=float)
    if not (np.abs(values) <= 1 + 1e-6).all():
        row, column = np.argwhere(~(np.abs(values) <= 1 + 1e-6))[0]
        raise FigureError(
            f"cosine_heat_map: the cosine of {labels[row]!r} and {labels[column]!r} is {values[row, column]:g}, "
            "not in [-1, 1]"
        )
    count = len(labels)
    margin = min(max(text_width(label, size=8) for label in labels), 3.0)
    room = inches(width, WIDTHS["page"]) - margin - 1.3
    cell = float(np.clip(room / count, 0.1, 0.5))
    figure, [[axes]] = new_panels(
        cell * count + margin + 1.3 if width is None else inches(width, 0), cell * count + margin + 0.3
    )
    texts = [[number(value) for value in row] for row in values]
    draw_cells(axes, values, (-1, 1), texts if cell >= 0.35 else None, label="cosine")
    axes.set_aspect("equal")
    step = max(1, int(np.ceil(0.14 / cell)))
    name_cells(axes.set_xticks, labels, step=step, rotation=90)
    name_cells(axes.set_yticks, labels, step=step)
    axes.invert_yaxis()
    add_titles(figure, _cosine_title(values, labels) if title is None else title, subtitle)
    return finished(
        figure, path, pd.DataFrame(values, index=pd.Index(labels, name="direction"), columns=labels), index=True
    )


def _cosine_title(values: np.ndarray, labels: Sequence[str]) -> str:
    if len(labels) < 2:
        return "One direction"
    apart = np.abs(values[~np.eye(len(labels), dtype=bool)])
    middle, high = (f"{value:.2f}" for value in (np.median(apart), apart.max()))
    return f"{len(labels)} directions: median |cosine| of two {middle}, largest {high}"
