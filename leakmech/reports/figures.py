"""Figures: one message each, with intervals, drawn without touching the state of the caller's matplotlib.

Figures are made as objects (no pyplot, no global settings) and saved as PNG, to be looked at, and as PDF, for print.
Colours are of Okabe & Ito's palette, which colour-blind readers can tell apart; positive is blue and negative
vermilion in every figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leakmech.store import atomic_path

INK, SOFT, RULE = "#1d2126", "#5a626c", "#d5d9de"
CONDITION_COLORS = {"control": "#000000", "positive": "#0072b2", "neutral": "#999999", "negative": "#d55e00"}
SERIES_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARGIN_COLOR = "#009e73"
_FORMATS: dict[str, dict[str, Any]] = {
    # Without dates and versions inside, the same figure is the same file.
    ".png": {"dpi": 200, "metadata": {"Software": None}},
    ".pdf": {"metadata": {"CreationDate": None, "Producer": None, "Creator": None}},
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of `width` x `height` inches with one pair of axes in leakmech's look."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    return figure, axes


def save_figure(figure: Figure, path: str | Path) -> list[Path]:
    """Save as PNG and as PDF; the suffix of `path` is ignored. Returns both paths.

    Raises
    ------
    StorageError
        The file system refuses.
    """
    files = []
    for suffix, options in _FORMATS.items():
        file = Path(path).with_suffix(suffix)
        with atomic_path(file) as temporary:
            figure.savefig(temporary, format=suffix[1:], **options)
        files.append(file)
    return files


def forest_plot(comparison: Mapping[str, Any], path: str | Path) -> list[Path]:
    """Differences in auc_el with their intervals, a line at no difference, and the margin of equivalence.

    Parameters
    ----------
    comparison
        What ``comparison.json`` holds (:meth:`leakmech.comparison.Comparison.to_dict`).
    path
        Where to save; see :func:`save_figure`.
    """
    rows = [d for d in comparison["differences"] if d["statistic"] == "auc_el"]
    figure, axes = new_figure(7.5, 1.3 + 0.34 * len(rows))
    if comparison["margin"] is not None:
        margin = comparison["margin"]
        axes.axvspan(-margin, margin, color=MARGIN_COLOR, alpha=0.15, linewidth=0)
        axes.set_title(f"shaded: differences that are none (±{margin:g})", fontsize=9, color=SOFT, loc="left")
    axes.axvline(0, color=INK, linewidth=0.8, linestyle="--")
    for position, row in enumerate(rows):
        _draw_difference(axes, row, position)
    axes.set_yticks(range(len(rows)), _labels(rows))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.margins(x=0.08)
    axes.set_xlabel(_axis_label(rows), fontsize=9)
    return save_figure(figure, path)


def _draw_difference(axes: Axes, row: Mapping[str, Any], position: int) -> None:
    """Point, interval, and the same in numbers at the right edge."""
    if row["difference"] is None:
        text = "nothing to compare"
    else:
        text = f"{row['difference']:+.3f}"
        if row["low"] is not None:
            axes.plot([row["low"], row["high"]], [position] * 2, color=SERIES_COLORS[0], linewidth=1.8)
            text += f" [{row['low']:+.3f}, {row['high']:+.3f}]"
        axes.plot(row["difference"], position, marker="s", markersize=5, color=SERIES_COLORS[0])
    axes.annotate(
        text.replace("-", "−"),
        (1.02, position),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=9,
        annotation_clip=False,
    )


def _labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The name of the run, and of its baseline where there is more than one."""
    if len({row["baseline"] for row in rows}) == 1:
        return [row["run"] for row in rows]
    return [f"{row['run']} - {row['baseline']}" for row in rows]


def _axis_label(rows: Sequence[Mapping[str, Any]]) -> str:
    baselines = {row["baseline"] for row in rows}
    against = f"run - {baselines.pop()}" if len(baselines) == 1 else "first - second"
    return f"difference in auc_el ({against}), 95 % interval"
