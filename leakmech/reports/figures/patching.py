"""Effects of patching by layer and region, and how much of an effect the first components of a ranking hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leakmech.core.errors import FigureError, nearest
from leakmech.prompts.locate import REGIONS
from leakmech.reports.cells import significant
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
    wrapped,
)
from leakmech.reports.figures.frames import Frame, checked, has_interval, words


def patching_map(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    quantity: str = "normalised effect (%)",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw what patching the residual stream does, layer by layer and region by region.

    An effect of 1 is the whole effect, drawn as 100 %.
    """
    drawn = checked(frame, "patching_map", whole=("layer",), texts=("position",), numbers=("effect",))
    regions = sorted(dict.fromkeys(drawn["position"]), key=lambda name: REGIONS.index(name) if name in REGIONS else 99)
    layers = sorted(set(drawn["layer"].tolist()))  # only those that were patched
    n_layers = len(layers)
    cells = np.full((n_layers, len(regions)), np.nan)
    rows = [layers.index(layer) for layer in drawn["layer"]]
    cells[rows, [regions.index(name) for name in drawn["position"]]] = 100 * drawn["effect"]
    limit = float(np.nanmax(np.abs(cells))) or 1.0
    high = float(np.clip(6 / n_layers, 0.13, 0.3))
    wide = max(0.75, *(text_width(name, size=8.5) + 0.2 for name in regions))
    figure, [[axes]] = new_panels(inches(width, wide * len(regions) + 1.9), max(high * n_layers, 1.5) + 0.6)
    texts = [["" if np.isnan(cell) else f"{cell:.0f}".replace("-0", "0") for cell in row] for row in cells]
    draw_cells(axes, cells, (-limit, limit), texts if high > 0.14 else None, label=quantity)
    name_cells(axes.set_xticks, regions)
    name_cells(axes.set_yticks, layers, step=max(1, round(n_layers / 16)))
    axes.set(xlabel="patched region of the prompt", ylabel="layer (0 = first)")
    if title is None:
        best = drawn.loc[drawn.groupby("position")["effect"].idxmax()].set_index("position")
        parts = [f"{name} {100 * best['effect'][name]:.0f} % (layer {best['layer'][name]})" for name in regions]
        title = f"Largest effect by region: {', '.join(parts)}"
    add_titles(figure, title, subtitle)
    return finished(figure, path, drawn)


_MODES = {"keep": "only the first k kept", "remove": "the first k removed"}
_BASELINES = {"random": (SOFT, "--"), "magnitude": (INK, ":")}


def faithfulness_curves(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    areas: Mapping[str, Mapping[str, float]] | None = None,
    components: str = "components",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw how much of the effect the first k components keep, and how much is left when they are removed.

    A ranking is a method, ``random`` or ``magnitude``; `areas` are said in its legend, such as
    ``{"random": {"CPR": 0.4, "CMD": 0.6}}``. Faithfulness is 1 as the whole model, 0 as without any component.
    """
    drawn = checked(
        frame,
        "faithfulness_curves",
        key=("mode", "ranking", "fraction"),
        texts=("mode", "ranking"),
        numbers=("fraction", "faithfulness"),
        optional=("low", "high"),
    ).sort_values(["mode", "ranking", "fraction"], ignore_index=True)
    areas = areas or {}
    _check_faithfulness(drawn, areas)
    rankings = [name for name in dict.fromkeys(drawn["ranking"]) if name not in _BASELINES]
    rankings += [name for name in _BASELINES if name in set(drawn["ranking"])]
    modes = [mode for mode in _MODES if mode in set(drawn["mode"])]
    whole = inches(width, WIDTHS["page"] if len(modes) > 1 else 4.1)
    down, across = (len(modes), 1) if whole < NARROW else (1, len(modes))
    figure, grid = new_panels(whole, 2.6 * down + 0.9, rows=down, columns=across, sharey=True)
    panels = [axes for row in grid for axes in row]
    for axes, mode in zip(panels, modes, strict=True):
        for index, ranking in enumerate(rankings):
            curve = drawn[(drawn["mode"] == mode) & (drawn["ranking"] == ranking)]
            _draw_faithfulness(axes, curve, index, _with_areas(ranking, areas))
        for level in (0, 1):
            axes.axhline(level, color=RULE, linewidth=0.8, zorder=0)
        low = 100 * float(drawn["fraction"].min())
        axes.set(xscale="log", xlim=(min(0.1, low), 110))
        axes.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
        axes.set_title(_MODES[mode], fontsize=9, loc="left")
        axes.set_xlabel(
            "\n".join(wrapped(f"k: share of all {components} (%, log scale)", whole / across - 0.7, size=9))
        )
    for [first, *_] in grid:
        first.set_ylabel("faithfulness (1 = whole model)")
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=2 if whole >= 6 else 1,
        fontsize=8,
        frameon=False,
    )
    add_titles(figure, _faithfulness_title(drawn, rankings) if title is None else title, subtitle)
    return finished(figure, path, drawn)


def _check_faithfulness(drawn: Frame, areas: Mapping[str, object]) -> None:
    for mode in drawn["mode"]:
        if mode not in _MODES:
            raise FigureError(f"faithfulness_curves: mode {mode!r}; valid: {', '.join(_MODES)}")
    fractions = drawn["fraction"]
    if not ((fractions > 0) & (fractions <= 1)).all():
        wrong = fractions[(fractions <= 0) | (fractions > 1)].iloc[0]
        raise FigureError(f"faithfulness_curves: fraction {wrong:g} is not in (0, 1]; 0.01 means 1 % of the components")
    for name in areas:
        if name not in set(drawn["ranking"]):
            raise FigureError(
                f"faithfulness_curves: areas of ranking {name!r}, which has no curve"
                f"{nearest(name, set(drawn['ranking']))}"
            )


def _draw_faithfulness(axes: Axes, curve: Frame, index: int, label: str) -> None:
    if curve.empty:
        return
    ranking = curve["ranking"].iloc[0]
    color, style = _BASELINES.get(ranking, (SERIES_COLORS[index % 6], "-"))
    marker = "" if ranking in _BASELINES else SERIES_MARKERS[index % 6]
    share = 100 * curve["fraction"]
    if has_interval(curve):
        axes.fill_between(share, curve["low"], curve["high"], color=color, alpha=0.18, linewidth=0)
    axes.plot(
        share,
        curve["faithfulness"],
        color=color,
        linestyle=style,
        marker=marker,
        markersize=3.5,
        linewidth=1.5,
        label=label,
    )


def _with_areas(ranking: str, areas: Mapping[str, Mapping[str, float]]) -> str:
    texts = [f"{name} {value:.2f}" for name, value in areas.get(ranking, {}).items()]
    name = {"random": "random components", "magnitude": "by magnitude"}.get(ranking, words(ranking))
    return f"{name} ({', '.join(texts)})" if texts else name


def _faithfulness_title(drawn: Frame, rankings: Sequence[str]) -> str:
    """How many components reach faithfulness 0.8, by the best ranking and by chance."""
    kept = drawn[(drawn["mode"] == "keep") & (drawn["faithfulness"] >= 0.8)]
    first = kept.groupby("ranking")["fraction"].min().reindex(rankings).dropna()
    methods = first[[name for name in first.index if name not in _BASELINES]]
    if methods.empty:
        return "Faithfulness of the first k components"
    best = str(methods.idxmin())
    share = significant(100 * methods[best], digits=2)
    text = f"The first {share} % of the components ({words(best)}) reach faithfulness 0.8"
    if "random" in first.index:
        text += f"; random ones need {significant(100 * first['random'], digits=2)} %"
    return text
