"""Figures of single components: which neurons a score belongs to, and how two numbers of each component compare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from leakmech.reports.cells import number
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    RULE,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    add_titles,
    label_points,
    new_panels,
    save_with_data,
)
from leakmech.reports.figures.frames import Frame, checked, has_interval, head_name, neuron_name

CURVE_POINTS = 300  # of the curve over neurons; more would be drawn within one pixel


# -- neurons ---------------------------------------------------------------------------------------------------------


def neuron_ranking(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    top: int = 25,
    quantity: str = "score",
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """Draw the `top` neurons with the largest scores, and what share of the total |score| the first k hold.

    The table has *all* neurons: the share is of their total.
    """
    ranked = checked(frame, "neuron_ranking", whole=("layer", "neuron"), numbers=("score",), optional=("low", "high"))
    drawn = _ranked_neurons(ranked, top)
    best = drawn[drawn["rank"] <= top]
    rows = len(best)
    figure, [[bars, curve]] = new_panels(
        8.2, max(0.19 * rows + 0.7, 2.6), columns=2, gridspec_kw={"width_ratios": [1.15, 1]}
    )
    _draw_bars(bars, best)
    bars.set_xlabel(quantity)
    curve.plot(drawn["rank"], 100 * drawn["share"], color=SERIES_COLORS[0], linewidth=1.6, label="these neurons")
    curve.plot(
        drawn["rank"],
        100 * drawn["rank"] / len(ranked),
        color=SOFT,
        linewidth=1,
        linestyle="--",
        label="if all were equal",
    )
    held = 100 * float(best["share"].iloc[-1])
    curve.plot(rows, held, marker="o", color=INK, markersize=5)
    curve.annotate(
        f"first {rows}: {held:.1f} %", (rows, held), (-6, 6), textcoords="offset points", ha="right", fontsize=8
    )
    curve.legend(fontsize=8, frameon=False, loc="upper left")
    curve.set(xscale="log", ylim=(0, 102), xlim=(1, max(len(ranked), 2)))
    curve.xaxis.set_major_formatter(lambda rank, _: f"{rank:,.0f}")
    curve.set(xlabel="first k neurons by |score| (log scale)", ylabel="share of the total |score| (%)")
    if title is None:
        title = f"{rows} of {len(ranked):,} neurons hold {held:.1f} % of the total |score|"
    add_titles(figure, title, subtitle)
    return save_with_data(figure, path, drawn)


def _ranked_neurons(ranked: Frame, top: int) -> Frame:
    """The first neurons, and from there on as many as a curve over the logarithm of the rank needs."""
    ranked = ranked.iloc[ranked["score"].abs().argsort(kind="stable")[::-1]].reset_index(drop=True)
    size = ranked["score"].abs()
    ranked.insert(0, "rank", ranked.index + 1)
    ranked["share"] = size.cumsum() / (float(size.sum()) or 1.0)
    kept = np.geomspace(1, len(ranked), CURVE_POINTS).round().astype(int)
    return ranked[(ranked["rank"] <= top) | ranked["rank"].isin(kept)].reset_index(drop=True)


def _draw_bars(axes: Axes, best: Frame) -> None:
    places = range(len(best))
    colors = [CONDITION_COLORS["positive" if score >= 0 else "negative"] for score in best["score"]]
    axes.barh(places, best["score"], color=colors, height=0.72)
    if has_interval(best):
        axes.hlines(places, best["low"], best["high"], color=INK, linewidth=1.1)
    axes.axvline(0, color=INK, linewidth=0.8)
    names = [neuron_name(layer, neuron) for layer, neuron in zip(best["layer"], best["neuron"], strict=True)]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(len(best) - 0.4, -0.6)
    axes.set_ylabel("neuron (layer, index)" + ("; line: 95 % interval" if has_interval(best) else ""))


# -- scatters --------------------------------------------------------------------------------------------------------


def method_agreement(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    spearman: float | None = None,
    top: int = 6,
    names: tuple[str, str] = ("attribution patching", "activation patching"),
    unit: str = "normalised effect",
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """Draw a fast method against an exact one, a point a head, and say their rank correlation.

    `spearman` is that correlation as reported elsewhere (None: of the points drawn). The `top` heads with the largest
    exact effect are named.
    """
    drawn = checked(frame, "method_agreement", whole=("layer", "head"), numbers=("fast", "exact"))
    if spearman is None and len(drawn) > 2 and drawn[["fast", "exact"]].nunique().min() > 1:
        found: Any = stats.spearmanr(drawn["fast"], drawn["exact"])
        spearman = float(found.statistic)
    figure, [[axes]] = new_panels(5.2, 4.6)
    ends = [float(drawn[["fast", "exact"]].to_numpy().min()), float(drawn[["fast", "exact"]].to_numpy().max())]
    axes.plot(ends, ends, color=SOFT, linewidth=0.9, linestyle="--", label="equal")
    _draw_zero(axes)
    axes.scatter(drawn["exact"], drawn["fast"], s=16, color=SERIES_COLORS[0], alpha=0.6, linewidths=0)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set(xlabel=f"{names[1]} ({unit})", ylabel=f"{names[0]} ({unit})")
    if title is None:
        value = "not defined" if spearman is None or np.isnan(spearman) else number(spearman)
        title = f"{names[0]} against {names[1]} over {len(drawn):,} heads: Spearman {value}"
        title = title[0].upper() + title[1:]
    add_titles(figure, title, subtitle)
    best = drawn.iloc[drawn["exact"].abs().argsort(kind="stable")[::-1]].head(top)
    labels = [head_name(layer, head) for layer, head in zip(best["layer"], best["head"], strict=True)]
    diagonal = np.linspace(ends[0], ends[1], 200)
    line = pd.DataFrame({"exact": diagonal, "fast": diagonal})
    _label(axes, best[["exact", "fast"]], labels, pd.concat([drawn[["exact", "fast"]], line]))
    return save_with_data(figure, path, drawn)


def transport_scatter(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    top: int = 5,
    quantities: tuple[str, str] = (
        "transport (effect through reading the injection)",
        "expression (effect on the stem and after)",
    ),
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """Draw components that bring affect from the injection against those that write it out, the `top` of each named.

    A component is ``H3``, ``attn``, ``mlp``, ``N873`` or a whole name such as ``L12H3``.
    """
    drawn = checked(
        frame, "transport_scatter", whole=("layer",), texts=("component",), numbers=("transport", "expression")
    )
    names = [_component_name(layer, part) for layer, part in zip(drawn["layer"], drawn["component"], strict=True)]
    figure, [[axes]] = new_panels(6.2, 4.8)
    _draw_zero(axes)
    kinds = np.array([_component_kind(name) for name in names])
    for index, kind in enumerate(("attention head", "neuron", "MLP", "attention layer")):
        points = drawn[kinds == kind]
        if len(points):
            axes.scatter(
                points["transport"],
                points["expression"],
                s=20,
                color=SERIES_COLORS[index],
                marker=SERIES_MARKERS[index],
                alpha=0.65,
                linewidths=0,
                label=f"{kind} ({len(points):,})",
            )
    axes.legend(fontsize=8, frameon=False, loc="best")
    axes.set(xlabel=quantities[0], ylabel=quantities[1])
    orders = {column: drawn[column].abs().argsort(kind="stable")[::-1] for column in ("transport", "expression")}
    if title is None:
        first = {column: ", ".join(names[row] for row in order[: min(top, 3)]) for column, order in orders.items()}
        title = f"Strongest in transport: {first['transport']}; strongest in expression: {first['expression']}"
    add_titles(figure, title, subtitle)
    rows = list(
        dict.fromkeys(row for pair in zip(*(order[:top] for order in orders.values()), strict=True) for row in pair)
    )
    points = drawn[["transport", "expression"]]
    _label(axes, points.iloc[rows], [names[row] for row in rows], points)
    return save_with_data(figure, path, drawn)


def _component_name(layer: int, component: str) -> str:
    if re.match(r"L\d", component):
        return component
    return f"L{layer}{component}" if re.fullmatch(r"[HN]\d+", component) else f"L{layer}.{component}"


def _component_kind(name: str) -> str:
    if re.search(r"H\d+$", name):
        return "attention head"
    if re.search(r"N\d+$", name):
        return "neuron"
    return "MLP" if name.endswith("mlp") else "attention layer"


def _draw_zero(axes: Axes) -> None:
    axes.axhline(0, color=RULE, linewidth=0.8, zorder=0)
    axes.axvline(0, color=RULE, linewidth=0.8, zorder=0)


def _label(axes: Axes, chosen: Frame, names: list[str], points: Frame) -> None:
    pairs = [(float(x), float(y)) for x, y in chosen.to_numpy()]
    if pairs:
        label_points(axes, pairs, names, others=points.to_numpy())
