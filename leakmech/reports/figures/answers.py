"""The valence of single answers, prompt by prompt: every answer a point, with the mean of each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from leakmech.core.seeds import numpy_generator
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    RULE,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    new_figure,
    wrapped,
)


def answer_valences(
    frame: pd.DataFrame,
    groups: Sequence[tuple[str, str]],
    *,
    title: str,
    subtitle: str = "",
    width: Width | None = None,
    path: str | Path | None = None,
) -> Figure:
    """Draw a row of points for each prompt, hollow where an answer is about the injection, and its mean as a bar.

    `frame` has ``prompt`` (place among `groups`), ``valence`` and ``about_injection``; a group has a name and a
    polarity, which is its colour. With `path` the figure is also saved.
    """
    figure, axes = new_figure(inches(width, WIDTHS["page"]), 0.9 + 0.55 * len(groups))
    axes.axvline(0, color=RULE, linewidth=1)
    for place, (_, polarity) in enumerate(groups):
        _draw(axes, frame[(frame["prompt"] == place) & frame["valence"].notna()], place, CONDITION_COLORS[polarity])
    names = ["\n".join(wrapped(name, 1.9, size=8)) for name, _ in groups]
    axes.set_yticks(range(len(groups)), names, parse_math=False, fontsize=8)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(-1.03, 1.03)
    axes.set_xlabel("valence of an answer: P[positive] − P[negative]; hollow: about the injection")
    add_titles(figure, title, subtitle)
    return finished(figure, path, frame)


def _draw(axes: Axes, rows: Any, place: int, color: str) -> None:
    if rows.empty:
        return
    values = rows["valence"].to_numpy(dtype=float)
    height = place + numpy_generator("jitter", place).uniform(-0.16, 0.16, len(values))
    faces = np.where(rows["about_injection"], "none", color)
    axes.scatter(values, height, s=22, facecolors=faces.tolist(), edgecolors=color, linewidths=1)
    mean = float(values.mean())
    axes.plot([mean, mean], [place - 0.3, place + 0.3], color=INK, linewidth=2)
