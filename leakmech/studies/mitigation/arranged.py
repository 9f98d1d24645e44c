"""Leakage with the injection elsewhere: in the middle, in a clause, in an earlier turn, two of opposite polarity, …

Each arrangement costs as much as the leakage set itself, so a comparison that chooses measures it for a few rows: the
base model, the oracle, the text-only baseline, and the best two rows that are told nothing. What is asked for by name
(:func:`leakmech.evaluate_mitigations`, or files alone) is measured whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan
from typing import Any

from leakmech.prompts.arrangement import Arrangement
from leakmech.runs.run import Run
from leakmech.scoring.records import leakage_scores
from leakmech.side_effects.equivalence import Estimate
from leakmech.side_effects.selectivity import Pair, leakage_reduction, oracle_is_shown
from leakmech.studies.mitigation.cells import BASE, Cells
from leakmech.studies.mitigation.charges import sampled_removal
from leakmech.studies.mitigation.columns import arrangement_columns
from leakmech.studies.mitigation.headline import REFERENCE
from leakmech.studies.mitigation.mitigation import Mitigation
from leakmech.studies.mitigation.prompting import ORACLE

Row = dict[str, Any]
_BEST = 2


def with_arrangements(run: Run, cells: Cells, mitigations: Sequence[Mitigation], rows: Sequence[Row]) -> list[Row]:
    """The rows, of which those of `mitigations` and of the base model say what leaks in other arrangements."""
    if not cells.arrangements:
        return list(rows)
    everything = [BASE, *(one for one in mitigations if one != BASE)]
    found: dict[str, Row] = {mitigation.name: {} for mitigation in everything}
    total, done = len(cells.arrangements) * len(everything), 0

    def saved() -> str:
        return f"{done} of {total} rows have been measured in other arrangements"

    with run.interruptible(saved), cells.progress("other arrangements", total=total, done=0) as advance:
        for arrangement in cells.arrangements:  # outermost: an interruption leaves whole arrangements
            for mitigation in everything:
                found[mitigation.name] |= _arranged(run, cells, mitigation, arrangement)
                done += 1
                advance(1)
    return [row | found.get(row["name"], {}) for row in rows]


def worth_arranging(mitigations: Sequence[Mitigation], rows: Sequence[Mapping[str, Any]]) -> list[Mitigation]:
    """The oracle, the text-only baseline, and the two most selective of those that are told nothing."""
    by_name = {row["name"]: row for row in rows}
    told_nothing = [one for one in mitigations if one.claimed and by_name[one.name]["selectivity"] is not None]
    best = sorted(told_nothing, key=lambda one: -by_name[one.name]["selectivity"])[:_BEST]
    return [one for one in mitigations if one == ORACLE or one.name.startswith(REFERENCE) or one in best]


def _arranged(run: Run, cells: Cells, mitigation: Mitigation, arrangement: Arrangement) -> Row:
    """The columns of one arrangement; they are kept when they are measured."""

    def measure() -> Row:
        dataset, cleaning = cells.config.dataset, cells.config.cleaning
        base, changed, oracle = (
            cells.bench(one, dataset, arrangement=arrangement) for one in (BASE, mitigation, ORACLE)
        )
        _, removal = sampled_removal([result.scores for result in (base, changed, oracle)], cleaning)
        is_shown = oracle_is_shown(removal, **cells.drawn)
        found = {"removal": removal.estimate(**cells.drawn) if is_shown else Estimate(nan, nan, nan)}
        if arrangement != "opposed":
            pair = Pair(leakage_scores(base.scores, cleaning), leakage_scores(changed.scores, cleaning))
            found["leakage_reduction"] = leakage_reduction(pair, **cells.drawn)
        return arrangement_columns(arrangement, changed.summary["overall"], found)

    return run.cell(f"{cells.cell(mitigation)}/{arrangement}", measure)
