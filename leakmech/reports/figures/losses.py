"""Losses of a training, step by step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leakmech.reports.figures.canvas import (
    INK,
    SERIES_COLORS,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    new_figure,
)

_NOT_LOSSES = ("step", "epoch", "loss", "divergence", "learning_rate", "gradient_norm", "examples", "seconds")
_SMOOTHED_SHARE = 20  # a moving mean over a twentieth of the steps


def loss_figure(
    log: pd.DataFrame,
    path: str | Path | None = None,
    *,
    title: str | None = None,
    subtitle: str = "",
    width: Width | None = None,
) -> Figure:
    """Draw the loss and each objective by step, faint, with moving means; dotted where another divergence begins."""
    figure, axes = new_figure(inches(width, WIDTHS["page"]), 3.4)
    window, drawn = _window(log), losses(log)
    measures: Any = log.get("divergence", pd.Series("", index=log.index))
    phases = [phase for _, phase in log.groupby(measures.ne(measures.shift()).cumsum())]
    for (name, label), color in zip(drawn.items(), (INK, *SERIES_COLORS), strict=False):
        for number, phase in enumerate(phases):
            own: Any = phase[["step", name]].dropna()
            means = own[name].rolling(window, min_periods=1).mean()
            axes.plot(own["step"], own[name], color=color, alpha=0.25, linewidth=0.8)
            axes.plot(own["step"], means, color=color, label="" if number else label)
    for phase in phases[1:]:
        step, divergence = phase[["step", "divergence"]].iloc[0]
        axes.axvline(step, color=INK, linestyle=":", linewidth=0.8)
        axes.text(step, axes.get_ylim()[1], f" {_label(divergence)}", fontsize=8, va="top")
    axes.set(xlabel="step", ylabel="loss a step (lines: moving means)")
    axes.legend(frameon=False, fontsize=8)
    add_titles(figure, title or "", subtitle or "")
    return finished(figure, path, log)


def losses(log: pd.DataFrame) -> dict[str, str]:
    """The columns that are drawn and their names: the loss and what it is made of, or the only objective."""
    objectives = [name for name in log.columns if name not in _NOT_LOSSES]
    return {name: _label(name) for name in (objectives if len(objectives) == 1 else ["loss", *objectives])}


def smoothed(log: pd.DataFrame, name: str) -> pd.DataFrame:
    """Steps and moving means of a loss."""
    own: Any = log[["step", name]].dropna()
    return own.assign(**{name: own[name].rolling(_window(log), min_periods=1).mean()})


def _window(log: pd.DataFrame) -> int:
    return max(1, len(log) // _SMOOTHED_SHARE)


def _label(name: str) -> str:
    return name.replace("_", " ").replace("sft", "SFT")
