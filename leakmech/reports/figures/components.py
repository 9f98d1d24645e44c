"""Figures of single components: which neurons a score belongs to, and how two numbers of each component compare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator
from scipy import stats

from leakmech.reports.cells import number, significant
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    NARROW,
    RULE,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    label_points,
    new_panels,
    wrapped,
)
from leakmech.reports.figures.frames import Frame, checked, has_interval, head_name, neuron_name

CURVE_POINTS = 300  # of the curve over neurons; more would be drawn within one pixel
_MOST, _FAR = 0.9, 4
"""An axis is stretched where the farthest component is more than four times as far as nine in ten are."""


# -- neurons ---------------------------------------------------------------------------------------------------------


def neuron_ranking(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    top: int = 20,
    quantity: str = "score",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw the `top` neurons with the largest scores, and what share of the total |score| the first k hold.

    The table has *all* neurons: the share is of their total, on logarithmic axes, where equal scores are a straight
    line.
    """
    ranked = checked(frame, "neuron_ranking", whole=("layer", "neuron"), numbers=("score",), optional=("low", "high"))
    drawn = _ranked_neurons(ranked, top)
    best = drawn[drawn["rank"] <= top]
    whole, high = inches(width, WIDTHS["page"]), max(0.17 * len(best) + 0.7, 2.4)
    if whole < NARROW:
        sizes = [high, 2.2]
        figure, [[scores], [curve]] = new_panels(whole, sum(sizes), rows=2, gridspec_kw={"height_ratios": sizes})
    else:
        figure, [[scores, curve]] = new_panels(whole, high, columns=2)
    _draw_neurons(scores, best)
    scores.set_xlabel(quantity + (" (line: 95 % interval)" if has_interval(best) else ""))
    held = _draw_held(curve, drawn, len(best), len(ranked))
    if title is None:
        title = f"{len(best)} of {len(ranked):,} neurons hold {held:.1f} % of the total |score|"
    add_titles(figure, title, subtitle)
    return finished(figure, path, drawn)


def _ranked_neurons(ranked: Frame, top: int) -> Frame:
    """The first neurons, and from there on as many as a curve over the logarithm of the rank needs."""
    ranked = ranked.iloc[ranked["score"].abs().argsort(kind="stable")[::-1]].reset_index(drop=True)
    size = ranked["score"].abs()
    ranked.insert(0, "rank", ranked.index + 1)
    ranked["share"] = size.cumsum() / (float(size.sum()) or 1.0)
    kept = np.geomspace(1, len(ranked), CURVE_POINTS).round().astype(int)
    return ranked[(ranked["rank"] <= top) | ranked["rank"].isin(kept)].reset_index(drop=True)


def _draw_neurons(axes: Axes, best: Frame) -> None:
    """A point a neuron, joined to zero; those that work against the shift are hollow squares."""
    axes.axvline(0, color=INK, linewidth=0.8)
    for color, marker, face, rows, name in (
        (CONDITION_COLORS["positive"], "o", None, best[best["score"] >= 0], "carries the shift"),
        (CONDITION_COLORS["negative"], "s", "white", best[best["score"] < 0], "works against it"),
    ):
        if rows.empty:
            continue
        places = rows["rank"] - 1
        axes.hlines(places, 0, rows["score"], color=color, linewidth=0.8, alpha=0.5)
        if has_interval(rows):
            axes.hlines(places, rows["low"], rows["high"], color=color, linewidth=1.6)
        style: Any = {"color": color, "markerfacecolor": face or color, "linestyle": "none", "label": name}
        axes.plot(rows["score"], places, marker=marker, markersize=4.5, **style)
    names = [neuron_name(layer, neuron) for layer, neuron in zip(best["layer"], best["neuron"], strict=True)]
    axes.set_yticks(range(len(best)), names, fontsize=7.5)
    axes.set_ylim(len(best) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_ylabel("neuron (layer, index)")
    axes.legend(fontsize=7.5, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, borderpad=0.2)


def _draw_held(axes: Axes, drawn: Frame, rows: int, count: int) -> float:
    """The share that the first k hold, in per cent, and the one of the first `rows`, which is returned."""
    share, equal = 100 * drawn["share"], 100 * drawn["rank"] / count
    axes.plot(drawn["rank"], share, color=SERIES_COLORS[0], linewidth=1.6)
    axes.plot(drawn["rank"], equal, color=SOFT, linewidth=1, linestyle="--")
    held = float(share.iloc[rows - 1])
    axes.plot(rows, held, marker="o", color=INK, markersize=4.5)
    text = f"first {rows}: {held:.1f} %, {significant(held * count / (100 * rows), digits=2)} x an equal share"
    axes.set_title(text, fontsize=7.5, loc="left", color=INK)
    middle = (count**0.5, 100 / count**0.5)
    axes.annotate("all equal", middle, (4, -3), textcoords="offset points", va="top", fontsize=7.5, color=SOFT)
    least = 10 ** np.floor(np.log10(max(float(equal.min()), 1e-4)))
    axes.set(xscale="log", yscale="log", xlim=(1, max(count, 2)), ylim=(least, 130))
    axes.xaxis.set_major_formatter(lambda rank, _: f"{rank:,.0f}")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    axes.set(xlabel="first k neurons by |score|", ylabel="share of the total |score| (%)")
    return held


# -- scatters --------------------------------------------------------------------------------------------------------


def method_agreement(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    spearman: float | None = None,
    top: int = 6,
    names: tuple[str, str] = ("attribution patching", "activation patching"),
    unit: str = "normalised effect",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw a fast method against an exact one, a point a head, and say their rank correlation.

    `spearman` is that correlation as reported elsewhere (None: of the points drawn). The `top` heads with the largest
    exact effect are named.
    """
    drawn = checked(frame, "method_agreement", whole=("layer", "head"), numbers=("fast", "exact"))
    if spearman is None and len(drawn) > 2 and drawn[["fast", "exact"]].nunique().min() > 1:
        found: Any = stats.spearmanr(drawn["fast"], drawn["exact"])
        spearman = float(found.statistic)
    whole = inches(width, 5.2)
    figure, [[axes]] = new_panels(whole, min(whole, 4.6))
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
    return finished(figure, path, drawn)


def transport_scatter(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    top: int = 5,
    quantities: tuple[str, str] = (
        "transport (effect through reading the injection)",
        "expression (effect on the stem and after)",
    ),
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw components that bring affect from the injection against those that write it out, the `top` of each named.

    An axis on which a few lie far from the rest is linear up to where nine in ten are, and logarithmic beyond.
    A component is ``3`` or ``H3``, ``attn``, ``mlp``, ``N873`` or a whole name such as ``L12H3``.
    """
    drawn = checked(
        frame, "transport_scatter", whole=("layer",), texts=("component",), numbers=("transport", "expression")
    )
    names = [_component_name(layer, part) for layer, part in zip(drawn["layer"], drawn["component"], strict=True)]
    orders = {column: drawn[column].abs().argsort(kind="stable")[::-1] for column in ("transport", "expression")}
    rows = list(
        dict.fromkeys(row for pair in zip(*(order[:top] for order in orders.values()), strict=True) for row in pair)
    )
    whole = inches(width, 5.4)
    figure, [[axes]] = new_panels(whole, min(whole + 0.4, 4.6))
    edges = [
        _stretch(axes.xaxis, axes.set_xscale, drawn["transport"].abs()),
        _stretch(axes.yaxis, axes.set_yscale, drawn["expression"].abs()),
    ]
    _draw_zero(axes)
    _draw_kinds(axes, drawn, [_component_kind(name) for name in names], set(rows))
    axes.legend(
        fontsize=7.5,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1),
        ncols=1 if whole < NARROW else 4,
        handletextpad=0.1,
        columnspacing=1,
    )
    for set_label, text, edge in zip((axes.set_xlabel, axes.set_ylabel), quantities, edges, strict=True):
        text += "" if edge is None else f", log beyond ±{edge:g}"
        set_label("\n".join(wrapped(text, min(whole, 4.6) - 1.2, size=9)))
    if title is None:
        first = {column: ", ".join(names[row] for row in order[: min(top, 3)]) for column, order in orders.items()}
        title = f"Strongest in transport: {first['transport']}; strongest in expression: {first['expression']}"
    add_titles(figure, title, subtitle)
    points = drawn[["transport", "expression"]]
    _label(axes, points.iloc[rows], [names[row] for row in rows], points)
    return finished(figure, path, drawn)


def _stretch(axis: Any, set_scale: Any, sizes: Frame) -> float | None:
    """Make an axis logarithmic beyond where most components are, if few are far from them; the edge, else None."""
    some = sizes[sizes > 0]
    if some.empty or some.max() < _FAR * some.quantile(_MOST):
        return None
    edge = float(f"{some.quantile(_MOST):.0e}")
    steps = [edge]
    while steps[-1] < some.max():
        steps.append(steps[-1] * 10)
    set_scale("symlog", linthresh=edge, linscale=0.8)
    axis.set_major_locator(FixedLocator([*(-step for step in reversed(steps)), 0, *steps]))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    return edge


def _draw_kinds(axes: Axes, drawn: Frame, kinds: list[str], named: set[int]) -> None:
    """Marks by kind of component, pale for those that are not named."""
    for index, kind in enumerate(("attention head", "neuron", "MLP", "attention layer")):
        own = [row for row, found in enumerate(kinds) if found == kind]
        if not own:
            continue
        look = {"color": SERIES_COLORS[index], "marker": SERIES_MARKERS[index], "linewidths": 0}
        for rows, alpha, size in (
            ([r for r in own if r not in named], 0.3, 14),
            ([r for r in own if r in named], 1, 26),
        ):
            part = drawn.iloc[rows]
            axes.scatter(part["transport"], part["expression"], s=size, alpha=alpha, **look)
        axes.scatter([], [], s=24, label=f"{kind} ({len(own):,})", **look)


def _component_name(layer: int, component: str) -> str:
    if re.match(r"L\d", component):
        return component
    if component.isdecimal():
        return head_name(layer, int(component))
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
