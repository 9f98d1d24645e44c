"""Several generation seeds of one benchmark as one: more generations of the same prompts, with intervals over samples.

Seed s draws noise of its own, so generation i of run s is generation s K + i of the pooled run. Nothing else changes:
a sample stays one unit, and what lies between its generations is in its interval already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from leakmech.datasets.samples import POLARITIES
from leakmech.scoring.leakage import condition_leakage, main_statistics
from leakmech.scoring.records import column, leakage_scores, topic_ranks
from leakmech.scoring.statistics import json_number
from leakmech.scoring.topic import on_injection, topic_statistics
from leakmech.side_effects.answers import Answers
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import BenchConfig


def pooled_frame(results: Sequence[BenchResult], generations: int) -> pd.DataFrame:
    """The scores of runs that differ by their seed alone, as if they were one run; `generations` is K of each."""
    if len(results) == 1:
        return results[0].scores
    frames = [
        result.scores.assign(generation=result.scores["generation"] + number * generations)
        for number, result in enumerate(results)
    ]
    frame = pd.concat(frames, ignore_index=True)
    place = {sample: number for number, sample in enumerate(dict.fromkeys(frame["sample"].tolist()))}
    order = (
        frame.assign(place=[place[sample] for sample in frame["sample"].tolist()])
        .sort_values(["place", "generation"], kind="stable")
        .index
    )
    return frame.loc[order].reset_index(drop=True)


def pooled_answers(results: Sequence[BenchResult], generations: int) -> Answers:
    """The answers of such runs."""

    def records() -> Iterator[dict[str, Any]]:
        for number, result in enumerate(results):
            for record in result.files.generations():
                if record["generation"] < generations:
                    yield {**record, "generation": record["generation"] + number * generations}

    return Answers.of_records(records())


def pooled_summary(frame: pd.DataFrame, config: BenchConfig) -> dict[str, Any]:
    """What a summary says of leakage, of pooled scores: ``overall`` and, by polarity, ``conditions``."""
    drawn, scores = {"seed": config.seed, "draws": config.bootstrap_draws}, leakage_scores(frame, config.cleaning)
    overall: dict[str, Any] = main_statistics(scores, **drawn)
    if column(config.cleaning, "topic_positive") in frame:
        overall |= topic_statistics(scores, on_injection(topic_ranks(frame, config.cleaning)), **drawn)
    alone = {name: condition_leakage(scores, name, pairing="all").value for name in POLARITIES}
    return {"overall": overall, "conditions": {name: {"auc_el": json_number(value)} for name, value in alone.items()}}
