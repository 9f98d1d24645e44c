"""What the page of the study shows before its tables: what :mod:`leakmech.studies.emotion_circuits.figures` draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from leakmech.core.tables import read_table
from leakmech.datasets.emotions import EMOTIONS
from leakmech.reports.cells import number
from leakmech.reports.frame_charts import cells, lines, points
from leakmech.reports.page import Section, headed
from leakmech.studies.emotion_circuits.figures import (
    CHANCE,
    by_test,
    confusions,
    from_none,
    mean_influence,
    mean_share,
)

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


def charts(run: Path) -> list[Section]:
    """The charts whose tables the run has."""
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
                mean_influence(f), x=("layer", "layer"),
                y=("influence", "influence I"), series="sublayer", caption=CAPTIONS["influence"], levels=(0.0,),
            )],
        ),
        "long_tail": (
            "long_tail",
            lambda f: [lines(
                mean_share(f), x=("k", "first k units"),
                y=("share", "share of positive scores"), series="kind", caption=CAPTIONS["long_tail"], is_log=True,
            )],
        ),
    }  # fmt: skip
    files = {name: run / "tables" / f"{table}.csv" for name, (table, _) in drawings.items()}
    found = [chart for name, file in files.items() if file.exists() for chart in drawings[name][1](read_table(file))]
    return headed("Figures", found)


def _curve_chart(frame: Any) -> Section:
    return lines(
        from_none(frame), x=("ratio", "perplexity over that without a command"), y=("accuracy", "accuracy"),
        series="method", order="strength", caption=CAPTIONS["curve"], levels=(CHANCE,), is_log=True,
    )  # fmt: skip


def _confusion_chart(frame: Any, method: str) -> Section:
    own = confusions(frame, method).set_index("emotion").astype(float)
    shares = own.div(own.sum(axis=1), axis=0)
    caption = f"{CAPTIONS[f'confusion_{method}']} Share of each row."
    return cells(shares, across="judged", down="meant", caption=caption, most=1.0, decimals=2)


def _layer_charts(frame: Any) -> list[Section]:
    drawn = by_test(frame)
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
