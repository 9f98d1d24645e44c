"""What every expression estimator of a comparison says of the same mitigations, from the same generations.

Strengths are chosen by the headline estimator alone, so a mitigation may be fitted to its faults: one that only moves
words which this estimator knows lowers leakage for it and for no other. A table for each estimator tells: leakage with
and without the answers about the injection, its reduction, retention of relevant affect, and the test against the base
model, adjusted over the same family (Holm) within each estimator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.paired import HEADLINE, run_differences, statistic_columns
from leakmech.scoring.records import leakage_scores
from leakmech.scoring.statistics import json_number
from leakmech.side_effects.equivalence import Estimate
from leakmech.side_effects.selectivity import Pair, leakage_reduction, retention
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.mitigation.cells import BASE, Cells
from leakmech.studies.mitigation.mitigation import Mitigation

Row = dict[str, Any]
_SHOWN = ("auc_el", "valence_shift")


def rows_by_estimator(cells: Cells, mitigations: Sequence[Mitigation], *, alpha: float = 0.05) -> list[Row]:
    """A row for each estimator and mitigation, the base model first; none where there is only one estimator.

    Everything is read from the benchmark runs of finished cells.
    """
    everything = [BASE, *mitigations]
    leaking = {mitigation.name: cells.bench(mitigation, cells.config.dataset) for mitigation in everything}
    estimators = leaking[BASE.name].summary["estimators"]
    if len(estimators) == 1:
        return []
    relevant = {mitigation.name: cells.bench(mitigation, cells.relevant[0]) for mitigation in everything}
    rows = []
    for estimator in estimators:
        scores, kept = (_scores(cells, results, estimator) for results in (leaking, relevant))
        p_values = p_values_against_base(cells, scores, everything, alpha=alpha)
        for mitigation in everything:
            pairs = [Pair(found[BASE.name], found[mitigation.name]) for found in (scores, kept)]
            drawn = {"seed": cells.config.seed, "draws": cells.draws}
            rows.append(
                {"name": mitigation.name, "kind": mitigation.kind, "told": mitigation.told}
                | {"split": cells.split, "estimator": estimator}
                | _leakage(leaking[mitigation.name].summary["by_estimator"][estimator]["overall"])
                | _ends("leakage_reduction", leakage_reduction(pairs[0], **drawn))
                | _ends("retention", retention(pairs[1], **drawn))
                | p_values.get(mitigation.name, {"p": None, "p_holm": None})
            )
    return rows


def _scores(cells: Cells, results: Mapping[str, BenchResult], estimator: str) -> dict[str, LeakageScores]:
    """The scores of one estimator, by mitigation."""
    found = {}
    for name, result in results.items():
        other = None if estimator == result.summary["estimator"] else estimator
        found[name] = leakage_scores(result.scores, cells.config.cleaning, estimator=other)
    return found


def _leakage(overall: Mapping[str, Any]) -> Row:
    """Leakage and valence shift with their intervals, of all answers and of those that are not about the injection."""
    row: Row = {"topic_rate": overall.get("topic_rate")}
    for prefix, values in (("", overall), ("topic_free_", overall.get("topic_free") or {})):
        for name in _SHOWN:
            low, high = values.get(f"{name}_ci") or (None, None)
            row |= {f"{prefix}{name}": values.get(name), f"{prefix}{name}_low": low, f"{prefix}{name}_high": high}
    return row


def p_values_against_base(
    cells: Cells, scores: Mapping[str, LeakageScores], mitigations: Sequence[Mitigation], *, alpha: float
) -> dict[str, Row]:
    """p values of a difference in auc_el from the base model, by mitigation.

    They are Holm-adjusted over what is meant to mitigate and is told nothing, and apart from it over all others.
    """
    columns = {mitigation.name: statistic_columns(scores[mitigation.name]) for mitigation in mitigations}
    drawn = {"alpha": alpha, "seed": cells.config.seed, "draws": cells.draws}
    p_values = {}
    for group in ([m for m in mitigations if m.claimed], [m for m in mitigations if not m.claimed and m != BASE]):
        pairs = [(mitigation.name, BASE.name) for mitigation in group]
        found = run_differences(columns, pairs, margin=None, **drawn) if pairs else []
        p_values |= {test.run: {"p": test.p, "p_holm": test.p_holm} for test in found if test.statistic == HEADLINE}
    return p_values


def _ends(name: str, found: Estimate) -> Row:
    return {
        f"{name}{end}": json_number(value)
        for end, value in (("", found.value), ("_low", found.low), ("_high", found.high))
    }
