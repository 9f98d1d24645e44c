"""Figures of heads and neurons: which of them a score, an attention or an effect belongs to.

Every function takes a table of plain columns, draws it, and saves PNG, PDF and the drawn rows as CSV.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from scipy import stats

from leakmech.reports.figure_frames import checked, has_interval, head_name, neuron_name
from leakmech.reports.figures import (
    CONDITION_COLORS,
    DIVERGING,
    INK,
    RULE,
    SEQUENTIAL,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    add_color_bar,
    add_titles,
    label_points,
    new_panels,
    number,
    save_with_data,
)

CURVE_POINTS = 300  # of the curve over neurons; more would be drawn within one pixel
_LINE = 0.17  # inches of a line of the list beside a map


# -- maps of all heads -----------------------------------------------------------------------------------------------


def head_heat_map(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    top: int = 10,
    quantity: str = "score",
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """The score of every head, layer by layer; those with the largest size are numbered and named beside the map.

    Parameters
    ----------
    frame
        Columns ``layer, head, score``, one row a head.
    path
        Where to save (suffix ignored): PNG, PDF and CSV.
    top
        How many heads are named.
    quantity
        What the score is, with its unit: the label of the colours.
    title, subtitle
        What is seen (None: the share of the total |score| that the named heads hold); model and data.

    Raises
    ------
    FigureError
        The table has no rows, lacks a column, has two rows for a head or a score that is no number.
    """
    drawn = checked(frame, "head_heat_map", key=("layer", "head"), whole=("layer", "head"), numbers=("score",))
    drawn = drawn.sort_values(["layer", "head"], ignore_index=True)
    if title is None:
        size = drawn["score"].abs()
        title = f"{_first(top, drawn)} of {len(drawn):,} heads hold {_share(size, top)} of the total |score|"
    limit = float(drawn["score"].abs().max()) or 1.0
    texts = _aligned(drawn["score"], top)
    return _head_map(
        drawn, "score", path, DIVERGING, (-limit, limit), top=top, texts=texts, label=quantity, titles=(title, subtitle)
    )


def attention_map(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    top: int = 10,
    quantity: str = "attention to the injection (% of the head's attention)",
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """The share of its attention that every head pays to a span.

    Parameters
    ----------
    frame
        Columns ``layer, head, attention``; attention between 0 and 1, drawn in percent.
    path, top, quantity, title, subtitle
        As of :func:`head_heat_map`.

    Raises
    ------
    FigureError
        As of :func:`head_heat_map`.
    """
    drawn = checked(frame, "attention_map", key=("layer", "head"), whole=("layer", "head"), numbers=("attention",))
    drawn = drawn.sort_values(["layer", "head"], ignore_index=True)
    if title is None:
        best = drawn.loc[drawn["attention"].idxmax()]
        name = head_name(int(best["layer"]), int(best["head"]))
        title = f"{name} looks most at the injection: {best['attention']:.0%} of its attention".replace("%", " %")
        title += f" (median of all heads {drawn['attention'].median():.1%})".replace("%", " %")
    percent = drawn.assign(attention=100 * drawn["attention"])
    limits = (0.0, float(percent["attention"].max()) or 1.0)
    texts = [f"{value:.0f} %" for value in percent["attention"]]
    return _head_map(
        drawn,
        "attention",
        path,
        SEQUENTIAL,
        limits,
        top=top,
        texts=texts,
        label=quantity,
        titles=(title, subtitle),
        scale=100,
    )


def _head_map(
    drawn: pd.DataFrame,
    column: str,
    path: str | Path,
    colors: Colormap,
    limits: tuple[float, float],
    *,
    top: int,
    texts: list[str],
    label: str,
    titles: tuple[str, str],
    scale: float = 1,
) -> list[Path]:
    """Cells, colour bar, and beside them the list of the largest, whose numbers stand in their cells."""
    n_layers, n_heads = int(drawn["layer"].max()) + 1, int(drawn["head"].max()) + 1
    cells = np.full((n_layers, n_heads), np.nan)
    cells[drawn["layer"], drawn["head"]] = scale * drawn[column]
    wide, high = float(np.clip(6 / n_heads, 0.13, 0.36)), float(np.clip(6 / n_layers, 0.13, 0.26))
    width, height = max(wide * n_heads, 2.2), max(high * n_layers, _LINE * (top + 1.5), 1.6)
    options = {"gridspec_kw": {"width_ratios": [width + 0.9, 1.5]}}
    figure, [[axes, key]] = new_panels(width + 2.6, height + 0.6, columns=2, **options)
    mesh = axes.pcolormesh(cells, cmap=colors, vmin=limits[0], vmax=limits[1], edgecolors="white", linewidth=0.4)
    add_color_bar(mesh, axes, label)
    axes.set_facecolor(RULE)  # cells without a row
    for centre, count in ((axes.set_xticks, n_heads), (axes.set_yticks, n_layers)):
        step = next(step for step in (1, 2, 4, 5, 10, 20, 50) if count / step <= 17 or step == 50)
        centre([place + 0.5 for place in range(0, count, step)], [str(place) for place in range(0, count, step)])
    axes.set_xlabel("head", fontsize=9)
    axes.set_ylabel("layer (0 = first)", fontsize=9)
    axes.spines[["left", "bottom"]].set_visible(False)
    _name_largest(axes, key, drawn, column, texts=texts, top=top, limits=limits, scale=scale, height=height)
    add_titles(figure, *titles)
    return save_with_data(figure, path, drawn)


def _name_largest(
    axes: Axes,
    key: Axes,
    drawn: pd.DataFrame,
    column: str,
    *,
    texts: list[str],
    top: int,
    limits: tuple[float, float],
    scale: float,
    height: float,
) -> None:
    key.set_axis_off()
    key.set(xlim=(0, 1), ylim=(height, 0))
    order = drawn[column].abs().sort_values(ascending=False, kind="stable").index[:top]
    if len(order):
        key.text(0.0, 0.05, f"largest {len(order)}", fontsize=8, color=SOFT, va="center")
    for rank, row in enumerate(order, start=1):
        layer, head = drawn["layer"][row], drawn["head"][row]
        dark = abs(scale * drawn[column][row]) > 0.45 * max(map(abs, limits))
        axes.text(
            head + 0.5,
            layer + 0.48,
            str(rank),
            fontsize=6.5,
            ha="center",
            va="center",
            fontweight="bold",
            color="white" if dark else INK,
        )
        line = 0.08 + _LINE * rank
        for x, text, side, color in (
            (0.12, rank, "right", SOFT),
            (0.2, head_name(layer, head), "left", INK),
            (1, texts[row], "right", INK),
        ):
            key.text(x, line, str(text), fontsize=8, ha=side, va="center", color=color)


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
    """The neurons with the largest scores, and what share of the total |score| the first k hold.

    Parameters
    ----------
    frame
        Columns ``layer, neuron, score`` of *all* neurons (the share is of their total), optionally ``low, high``.
    path, quantity, title, subtitle
        As of :func:`head_heat_map`.
    top
        How many neurons get a bar.

    Raises
    ------
    FigureError
        As of :func:`head_heat_map`.
    """
    ranked = checked(
        frame,
        "neuron_ranking",
        key=("layer", "neuron"),
        whole=("layer", "neuron"),
        numbers=("score",),
        optional=("low", "high"),
    )
    drawn = _ranked_neurons(ranked, top)
    best = drawn[drawn["rank"] <= top]
    rows = len(best)
    figure, [[bars, curve]] = new_panels(
        8.2, max(0.19 * rows + 0.7, 2.6), columns=2, gridspec_kw={"width_ratios": [1.15, 1]}
    )
    _draw_bars(bars, best)
    bars.set_xlabel(quantity, fontsize=9)
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
    curve.set_xlabel("first k neurons by |score| (log scale)", fontsize=9)
    curve.set_ylabel("share of the total |score| (%)", fontsize=9)
    if title is None:
        title = f"{rows} of {len(ranked):,} neurons hold {held:.1f} % of the total |score|"
    add_titles(figure, title, subtitle)
    return save_with_data(figure, path, drawn)


def _ranked_neurons(ranked: pd.DataFrame, top: int) -> pd.DataFrame:
    """The first neurons, and from there on as many as a curve over the logarithm of the rank needs."""
    ranked = ranked.iloc[ranked["score"].abs().argsort(kind="stable")[::-1]].reset_index(drop=True)
    size = ranked["score"].abs()
    ranked.insert(0, "rank", ranked.index + 1)
    ranked["share"] = size.cumsum() / (float(size.sum()) or 1.0)
    kept = np.geomspace(1, len(ranked), CURVE_POINTS).round().astype(int)
    return ranked[(ranked["rank"] <= top) | ranked["rank"].isin(kept)].reset_index(drop=True)


def _draw_bars(axes: Axes, best: pd.DataFrame) -> None:
    places = range(len(best))
    colors = [CONDITION_COLORS["positive" if score >= 0 else "negative"] for score in best["score"]]
    axes.barh(places, best["score"], color=colors, height=0.72)
    if has_interval(best):
        axes.hlines(places, best["low"], best["high"], color=INK, linewidth=1.1)
    axes.axvline(0, color=INK, linewidth=0.8)
    names = [neuron_name(layer, neuron) for layer, neuron in zip(best["layer"], best["neuron"], strict=True)]
    axes.set_yticks(places, names, fontsize=8)
    axes.set_ylim(len(best) - 0.4, -0.6)
    axes.set_ylabel("neuron (layer, index)" + ("; line: 95 % interval" if has_interval(best) else ""), fontsize=9)


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
    """A fast method against an exact one, a point a head, and their rank correlation.

    Parameters
    ----------
    frame
        Columns ``layer, head, fast, exact``.
    spearman
        Rank correlation as reported elsewhere; None: of the points drawn.
    top
        How many heads are named: those with the largest exact effect.
    names, unit
        Of the two methods and of their numbers, for the axes.
    path, title, subtitle
        As of :func:`head_heat_map`.

    Raises
    ------
    FigureError
        As of :func:`head_heat_map`.
    """
    drawn = checked(
        frame, "method_agreement", key=("layer", "head"), whole=("layer", "head"), numbers=("fast", "exact")
    )
    if spearman is None and len(drawn) > 2:
        spearman = float(stats.spearmanr(drawn["fast"], drawn["exact"]).statistic)
    figure, [[axes]] = new_panels(5.2, 4.6)
    ends = [float(drawn[["fast", "exact"]].to_numpy().min()), float(drawn[["fast", "exact"]].to_numpy().max())]
    axes.plot(ends, ends, color=SOFT, linewidth=0.9, linestyle="--", label="equal")
    _draw_zero(axes)
    axes.scatter(drawn["exact"], drawn["fast"], s=16, color=SERIES_COLORS[0], alpha=0.6, linewidths=0)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    axes.set_xlabel(f"{names[1]} ({unit})", fontsize=9)
    axes.set_ylabel(f"{names[0]} ({unit})", fontsize=9)
    if title is None:
        value = "not defined" if spearman is None or np.isnan(spearman) else f"{spearman:.2f}".replace("-", "−")
        title = f"{names[0]} against {names[1]} over {len(drawn):,} heads: Spearman {value}"
        title = title[0].upper() + title[1:]
    add_titles(figure, title, subtitle)
    best = drawn.iloc[drawn["exact"].abs().argsort(kind="stable")[::-1]].head(top)
    labels = [head_name(layer, head) for layer, head in zip(best["layer"], best["head"], strict=True)]
    line = pd.DataFrame({"exact": np.linspace(*ends, 200), "fast": np.linspace(*ends, 200)})
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
    """Components that bring affect from the injection, against those that write it out.

    Parameters
    ----------
    frame
        Columns ``layer, component, transport, expression``; component is ``H3``, ``attn``, ``mlp``, ``N873`` or a whole
        name such as ``L12H3``.
    top
        How many components are named in each of the two.
    quantities
        What the two numbers are, with units: the labels of the axes.
    path, title, subtitle
        As of :func:`head_heat_map`.

    Raises
    ------
    FigureError
        As of :func:`head_heat_map`.
    """
    drawn = checked(
        frame,
        "transport_scatter",
        key=("layer", "component"),
        whole=("layer",),
        texts=("component",),
        numbers=("transport", "expression"),
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
    axes.set_xlabel(quantities[0], fontsize=9)
    axes.set_ylabel(quantities[1], fontsize=9)
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


def _label(axes: Axes, chosen: pd.DataFrame, names: list[str], points: pd.DataFrame) -> None:
    pairs = [(float(x), float(y)) for x, y in chosen.to_numpy()]
    if pairs:
        label_points(axes, pairs, names, others=points.to_numpy())


def _share(size: pd.Series, top: int) -> str:
    total = float(size.sum())
    return f"{size.nlargest(top).sum() / total if total else 0:.0%}".replace("%", " %")


def _aligned(scores: pd.Series, top: int) -> list[str]:
    """Scores with as many decimals as the smallest of the `top` needs for two digits."""
    size = scores.abs().nlargest(top)
    size = size[size > 0]
    if size.empty or not size.min() >= 1e-4 or size.max() >= 1e4:
        return [number(score, digits=2, signed=True) for score in scores]
    decimals = max(1 - int(np.floor(np.log10(size.min()))), 0)
    return [f"{score:+.{decimals}f}".replace("-", "−") for score in scores]


def _first(top: int, drawn: pd.DataFrame) -> int:
    return min(top, len(drawn))
