"""Figures of a finished study, from its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leakmech.core.tables import read_table
from leakmech.datasets.emotions import EMOTIONS
from leakmech.reports.figures.directions import cosine_heat_map
from leakmech.reports.figures.series import count_map, named_points, series_lines
from leakmech.reports.quick_runs import figure_subtitle

CHANCE = 1 / 7


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Draw every figure whose table the run has; names and data lie in ``figures/``."""
    for name, drawing in drawings(run, summary).items():
        drawing(run / "figures" / name)


def drawings(run: Path, summary: Mapping[str, Any]) -> dict[str, Callable[..., Figure]]:
    """The figures whose tables the run has, by name: functions of path, title and width."""
    about = figure_subtitle(f"{summary['model']}, {summary['test']}", summary)
    given: dict[str, tuple[str, Callable[..., Figure]]] = {
        "curve": ("curve", _curve),
        "confusion_prompting": ("confusions", partial(_confusion, method="prompting")),
        "confusion_modulation": ("confusions", partial(_confusion, method="modulation")),
        "layers": ("directions", _layers),
        "emotion_cosines": (
            "emotion_cosines",
            lambda f, path, **look: cosine_heat_map(f.set_index("direction"), path, **look),
        ),
        "components": ("emotion_components", _components),
        "influence": ("influence", _influence),
        "long_tail": ("long_tail", _long_tail),
    }
    tables = run / "tables"
    return {
        name: partial(_drawn, drawing, tables / f"{table}.csv", subtitle=about)
        for name, (table, drawing) in given.items()
        if (tables / f"{table}.csv").exists()
    }


def _drawn(drawing: Callable[..., Figure], table: Path, path: str | Path | None = None, **look: Any) -> Figure:
    return drawing(read_table(table), path, **look)


def _titled(own: str, look: Mapping[str, Any]) -> dict[str, Any]:
    """How a figure is drawn: with its own title where none is given."""
    given = look.get("title")
    return {**look, "title": own if given is None else given}


def from_none(frame: Any) -> pd.DataFrame:
    """Points of all methods; the line of each that has a strength starts where nothing is done."""
    drawn = frame.dropna(subset=["ratio", "accuracy"])
    none = drawn[drawn["method"] == "none"]
    steered = [name for name in dict.fromkeys(drawn["method"]) if name not in ("none", "prompting")]
    started = [pd.concat([none.assign(method=name), drawn[drawn["method"] == name]]) for name in steered]
    return pd.concat([*started, drawn[drawn["method"] == "prompting"]], ignore_index=True)


def confusions(frame: Any, method: str) -> Any:
    """Counts of emotions meant and judged, of one method."""
    own = frame[frame["method"] == method].drop(columns="method")
    return own.set_index("emotion").loc[list(EMOTIONS)].reset_index()


def by_test(frame: Any) -> Any:
    """How often a direction is most like its own emotion's, a row for each set, layer and test."""
    names = {"cross_theme": "left-out theme", "cross_wording": "other words for the emotions"}
    drawn = frame.melt(id_vars=["set", "layer"], value_vars=list(names), var_name="test", value_name="right").dropna()
    return drawn.assign(test=drawn["test"].map(names))


def mean_influence(frame: Any) -> Any:
    """Influence by sublayer and layer, mean over emotions and strengths."""
    return frame.groupby(["sublayer", "layer"], sort=False)["influence"].mean().reset_index()


def mean_share(frame: Any) -> Any:
    """Share of positive scores that the first k units hold, by kind, mean over emotions."""
    return frame.groupby(["kind", "k"], sort=False)["share"].mean().reset_index()


def _curve(frame: Any, path: Any, **look: Any) -> Figure:
    look["subtitle"] += "; tune events"
    return series_lines(
        from_none(frame), path,
        x=("ratio", "perplexity over that of replies without a command"), y=("accuracy", "accuracy"),
        series="method", order="strength", level=CHANCE, logarithmic=True,
        **_titled("What accuracy costs in fluency", look),
    )  # fmt: skip


def _confusion(frame: Any, path: Any, *, method: str, **look: Any) -> Figure:
    return count_map(
        confusions(frame, method), path, rows="emotion", labels=("meant", "judged"),
        **_titled(f"Emotions meant and judged: {method}", look),
    )  # fmt: skip


def _layers(frame: Any, path: Any, **look: Any) -> Figure:
    return series_lines(
        by_test(frame), path, x=("layer", "layer"), y=("right", "most like its own emotion's direction"), series="set",
        panel="test", level=1 / len(EMOTIONS), **_titled("Are directions of commands more than their words?", look),
    )  # fmt: skip


def _components(frame: pd.DataFrame, path: Any, **look: Any) -> Figure:
    return named_points(
        frame, path, x=("first", "first component"), y=("second", "second component"), name="emotion",
        **_titled("The six directions in their first two components", look),
    )  # fmt: skip


def _influence(frame: Any, path: Any, **look: Any) -> Figure:
    return series_lines(
        mean_influence(frame), path, x=("layer", "layer"), y=("influence", "influence I"), series="sublayer", level=0.0,
        **_titled("Influence of sublayers on the end of the model", look),
    )  # fmt: skip


def _long_tail(frame: Any, path: Any, **look: Any) -> Figure:
    return series_lines(
        mean_share(frame), path, x=("k", "first k units"), y=("share", "share of positive scores"), series="kind",
        logarithmic=True, **_titled("How many units write an emotion", look),
    )  # fmt: skip
