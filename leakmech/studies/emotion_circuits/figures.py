"""Figures of a finished study, from its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.tables import read_table
from leakmech.datasets.emotions import EMOTIONS
from leakmech.reports.figures.directions import cosine_heat_map
from leakmech.reports.figures.series import count_map, named_points, series_lines

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


def _curve(frame: Any, path: Path, about: str) -> None:
    drawn = frame.dropna(subset=["ratio", "accuracy"])
    none = drawn[drawn["method"] == "none"]
    steered = [name for name in dict.fromkeys(drawn["method"]) if name not in ("none", "prompting")]
    # Every line starts where nothing is done.
    lines = [pd.concat([none.assign(method=name), drawn[drawn["method"] == name]]) for name in steered]
    whole = pd.concat([*lines, drawn[drawn["method"] == "prompting"]], ignore_index=True)
    series_lines(
        whole, path, x=("ratio", "perplexity over that of replies without a command"), y=("accuracy", "accuracy"),
        series="method", order="strength", level=CHANCE, title="What accuracy costs in fluency",
        subtitle=f"{about}; tune events", logarithmic=True,
    )  # fmt: skip


def _confusion(frame: Any, path: Path, method: str, about: str) -> None:
    own = frame[frame["method"] == method].drop(columns="method")
    own = own.set_index("emotion").loc[list(EMOTIONS)].reset_index()
    count_map(
        own, path, rows="emotion", labels=("meant", "judged"), title=f"Emotions meant and judged: {method}",
        subtitle=about,
    )  # fmt: skip


def _layers(frame: Any, path: Path, about: str) -> None:
    names = {"cross_theme": "left-out theme", "cross_wording": "other words for the emotions"}
    drawn = frame.melt(id_vars=["set", "layer"], value_vars=list(names), var_name="test", value_name="right").dropna()
    drawn["test"] = drawn["test"].map(names)
    series_lines(
        drawn, path, x=("layer", "layer"), y=("right", "most like its own emotion's direction"), series="set",
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
