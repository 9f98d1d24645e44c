"""A scatter of two numbers of which one is bought with the other, and its Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leakmech.reports.figures.canvas import (
    INK,
    NARROW,
    RULE,
    SERIES_COLORS,
    SOFT,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    new_panels,
    text_width,
)
from leakmech.reports.figures.frames import Frame, checked

Axis = tuple[str, str]
"""A column and its label."""
_LINE = 0.155  # inches of a line of the list of names
_MARKS = ("o", "s", "H", "D", "8", "h", "o")
_OTHER = {"c": INK, "edgecolors": "white", "marker": "o", "linewidths": 0.9}


def trade_off(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    x: Axis,
    y: Axis,
    kinds: Sequence[str],
    bounds: Sequence[str] = (),
    goal: float | None = None,
    beside: Sequence[str] = (),
    title: str,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw what each of many changes gives in one number and keeps in another, and which of them nothing beats in both.

    Numbered marks, whose names stand beside the plot, are measured on test samples, with their intervals; thin lines
    join the strengths of a family on the samples on which they are chosen. The dashed line is the Pareto front of what
    was tested, without kinds that are `bounds`; `goal` is what both numbers should reach at once. A name's family is
    what stands before its last hyphen; columns `beside` only go into the CSV.
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
    places = drawn.rename(columns=dict(zip(columns, ("x", "y"), strict=True)))
    tested = places.loc[places["split"] == "test"].sort_values("x", ascending=False, kind="stable")
    whole, list_height = inches(width, WIDTHS["page"]), _LINE * (len(tested) + len(set(tested["kind"])) + 2)
    longest = max((text_width(name, size=7.5) for name in tested["name"]), default=1.0)
    in_two = whole < NARROW and longest < whole / 2 - 0.5
    if whole < NARROW:
        sizes = [2.8, list_height / (2 if in_two else 1)]
        figure, [[axes], [key]] = new_panels(whole, sum(sizes), rows=2, gridspec_kw={"height_ratios": sizes})
    else:
        ratios = [whole - longest - 1.1, longest + 0.4]
        figure, [[axes, key]] = new_panels(
            whole, max(4.2, list_height), columns=2, gridspec_kw={"width_ratios": ratios}
        )
    if goal is not None:
        axes.fill_between([goal, 1.6], goal, 1.6, color=SERIES_COLORS[2], alpha=0.08, linewidth=0)
    for value in (0, 1):
        axes.axvline(value, color=RULE, linewidth=0.8, zorder=0)
        axes.axhline(value, color=RULE, linewidth=0.8, zorder=0)
    _draw_sweeps(axes, places.loc[places["split"] == "tune"])
    front = _front(tested.loc[~tested["kind"].isin(bounds)])
    if len(front) > 1:
        axes.plot(front["x"], front["y"], color=INK, linestyle="--", linewidth=0.9, label="Pareto front", zorder=2)
    looks, best = _looks(kinds, bounds), set(front["name"]) if len(front) > 1 else set()
    _draw_tested(axes, tested, columns, looks, front=best)
    axes.set_xlim(*_range(places["x"]))
    axes.set_ylim(*_range(places["y"]))
    axes.set(xlabel=x[1], ylabel=y[1])
    _name_tested(key, tested, looks, front=best, columns=2 if in_two else 1)
    add_titles(figure, title, subtitle)
    return finished(figure, path, drawn)


def _draw_sweeps(axes: Axes, rows: Frame) -> None:
    families = [name.rpartition("-")[0] for name in rows["name"]]
    for _, family in rows.groupby(families, sort=False):
        axes.plot(family["x"], family["y"], color=SOFT, linewidth=0.5, alpha=0.5, zorder=1)


def _looks(kinds: Sequence[str], bounds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and mark of each kind; those of `bounds` are hollow."""
    looks = {}
    for kind, color, marker in zip(kinds, (*SERIES_COLORS, SOFT), _MARKS, strict=False):
        look = {"c": "white", "edgecolors": color} if kind in bounds else {"c": color, "edgecolors": "white"}
        looks[kind] = look | {"marker": marker, "linewidths": 0.9}
    return looks


def _ink(look: Mapping[str, Any]) -> str:
    return look["edgecolors"] if look["c"] == "white" else look["c"]


def _draw_tested(
    axes: Axes, rows: Frame, columns: tuple[str, str], looks: Mapping[str, Mapping[str, Any]], *, front: set[str]
) -> None:
    for place, (_, row) in enumerate(rows.iterrows(), start=1):
        look, strong = looks.get(row["kind"], _OTHER), row["name"] in front
        for axis, name in zip(("x", "y"), columns, strict=True):
            low, high = (row.get(f"{name}_{end}", np.nan) for end in ("low", "high"))
            if np.isfinite([low, high]).all():
                ends = {"x": [row["x"]] * 2, "y": [row["y"]] * 2} | {axis: [low, high]}
                wide, alpha = (1.1, 0.9) if strong else (0.6, 0.3)
                axes.plot(ends["x"], ends["y"], color=_ink(look), linewidth=wide, alpha=alpha, zorder=2)
        at, above = (row["x"], row["y"]), 3 + place / 1000
        axes.scatter(*at, s=80, zorder=above, **look)
        color = look["edgecolors"]  # white on a filled mark
        axes.annotate(
            str(place), at, ha="center", va="center_baseline", fontsize=6, color=color, weight="bold", zorder=above
        )


def _name_tested(
    key: Axes, rows: Frame, looks: Mapping[str, Mapping[str, Any]], *, front: set[str], columns: int
) -> None:
    """List the numbered marks under their kinds; those on the front are bold."""
    key.set_axis_off()
    numbered = rows.assign(place=range(1, len(rows) + 1))
    given = [kind for kind in looks if kind in set(rows["kind"])]
    lines: list[tuple[str, Any]] = [("front", None)] if front else []
    for kind in [*given, *sorted(set(rows["kind"]) - set(looks))]:
        lines.append((kind, None))
        lines += [(kind, row) for row in numbered[numbered["kind"] == kind].itertuples()]
    high = -(-len(lines) // columns)
    text = {"fontsize": 7.5, "va": "center_baseline", "parse_math": False}
    for at, (kind, row) in enumerate(lines):
        left, line, look = at // high, at % high, looks.get(kind, _OTHER)
        if kind == "front":
            key.plot([left, left + 0.1], [line, line], color=INK, linestyle="--", linewidth=0.9, clip_on=False)
            key.text(left + 0.13, line, "Pareto front (bold)", color=SOFT, **text)
        elif row is None:
            key.scatter(left + 0.04, line, s=30, clip_on=False, **look)
            key.text(left + 0.1, line, kind, color=SOFT, **text)
        else:
            key.text(left + 0.13, line, str(row.place), color=_ink(look), ha="right", weight="bold", **text)
            weight = "bold" if row.name in front else "normal"
            key.text(left + 0.17, line, row.name, color=INK, weight=weight, **text)
    key.set(xlim=(0, columns), ylim=(high - 0.4, -0.6))


def _front(rows: Frame) -> Frame:
    """The rows that no other one beats in both numbers, from the right."""
    ordered = rows.sort_values("x", ascending=False, kind="stable")
    before = ordered["y"].cummax().shift(fill_value=-np.inf)
    return ordered[ordered["y"] > before]


def _range(values: pd.Series) -> tuple[float, float]:
    return min(-0.1, float(values.min()) - 0.1), max(1.15, float(values.max()) + 0.1)
