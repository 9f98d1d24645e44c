"""Half-widths that the base model's runs let one expect, told before any mitigation is measured.

One row for each part of selectivity that is a ratio (:mod:`leakmech.side_effects.precision` has the formulas).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from leakmech.reports.cells import number
from leakmech.scoring.leakage import LeakageScores, PerSample, valence_shifts
from leakmech.scoring.records import leakage_scores, topic_free_scores
from leakmech.scoring.sentence import Cleaning
from leakmech.side_effects.capability import Capability
from leakmech.side_effects.facts import no_better_than_chance
from leakmech.side_effects.precision import AT, expected_half_width, generation_variance
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.mitigation.charges import RETENTIONS


def expected(
    frame: pd.DataFrame,
    base: BenchResult,
    relevant: Sequence[LeakageScores],
    known: Capability | None,
    *,
    cleaning: Cleaning,
) -> pd.DataFrame:
    """A row for each part: its column in the table, samples, the value at which it is told, and the half-width.

    `frame` holds the base model's scores on the leakage set, `base` is its run with tilt, `relevant` holds its scores
    on the sets of relevant affect, and `known` its answers to facts. NaN where nothing can be expected, as with one
    generation a prompt.
    """
    free = topic_free_scores(frame, cleaning)
    rows = [_sampled("removal", "removal", leakage_scores(frame, cleaning) if free is None else free)]
    if "tilt" in base.summary:
        tilt = base.table("tilt")["per_token_shift"].to_numpy(dtype=np.float64)
        rows.append(_row("removal_tilt", tilt, expected_half_width("removal", tilt)))
    rows += [_sampled(name, "retention", scores) for name, scores in zip(RETENTIONS, relevant, strict=False)]
    if known is not None and no_better_than_chance(known) is None:
        rows.append(_row("retention_facts", known.correct, expected_half_width("retention", known.correct)))
    return pd.DataFrame(rows)


def in_words(frame: pd.DataFrame) -> str:
    """A line that says what is expected."""
    told = ", ".join(
        f"{part} ±{number(width)} (n {n})"
        for part, n, width in zip(frame["part"], frame["n"], frame["half_width"], strict=True)
    )
    return f"half-widths of 95 % intervals to be expected at {AT:g}, from the base model alone: {told}"


def _sampled(part: str, kind: Literal["removal", "retention"], scores: LeakageScores) -> dict[str, str | float]:
    shift = valence_shifts(scores)["valence_shift"]
    return _row(part, shift, expected_half_width(kind, shift, noise=generation_variance(scores)))


def _row(part: str, values: PerSample, half_width: float) -> dict[str, str | float]:
    return {"part": part, "n": int(np.isfinite(values).sum()), "at": AT, "half_width": half_width}
