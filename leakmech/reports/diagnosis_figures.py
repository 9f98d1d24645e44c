"""Figures of a diagnosis: where affect can be read, where it acts, and how much of it the named components hold.

Every function takes a table of plain columns, draws it, and saves PNG, PDF and the drawn rows as CSV. The figures of
single components and of the tokens of a prompt are in modules of their own and can be imported from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from pandas.api.types import is_bool_dtype

from leakmech.errors import FigureError, nearest
from leakmech.reports.component_figures import (
    attention_map,
    head_heat_map,
    method_agreement,
    neuron_ranking,
    transport_scatter,
)
from leakmech.reports.figure_frames import checked, has_interval
from leakmech.reports.figures import (
    DIVERGING,
    INK,
    RULE,
    SERIES_COLORS,
    SERIES_MARKERS,
    SOFT,
    add_color_bar,
    add_titles,
    new_panels,
    number,
    save_with_data,
    text_width,
)
from leakmech.reports.token_figure import token_projection

__all__ = [
    "attention_map",
    "cosine_heat_map",
    "faithfulness_curves",
    "head_heat_map",
    "layer_curves",
    "method_agreement",
    "neuron_ranking",
    "patching_map",
    "token_projection",
    "transport_scatter",
]

_PLACE = ("site", "position", "kind")
_STATISTICS = {"auc": "AUC on test", "d_z": "d_z on test"}
_SPREAD = ("random_{}_p95", "shuffled_{}_p95", "test_{}_low", "test_{}_high", "tune_{}")
REGIONS = ("injection", "stem", "tail", "last")


# -- directions ------------------------------------------------------------------------------------------------------


def layer_curves(frame: pd.DataFrame, path: str | Path, *, title: str | None = None, subtitle: str = "") -> list[Path]:
    """How well directions separate positive from negative, layer by layer and method by method.

    Random directions are a grey area from chance to their 95th percentile, fits with shuffled labels dotted lines at
    theirs; a ring marks the direction that was chosen on ``tune``, a thin line how its method did there.

    Parameters
    ----------
    frame
        Columns ``site, position, kind, method, layer, test_auc, test_d_z`` and, drawn where they are there, ``chosen``,
        ``random_auc_p95, shuffled_auc_p95, test_auc_low, test_auc_high, tune_auc`` and the same of ``d_z``. Each site,
        position and kind gets a row of panels.
    path, title, subtitle
        As of :func:`~leakmech.reports.component_figures.head_heat_map`.

    Raises
    ------
    FigureError
        The table has no rows, lacks a column, has two rows for one method and layer, more than four places, or a
        value that is no number.
    """
    drawn = checked(
        frame,
        "layer_curves",
        key=(*_PLACE, "method", "layer"),
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
    figure, panels = new_panels(8.2, 2.7 * len(places) + 0.5, rows=len(places), columns=2, sharex=True)
    methods = list(dict.fromkeys(drawn["method"]))
    for axes_pair, (place, rows) in zip(panels, places, strict=True):
        for axes, (statistic, label) in zip(axes_pair, _STATISTICS.items(), strict=True):
            _draw_layers(axes, rows, statistic, methods)
            axes.set_ylabel(label, fontsize=9)
        if len(places) > 1:
            axes_pair[0].set_title(", ".join(map(str, place)), fontsize=9, color=SOFT, loc="left", parse_math=False)
    for axes in panels[-1]:
        axes.set_xlabel("layer (0 = first)", fontsize=9)
    _layer_legend(figure, panels, drawn)
    add_titles(figure, _chosen_title(drawn) if title is None else title, subtitle)
    return save_with_data(figure, path, drawn)


def _chosen(frame: pd.DataFrame) -> np.ndarray:
    if "chosen" not in frame.columns:
        return np.zeros(len(frame), dtype=bool)
    if not is_bool_dtype(frame["chosen"]):
        raise FigureError("layer_curves: column 'chosen' must hold true or false")
    return frame["chosen"].to_numpy(dtype=bool)


def _draw_layers(axes: Axes, rows: pd.DataFrame, statistic: str, methods: Sequence[str]) -> None:
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
            label=_words(method),
        )
        low, high = f"test_{statistic}_low", f"test_{statistic}_high"
        if {low, high} <= set(curve.columns):
            axes.vlines(curve["layer"], curve[low], curve[high], color=color, linewidth=1.6)
    _draw_ring(axes, rows[rows["chosen"]], statistic)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_optional(axes: Axes, curve: pd.DataFrame, column: str, **style: Any) -> None:
    if column in curve and curve[column].notna().any():
        axes.plot(curve["layer"], curve[column], **style)


def _draw_ring(axes: Axes, chosen: pd.DataFrame, statistic: str) -> None:
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


def _layer_legend(figure: Figure, panels: Sequence[Sequence[Axes]], drawn: pd.DataFrame) -> None:
    """One legend under the panels; what dotted and thin lines are is said once, not by method."""
    handles: dict[str, Any] = {}
    for axes in (axes for row in panels for axes in row):
        handles |= {text: line for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    if any(name.startswith("shuffled") and drawn[name].notna().any() for name in drawn):
        handles["fitted with shuffled labels, 95th percentile"] = Line2D([], [], color=SOFT, linestyle=":")
    if any(name.startswith("tune") for name in drawn) and drawn["chosen"].any():
        handles["on tune"] = Line2D([], [], color=SOFT, linewidth=0.8)
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)


def _chosen_title(drawn: pd.DataFrame) -> str:
    chosen = drawn[drawn["chosen"]]
    if len(chosen) != 1:
        best = drawn.loc[drawn["test_auc"].idxmax()]
        return (
            f"Separation is best at layer {best['layer']} ({_words(best['method'])}): AUC {best['test_auc']:.2f}, "
            f"d_z {number(best['test_d_z'])} on test"
        )
    row = chosen.iloc[0]
    return (
        f"Chosen on tune: layer {row['layer']}, {_words(row['method'])}; on test AUC {row['test_auc']:.2f}, "
        f"d_z {number(row['test_d_z'])}"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def cosine_heat_map(
    frame: pd.DataFrame, path: str | Path, *, title: str | None = None, subtitle: str = ""
) -> list[Path]:
    """Cosines between directions; numbers stand in the cells where they fit.

    Parameters
    ----------
    frame
        Square, with the same labels as index and as columns.
    path, title, subtitle
        As of :func:`~leakmech.reports.component_figures.head_heat_map`.

    Raises
    ------
    FigureError
        The table is empty or not square with the same labels, or holds a value outside [-1, 1].
    """
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
    cell = float(np.clip(6 / count, 0.16, 0.5))
    margin = min(max(text_width(label, size=8) for label in labels), 3.0)
    figure, [[axes]] = new_panels(cell * count + margin + 1.3, cell * count + margin + 0.3)
    texts = [[f"{value:.2f}".replace("-", "−") for value in row] for row in values]
    _draw_cells(axes, values, (-1, 1), texts if cell >= 0.35 else None, label="cosine")
    axes.set_aspect("equal")
    shown = range(0, count, max(1, int(np.ceil(0.14 / cell))))
    axes.set_xticks([place + 0.5 for place in shown], [labels[place] for place in shown], rotation=90, parse_math=False)
    axes.set_yticks([place + 0.5 for place in shown], [labels[place] for place in shown], parse_math=False)
    axes.invert_yaxis()
    add_titles(figure, _cosine_title(values, labels) if title is None else title, subtitle)
    return save_with_data(
        figure, path, pd.DataFrame(values, index=pd.Index(labels, name="direction"), columns=labels), index=True
    )


def _cosine_title(values: np.ndarray, labels: Sequence[str]) -> str:
    if len(labels) < 2:
        return "One direction"
    apart = np.abs(values[~np.eye(len(labels), dtype=bool)])
    middle, high = (f"{value:.2f}" for value in (np.median(apart), apart.max()))
    return f"{len(labels)} directions: median |cosine| of two {middle}, largest {high}"


def _draw_cells(
    axes: Axes,
    values: np.ndarray,
    limits: tuple[float, float],
    texts: Sequence[Sequence[str]] | None,
    *,
    label: str,
    colors: Colormap = DIVERGING,
) -> None:
    """A matrix with its colour bar and, if given, a text in every cell."""
    mesh = axes.pcolormesh(values, cmap=colors, vmin=limits[0], vmax=limits[1], edgecolors="white", linewidth=0.5)
    add_color_bar(mesh, axes, label)
    axes.set_facecolor(RULE)
    axes.spines[["left", "bottom"]].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if texts is not None and np.isfinite(value):
            dark = abs(value) > 0.45 * max(map(abs, limits))
            axes.text(
                column + 0.5,
                row + 0.5,
                texts[row][column],
                fontsize=6.5,
                ha="center",
                va="center",
                color="white" if dark else INK,
            )


# -- causal effects --------------------------------------------------------------------------------------------------


def patching_map(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    quantity: str = "normalised effect (%)",
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """What patching the residual stream does, layer by layer and region by region.

    Parameters
    ----------
    frame
        Columns ``layer, position, effect``; position is a named region (``injection, stem, tail, last`` come in this
        order, others after them), effect a share: 1 is the whole effect, drawn as 100 %.
    quantity
        Label of the colours.
    path, title, subtitle
        As of :func:`~leakmech.reports.component_figures.head_heat_map`.

    Raises
    ------
    FigureError
        The table has no rows, lacks a column, has two rows for one layer and region or an effect that is no number.
    """
    drawn = checked(
        frame, "patching_map", key=("layer", "position"), whole=("layer",), texts=("position",), numbers=("effect",)
    )
    regions = sorted(dict.fromkeys(drawn["position"]), key=lambda name: REGIONS.index(name) if name in REGIONS else 99)
    n_layers = int(drawn["layer"].max()) + 1
    cells = np.full((n_layers, len(regions)), np.nan)
    cells[drawn["layer"], [regions.index(name) for name in drawn["position"]]] = 100 * drawn["effect"]
    limit = float(np.nanmax(np.abs(cells))) or 1.0
    high = float(np.clip(6 / n_layers, 0.13, 0.3))
    wide = max(0.75, *(text_width(name, size=8.5) + 0.2 for name in regions))
    figure, [[axes]] = new_panels(wide * len(regions) + 1.9, max(high * n_layers, 1.5) + 0.6)
    texts = [
        ["" if np.isnan(cell) else f"{cell:.0f}".replace("-0", "0").replace("-", "−") for cell in row] for row in cells
    ]
    _draw_cells(axes, cells, (-limit, limit), texts if high > 0.14 else None, label=quantity)
    axes.set_xticks([place + 0.5 for place in range(len(regions))], regions, parse_math=False)
    step = max(1, round(n_layers / 16))
    axes.set_yticks(
        [place + 0.5 for place in range(0, n_layers, step)], [str(place) for place in range(0, n_layers, step)]
    )
    axes.set_xlabel("patched region of the prompt", fontsize=9)
    axes.set_ylabel("layer (0 = first)", fontsize=9)
    if title is None:
        best = drawn.loc[drawn.groupby("position")["effect"].idxmax()].set_index("position")
        parts = [f"{name} {100 * best['effect'][name]:.0f} % (layer {best['layer'][name]})" for name in regions]
        title = f"Largest effect by region: {', '.join(parts)}".replace("-", "−")
    add_titles(figure, title, subtitle)
    return save_with_data(figure, path, drawn)


_MODES = {"keep": "only the first k kept", "remove": "the first k removed"}
_BASELINES = {"random": (SOFT, "--"), "magnitude": (INK, ":")}


def faithfulness_curves(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    areas: Mapping[str, Mapping[str, float]] | None = None,
    components: str = "components",
    title: str | None = None,
    subtitle: str = "",
) -> list[Path]:
    """How much of the effect the first k components keep, and how much is left when they are removed.

    Parameters
    ----------
    frame
        Columns ``mode`` (``keep`` or ``remove``), ``ranking`` (a method, ``random`` or ``magnitude``), ``fraction`` of
        the components in (0, 1], ``faithfulness`` (1: as the whole model, 0: as without any), optionally ``low, high``.
    areas
        By ranking, the areas that belong to its curves, such as ``{"random": {"CPR": 0.4, "CMD": 0.6}}``; they stand in
        the legend.
    components
        What is kept or removed, for the axis.
    path, title, subtitle
        As of :func:`~leakmech.reports.component_figures.head_heat_map`.

    Raises
    ------
    FigureError
        The table has no rows, lacks a column, has two rows for one point, another mode, a fraction out of range or a
        value that is no number; `areas` names a ranking that is not drawn.
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
    figure, [panels] = new_panels(4.1 * len(modes), 3.6, columns=len(modes), sharey=True)
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
        axes.set_xlabel(f"k: share of all {components} (%, log scale)", fontsize=9)
    panels[0].set_ylabel("faithfulness (1 = whole model)", fontsize=9)
    handles = {text: line for axes in panels for line, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    add_titles(figure, _faithfulness_title(drawn, rankings) if title is None else title, subtitle)
    return save_with_data(figure, path, drawn)


def _check_faithfulness(drawn: pd.DataFrame, areas: Mapping[str, object]) -> None:
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


def _draw_faithfulness(axes: Axes, curve: pd.DataFrame, index: int, label: str) -> None:
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
    name = {"random": "random components", "magnitude": "by magnitude"}.get(ranking, _words(ranking))
    return f"{name} ({', '.join(texts)})" if texts else name


def _faithfulness_title(drawn: pd.DataFrame, rankings: Sequence[str]) -> str:
    """How many components reach faithfulness 0.8, by the best ranking and by chance."""
    kept = drawn[(drawn["mode"] == "keep") & (drawn["faithfulness"] >= 0.8)]
    first = kept.groupby("ranking")["fraction"].min().reindex(rankings).dropna()
    methods = first[[name for name in first.index if name not in _BASELINES]]
    if methods.empty:
        return "Faithfulness of the first k components"
    best = str(methods.idxmin())
    text = f"The first {100 * methods[best]:.2g} % of the components ({_words(best)}) reach faithfulness 0.8"
    if "random" in first.index:
        text += f"; random ones need {100 * first['random']:.3g} %"
    return text
