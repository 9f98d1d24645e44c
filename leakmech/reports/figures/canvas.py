"""The look of all figures, drawn without touching the state of the caller's matplotlib.

Figures are made as objects (no pyplot, no global settings) and saved as PNG, to be looked at, and as PDF, for print.
They are as wide as a page of a paper or less; letters keep their size in points whatever the width.
Colours are of Okabe & Ito's palette, which colour-blind readers can tell apart; positive is blue and negative
vermilion in every figure. Texts of models and users are drawn letter by letter: a dollar sign does not start a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.ft2font import FT2Font, LoadFlags
from matplotlib.transforms import Bbox

from leakmech.core.errors import FigureError, nearest
from leakmech.core.store import atomic_path
from leakmech.core.tables import write_table
from leakmech.reports.cells import typeset
from leakmech.reports.figures.fonts import embedded_font

INK, SOFT, RULE = "#1d2126", "#5a626c", "#d5d9de"
CONDITION_COLORS = {"control": "#000000", "positive": "#0072b2", "neutral": "#999999", "negative": "#d55e00"}
SERIES_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
SERIES_MARKERS = ("o", "s", "^", "D", "v", "P")
MARGIN_COLOR = "#009e73"
DIVERGING = LinearSegmentedColormap.from_list(
    "negative-positive", ["#6b2c00", CONDITION_COLORS["negative"], "#f7f7f7", CONDITION_COLORS["positive"], "#00304d"]
)
SEQUENTIAL = LinearSegmentedColormap.from_list("none-much", ["#f7f7f7", "#56b4e9", "#0072b2", "#00304d"])
TITLE_SIZE, SUBTITLE_SIZE = 10.5, 8.5
_NAME_PLACES = tuple(
    (side * right, up) for right, up in ((4, 2), (4, -8), (4, 10), (4, -17), (9, -3)) for side in (1, -1)
)
"""Where a point's name may begin (or end, at its left), in points from it; the best place first."""
_FONT_SIZE, _WIDE = 100, "M"
"""Points at which letters are measured, and what stands for those that the font does not have."""
_FONTS: Any = {"pdf.fonttype": 42, "ps.fonttype": 42}
"""TrueType, which journals ask for and editors can edit."""
_FORMATS: dict[str, dict[str, Any]] = {
    # Without dates and versions inside, the same figure is the same file.
    ".png": {"dpi": 200, "metadata": {"Software": None}},
    ".pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


Width: TypeAlias = Literal["column", "page"] | float
"""``column`` or ``page`` of a paper, or inches."""
WIDTHS: dict[str, float] = {"column": 3.25, "page": 6.75}
NARROW = 5.0
"""Inches below which panels stand under each other."""
_LEAST, _MOST = 2.0, 30.0


def inches(width: Width | None, own: float) -> float:
    """How wide a figure is; None: its `own` width, at most that of a page.

    Raises
    ------
    FigureError
        `width` is neither ``column``, ``page`` nor between 2 and 30 inches.
    """
    if width is None:
        return min(own, WIDTHS["page"])
    if isinstance(width, str):
        if width not in WIDTHS:
            raise FigureError(f"width {width!r}{nearest(width, WIDTHS)}, or inches")
        return WIDTHS[width]
    if isinstance(width, bool) or not isinstance(width, int | float) or not _LEAST <= width <= _MOST:
        raise FigureError(f"width {width!r} must be 'column', 'page' or inches from {_LEAST:g} to {_MOST:g}")
    return float(width)


class Drawing(Figure):
    """A figure that a notebook shows as it is, without pyplot."""

    def _repr_png_(self) -> bytes:
        page = BytesIO()
        self.savefig(page, format="png", dpi=110, metadata={"Software": None})
        return page.getvalue()


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with one pair of axes in leakmech's look."""
    figure, [[axes]] = new_panels(width, height, tick_size=9)
    return figure, axes


def new_panels(
    width: float, height: float, *, rows: int = 1, columns: int = 1, tick_size: float = 8, **options: Any
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with `rows` x `columns` pairs of axes; `options` are those of ``Figure.subplots``."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=tick_size)
        axes.xaxis.label.set_size(9)
        axes.yaxis.label.set_size(9)
    return figure, panels.tolist()


def add_titles(figure: Figure, title: str, subtitle: str = "") -> None:
    """Say at the top left what is seen, and under it of which model and data; the figure grows by their height.

    Without a title neither is written, for papers have captions.
    """
    if not title:
        return
    title = typeset(title)
    width, height = figure.get_size_inches()
    lines = [(line, TITLE_SIZE, "bold", INK) for line in wrapped(title, width - 0.2, size=TITLE_SIZE, weight="bold")]
    lines += [(line, SUBTITLE_SIZE, "normal", SOFT) for line in wrapped(subtitle, width - 0.2, size=SUBTITLE_SIZE)]
    steps = np.cumsum([0.08, *(size * 1.35 / 72 for _, size, _, _ in lines)])
    whole = height + float(steps[-1]) + 0.06
    figure.set_size_inches(width, whole)
    figure.set_label(title)  # save_figure writes it into the files, for readers that cannot see
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0, 0, 1, height / whole))
    for (line, size, weight, color), top in zip(lines, steps, strict=False):
        figure.text(
            0.1 / width,
            1 - top / whole,
            line,
            fontsize=size,
            fontweight=weight,
            color=color,
            va="top",
            parse_math=False,
        )


def _add_color_bar(mesh: Any, axes: Axes, label: str) -> None:
    """Say what the colours of `mesh` mean, at the right of `axes`."""
    figure: Any = axes.get_figure(root=True)
    width, height = figure.get_size_inches()
    bar = figure.colorbar(mesh, ax=axes, fraction=min(0.06, 0.4 / width), pad=0.03, aspect=height / 0.17)
    bar.set_label("\n".join(wrapped(label, max(height - 1, 1.5), size=8.5)), fontsize=8.5)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)


def draw_cells(
    axes: Axes,
    values: np.ndarray,
    limits: tuple[float, float],
    texts: Sequence[Sequence[str]] | None,
    *,
    label: str,
    colors: Colormap = DIVERGING,
    gap: float = 0.5,
) -> None:
    """Draw a matrix with its colour bar and, if given, a text in every cell."""
    mesh = axes.pcolormesh(values, cmap=colors, vmin=limits[0], vmax=limits[1], edgecolors="white", linewidth=gap)
    _add_color_bar(mesh, axes, label)
    axes.set_facecolor(RULE)  # cells without a value
    axes.spines[["left", "bottom"]].set_visible(False)
    for (row, column), value in np.ndenumerate(values):
        if texts is not None and np.isfinite(value):
            text = typeset(texts[int(row)][int(column)])
            write_in_cell(axes, (column + 0.5, row + 0.5), text, value=value, limits=limits)


def write_in_cell(
    axes: Axes, place: tuple[float, float], text: str, *, value: float, limits: tuple[float, float], **style: Any
) -> None:
    """Write in the middle of a cell, white if its colour is dark."""
    color = "white" if abs(value) > 0.45 * max(map(abs, limits)) else INK
    axes.text(*place, text, fontsize=6.5, ha="center", va="center", color=color, **style)


def name_cells(set_ticks: Callable[..., Any], labels: Sequence[Any], *, step: int = 1, **style: Any) -> None:
    """Write under or beside cells what they are, every `step` of them; `set_ticks` is that of the axis."""
    shown = range(0, len(labels), step)
    set_ticks([place + 0.5 for place in shown], [str(labels[place]) for place in shown], parse_math=False, **style)


def wrapped(text: str, width: float, *, size: float, weight: str = "normal") -> list[str]:
    """Lines of at most `width` inches; a little less, for letters are fitted to pixels when they are drawn."""
    width *= 0.96
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size=size, weight=weight) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


@cache
def text_width(text: str, *, size: float, weight: str = "normal") -> float:
    """Inches that `text` takes in matplotlib's own font at `size` points."""
    font = _font(weight)
    letters = "".join(letter if font.get_char_index(ord(letter)) else _WIDE for letter in text)
    font.set_text(letters, 0.0, flags=LoadFlags.NO_HINTING)
    return font.get_width_height()[0] / 64 * (size / _FONT_SIZE) / 72


@cache
def _font(weight: str) -> FT2Font:
    """Matplotlib's own font, large, so that widths are not those of whole pixels."""
    font = FT2Font(findfont(FontProperties(family="DejaVu Sans", weight=weight)))
    font.set_size(_FONT_SIZE, 72)
    return font


def label_points(
    axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], *, others: Any = (), size: float = 7.5
) -> None:
    """Name some points of a scatter where the names hide as little as possible; call it when all else is drawn.

    The most important point comes first; names also avoid `others`, of shape (points, 2).
    """
    figure: Any = axes.get_figure(root=True)
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    marks = axes.transData.transform(np.asarray([*points, *others], dtype=float))
    taken: list[Bbox] = []
    for (x, y), name in zip(axes.transData.transform(points), names, strict=True):
        wide, high = text_width(name, size=size) * figure.dpi, size * unit
        boxes = {
            (right, up): Bbox.from_bounds(x + (right * unit - wide * (right < 0)), y + up * unit, wide, high)
            for right, up in _NAME_PLACES
        }
        right, up = min(boxes, key=lambda place: _hidden(boxes[place], axes.bbox, taken, marks))
        taken.append(boxes[right, up])
        axes.annotate(
            name,
            tuple(axes.transData.inverted().transform((x, y))),
            xytext=(right, up),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            va="bottom",
            fontsize=size,
            color=INK,
            parse_math=False,
        )


def _hidden(box: Bbox, frame: Bbox, taken: Sequence[Bbox], marks: np.ndarray) -> int:
    """How bad a place is for a name: other names first, then the edge, then points."""
    outside = not (frame.contains(*box.min) and frame.contains(*box.max))
    return 100 * sum(box.overlaps(other) for other in taken) + 50 * outside + sum(box.contains(*mark) for mark in marks)


def finished(figure: Figure, path: str | Path | None, frame: pd.DataFrame, *, index: bool = False) -> Figure:
    """The figure; with `path`, saved as PNG and PDF, and what is drawn as CSV beside them."""
    if path is not None:
        save_figure(figure, path)
        write_table(Path(path).with_suffix(".csv"), frame.reset_index() if index else frame)
    return figure


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Save as PNG and as PDF and return both paths; the suffix of `path` is ignored."""
    files = []
    for suffix, options in _FORMATS.items():
        file = Path(path).with_suffix(suffix)
        title = {"Title": str(figure.get_label())} if figure.get_label() else {}
        font = embedded_font(figure) if suffix == ".pdf" else {}
        with atomic_path(file) as temporary, rc_context(_FONTS | font):
            figure.savefig(temporary, format=suffix[1:], **options | {"metadata": options["metadata"] | title})
        files.append(file)
    return files
