"""Figures of a finished study, from its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.tables import read_table
from leakmech.datasets.emotions import EMOTIONS
from leakmech.reports.cells import number
from leakmech.reports.figures.directions import cosine_heat_map
from leakmech.reports.figures.series import count_map, named_points, series_lines
from leakmech.reports.frame_charts import cells, lines, points
from leakmech.reports.page import Section

CHANCE = 1 / 7
CAPTIONS = {
    "curve": "Points of a line are strengths; to the right replies are less fluent. Dashed: chance.",
    "confusion_prompting": "What the first judge reads in replies to commands.",
    "confusion_modulation": "The same where no emotion was commanded and its circuit was turned up.",
    "layers": "A direction that only knows the word of its command fails on the right.",
    "emotion_cosines": "Cosines between the emotions' directions.",
    "components": "The six directions in their first two principal components; that of valence should be the first.",
    "influence": "Mean over emotions and strengths: what a push along the emotion does at the end of the model.",
    "long_tail": "Share of all positive scores that the first k units hold, mean over emotions.",
}
"""By name, in the order of the page."""


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Draw every figure whose table the run has; names and data lie in ``figures/``."""
    about = f"{summary['model']}, {summary['test']}".removeprefix("embedded:")
    if summary.get("quick"):
        about += "; quick: no measurement"
    drawings: dict[str, tuple[str, Callable[[pd.DataFrame, Path], Any]]] = {
        "curve": ("curve", lambda f, path: _curve(f, path, about)),
        "confusion_prompting": ("confusions", lambda f, path: _confusion(f, path, "prompting", about)),
        "confusion_modulation": ("confusions", lambda f, path: _confusion(f, path, "modulation", about)),
        "layers": ("directions", lambda f, path: _layers(f, path, about)),
        "emotion_cosines": (
            "emotion_cosines",
            lambda f, path: cosine_heat_map(f.set_index("direction"), path, subtitle=about),
        ),
        "components": ("emotion_components", lambda f, path: _components(f, path, about)),
        "influence": ("influence", lambda f, path: _influence(f, path, about)),
        "long_tail": ("long_tail", lambda f, path: _long_tail(f, path, about)),
    }
    for name, (table, drawing) in drawings.items():
        file = run / "tables" / f"{table}.csv"
        if file.exists():
            drawing(read_table(file), run / "figures" / name)


def charts(run: Path) -> list[Section]:
    """The same for the page, in it."""
    drawings: dict[str, tuple[str, Callable[[Any], list[Section]]]] = {
        "curve": ("curve", lambda f: [_curve_chart(f)]),
        "confusion_prompting": ("confusions", lambda f: [_confusion_chart(f, "prompting")]),
        "confusion_modulation": ("confusions", lambda f: [_confusion_chart(f, "modulation")]),
        "layers": ("directions", _layer_charts),
        "emotion_cosines": ("emotion_cosines", lambda f: [_cosine_chart(f)]),
        "components": (
            "emotion_components",
            lambda f: [points(
                f, x=("first", "first component"), y=("second", "second component"), name="emotion",
                caption=CAPTIONS["components"], x_nulls=(0.0,),
            )],
        ),
        "influence": (
            "influence",
            lambda f: [lines(
                f.groupby(["sublayer", "layer"], sort=False)["influence"].mean().reset_index(), x=("layer", "layer"),
                y=("influence", "influence I"), series="sublayer", caption=CAPTIONS["influence"], levels=(0.0,),
            )],
        ),
        "long_tail": (
            "long_tail",
            lambda f: [lines(
                f.groupby(["kind", "k"], sort=False)["share"].mean().reset_index(), x=("k", "first k units"),
                y=("share", "share of positive scores"), series="kind", caption=CAPTIONS["long_tail"], is_log=True,
            )],
        ),
    }  # fmt: skip
    files = {name: run / "tables" / f"{table}.csv" for name, (table, _) in drawings.items()}
    found = [chart for name, file in files.items() if file.exists() for chart in drawings[name][1](read_table(file))]
    return [replace(found[0], heading="Figures"), *found[1:]] if found else []


def _curve_chart(frame: Any) -> Section:
    return lines(
        _from_none(frame), x=("ratio", "perplexity over that without a command"), y=("accuracy", "accuracy"),
        series="method", order="strength", caption=CAPTIONS["curve"], levels=(CHANCE,), is_log=True,
    )  # fmt: skip


def _confusion_chart(frame: Any, method: str) -> Section:
    own = _confusions(frame, method).set_index("emotion").astype(float)
    shares = own.div(own.sum(axis=1), axis=0)
    caption = f"{CAPTIONS[f'confusion_{method}']} Share of each row."
    return cells(shares, across="judged", down="meant", caption=caption, most=1.0, decimals=2)


def _layer_charts(frame: Any) -> list[Section]:
    drawn = _by_test(frame)
    return [
        lines(
            own, x=("layer", "layer (0 = first)"), y=("right", f"most like its own emotion's direction: {test}"),
            series="set", caption=f"Held against: {test}. Chance is {number(1 / len(EMOTIONS))}.",
            levels=(1 / len(EMOTIONS),),
        )
        for test, own in drawn.groupby("test", sort=False)
    ]  # fmt: skip


def _cosine_chart(frame: Any) -> Section:
    caption = CAPTIONS["emotion_cosines"]
    square = frame.set_index("direction")
    return cells(
        square, across="emotion", down="emotion", caption=caption, most=1.0, decimals=2, numbered=True
    )  # fmt: skip


def _from_none(frame: Any) -> pd.DataFrame:
    """Points of all methods; the line of each that has a strength starts where nothing is done."""
    drawn = frame.dropna(subset=["ratio", "accuracy"])
    none = drawn[drawn["method"] == "none"]
    steered = [name for name in dict.fromkeys(drawn["method"]) if name not in ("none", "prompting")]
    started = [pd.concat([none.assign(method=name), drawn[drawn["method"] == name]]) for name in steered]
    return pd.concat([*started, drawn[drawn["method"] == "prompting"]], ignore_index=True)


def _confusions(frame: Any, method: str) -> Any:
    own = frame[frame["method"] == method].drop(columns="method")
    return own.set_index("emotion").loc[list(EMOTIONS)].reset_index()


def _by_test(frame: Any) -> Any:
    names = {"cross_theme": "left-out theme", "cross_wording": "other words for the emotions"}
    drawn = frame.melt(id_vars=["set", "layer"], value_vars=list(names), var_name="test", value_name="right").dropna()
    return drawn.assign(test=drawn["test"].map(names))


def _curve(frame: Any, path: Path, about: str) -> None:
    series_lines(
        _from_none(frame), path,
        x=("ratio", "perplexity over that of replies without a command"), y=("accuracy", "accuracy"),
        series="method", order="strength", level=CHANCE, title="What accuracy costs in fluency",
        subtitle=f"{about}; tune events", logarithmic=True,
    )  # fmt: skip


def _confusion(frame: Any, path: Path, method: str, about: str) -> None:
    count_map(
        _confusions(frame, method), path, rows="emotion", labels=("meant", "judged"),
        title=f"Emotions meant and judged: {method}", subtitle=about,
    )  # fmt: skip


def _layers(frame: Any, path: Path, about: str) -> None:
    series_lines(
        _by_test(frame), path, x=("layer", "layer"), y=("right", "most like its own emotion's direction"), series="set",
        panel="test", level=1 / len(EMOTIONS), title="Are directions of commands more than their words?",
        subtitle=about,
    )  # fmt: skip


def _components(frame: pd.DataFrame, path: Path, about: str) -> None:
    named_points(
        frame, path, x=("first", "first component"), y=("second", "second component"), name="emotion",
        title="The six directions in their first two components", subtitle=about,
    )  # fmt: skip


def _influence(frame: Any, path: Path, about: str) -> None:
    means = frame.groupby(["sublayer", "layer"], sort=False)["influence"].mean().reset_index()
    series_lines(
        means, path, x=("layer", "layer"), y=("influence", "influence I"), series="sublayer", level=0.0,
        title="Influence of sublayers on the end of the model", subtitle=about,
    )  # fmt: skip


def _long_tail(frame: Any, path: Path, about: str) -> None:
    means = frame.groupby(["kind", "k"], sort=False)["share"].mean().reset_index()
    series_lines(
        means, path, x=("k", "first k units"), y=("share", "share of positive scores"), series="kind",
        logarithmic=True, title="How many units write an emotion", subtitle=about,
    )  # fmt: skip
