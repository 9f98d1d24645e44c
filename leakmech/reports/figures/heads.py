"""Maps of all heads of a model, layer by layer, with the largest numbered in the map and named beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from leakmech.reports.cells import number, percent, significant, typeset
from leakmech.reports.figures.canvas import (
    DIVERGING,
    INK,
    NARROW,
    SEQUENTIAL,
    SOFT,
    Width,
    add_titles,
    draw_cells,
    finished,
    inches,
    name_cells,
    new_panels,
    write_in_cell,
)
from leakmech.reports.figures.frames import Frame, checked, head_name

_LINE = 0.17  # inches of a line of the list beside a map
_BESIDE = 2.6  # inches of that list, the colour bar and the labels


def head_heat_map(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    top: int = 10,
    quantity: str = "score",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw the score of every head, layer by layer; the `top` largest in size are numbered and named beside the map."""
    drawn = checked(frame, "head_heat_map", whole=("layer", "head"), numbers=("score",))
    drawn = drawn.sort_values(["layer", "head"], ignore_index=True)
    scores, size = drawn["score"], drawn["score"].abs()
    if title is None:
        title = f"{min(top, len(drawn))} of {len(drawn):,} heads hold {_share(size, top)} of the total |score|"
    limit = float(size.max()) or 1.0
    texts = _aligned(scores, top)
    return _head_map(
        drawn,
        scores,
        path,
        DIVERGING,
        (-limit, limit),
        top=top,
        texts=texts,
        label=quantity,
        titles=(title, subtitle),
        given=width,
    )


def attention_map(
    frame: pd.DataFrame,
    path: str | Path | None = None,
    *,
    top: int = 10,
    quantity: str = "attention to the injection (% of the head's attention)",
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw the share of its attention, between 0 and 1 in the table, that every head pays to a span."""
    drawn = checked(frame, "attention_map", whole=("layer", "head"), numbers=("attention",))
    drawn = drawn.sort_values(["layer", "head"], ignore_index=True)
    if title is None:
        best = drawn.loc[drawn["attention"].idxmax()]
        name = head_name(int(best["layer"]), int(best["head"]))
        title = (
            f"{name} looks most at the injection: {percent(best['attention'], decimals=0)} of its attention (median of "
            f"all heads {percent(drawn['attention'].median())})"
        )
    shares = 100 * drawn["attention"]
    limits = (0.0, float(shares.max()) or 1.0)
    texts = [percent(value, decimals=0) for value in drawn["attention"]]
    return _head_map(
        drawn,
        shares,
        path,
        SEQUENTIAL,
        limits,
        top=top,
        texts=texts,
        label=quantity,
        titles=(title, subtitle),
        given=width,
    )


def _head_map(
    drawn: Frame,
    values: Frame,
    path: str | Path | None,
    colors: Colormap,
    limits: tuple[float, float],
    *,
    top: int,
    texts: list[str],
    label: str,
    titles: tuple[str, str],
    given: Width | None,
) -> Figure:
    """Draw cells, colour bar, and beside them the list of the largest, whose numbers stand in their cells."""
    n_layers, n_heads = int(drawn["layer"].max()) + 1, int(drawn["head"].max()) + 1
    cells = np.full((n_layers, n_heads), np.nan)
    cells[drawn["layer"], drawn["head"]] = values
    wide, high = float(np.clip(6 / n_heads, 0.13, 0.36)), float(np.clip(6 / n_layers, 0.13, 0.26))
    own = max(wide * n_heads, 2.2) + _BESIDE
    whole = own if given is None else inches(given, own)  # many heads are wider than a page
    height = max(high * n_layers, _LINE * (top + 1.5), 1.6)
    if whole < NARROW:  # the list stands under the map
        sizes = [high * n_layers + 0.6, _LINE * (top + 1.5)]
        figure, [[axes], [key]] = new_panels(whole, sum(sizes), rows=2, gridspec_kw={"height_ratios": sizes})
        height = sizes[1]
    else:
        ratios = [whole - _BESIDE + 0.9, 1.5]
        figure, [[axes, key]] = new_panels(whole, height + 0.6, columns=2, gridspec_kw={"width_ratios": ratios})
    draw_cells(axes, cells, limits, None, label=label, colors=colors, gap=0.4)
    for set_ticks, count in ((axes.set_xticks, n_heads), (axes.set_yticks, n_layers)):
        step = next(step for step in (1, 2, 4, 5, 10, 20, 50) if count / step <= 17 or step == 50)
        name_cells(set_ticks, range(count), step=step)
    axes.set(xlabel="head", ylabel="layer (0 = first)")
    _name_largest(axes, key, drawn, values, texts=texts, top=top, limits=limits, height=height)
    add_titles(figure, *titles)
    return finished(figure, path, drawn)


def _name_largest(
    axes: Axes,
    key: Axes,
    drawn: Frame,
    values: Frame,
    *,
    texts: list[str],
    top: int,
    limits: tuple[float, float],
    height: float,
) -> None:
    key.set_axis_off()
    key.set(xlim=(0, 1), ylim=(height, 0))
    order = values.abs().sort_values(ascending=False, kind="stable").index[:top]
    if len(order):
        key.text(0.0, 0.05, f"largest {len(order)}", fontsize=8, color=SOFT, va="center")
    for rank, row in enumerate(order, start=1):
        layer, head = drawn["layer"][row], drawn["head"][row]
        place = (head + 0.5, layer + 0.48)
        write_in_cell(axes, place, str(rank), value=values[row], limits=limits, fontweight="bold")
        line = 0.08 + _LINE * rank
        for x, text, side, color in (
            (0.12, rank, "right", SOFT),
            (0.2, head_name(layer, head), "left", INK),
            (1, texts[row], "right", INK),
        ):
            key.text(x, line, typeset(str(text)), fontsize=8, ha=side, va="center", color=color)


def _share(size: Frame, top: int) -> str:
    total = float(size.sum())
    return percent(size.nlargest(top).sum() / total if total else 0, decimals=0)


def _aligned(scores: Frame, top: int) -> list[str]:
    """Scores with as many decimals as the smallest of the `top` needs for two digits."""
    size = scores.abs().nlargest(top)
    size = size[size > 0]
    if size.empty or not size.min() >= 1e-4 or size.max() >= 1e4:
        return [significant(score, digits=2, signed=True) for score in scores]
    decimals = max(1 - int(np.floor(np.log10(size.min()))), 0)
    return [number(score, decimals=decimals, signed=True) for score in scores]
