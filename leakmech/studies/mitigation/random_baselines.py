"""Random edits of the size and strength that was chosen: what a mitigation must beat to be about its components.

For the chosen member of a family that names components or directions, each draw takes as many of the same kind *in each
layer* at random, and does the same with them: heads and neurons go to their mean, directions are projected out with the
same strength in the same layers. Edits that are told nothing keep their gate and their positions: other heads go to
their late means, the stream is turned in another plane. A draw is a cell, measured on the leakage set and the first set
of relevant affect alone, with the generation noise of all other cells. The table has one row for each kind: the median
of the draws, and between ``_low`` and ``_high`` their middle 90 %.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.errors import ConfigError
from leakmech.interventions.base import Intervention
from leakmech.interventions.files import load_interventions, save_interventions
from leakmech.interventions.types import AblateDirection, AblateHeads, AblateNeurons, AngularSteering
from leakmech.runs.run import Run
from leakmech.scoring.statistics import json_number
from leakmech.side_effects.selectivity import Pair, leakage_reduction, retention
from leakmech.studies.mitigation.angular import turned
from leakmech.studies.mitigation.cells import BASE, Cells
from leakmech.studies.mitigation.families import heads_at_mean, neurons_at_mean
from leakmech.studies.mitigation.headline import RANDOM_OF
from leakmech.studies.mitigation.mitigation import Mitigation
from leakmech.studies.mitigation.parts import FittedParts
from leakmech.studies.mitigation.untold import heads_set_late

Row = dict[str, Any]
BAND = (0.05, 0.95)


@dataclass(frozen=True)
class RandomBaseline:
    """Random edits of one kind, of the size of what was chosen in the family that they follow."""

    follows: str
    note: str
    build: Callable[[FittedParts, Any, int], list[Intervention]]
    """Gets the chosen edit (the first of several that differ in positions only) and the number of a draw."""

    @property
    def name(self) -> str:
        """What rows of this kind begin with."""
        return RANDOM_OF[self.follows]

    def row_name(self, chosen: Mitigation) -> str:
        """The name of the row: that of the kind, with the strength that was chosen."""
        return self.name + chosen.name.removeprefix(self.follows)

    def draws(self, parts: FittedParts, chosen: Mitigation, number: int, fitted: Path) -> list[Mitigation]:
        """The mitigations of all draws; saved in the folder `fitted`, and read from there the next time."""
        return list(self._draws(parts, chosen, number, fitted))

    def _draws(self, parts: FittedParts, chosen: Mitigation, number: int, fitted: Path) -> Iterator[Mitigation]:
        edit = chosen.interventions[0]
        for draw in range(number):
            name = f"{self.row_name(chosen)}-draw-{draw + 1}"
            file = fitted / f"{name}.json"
            if not file.exists():
                save_interventions(self.build(parts, edit, draw), file, prompt_form=parts.prompt_form)
            yield Mitigation(name, "baseline", interventions=load_interventions(file), note=self.note)


def _heads(parts: FittedParts, chosen: AblateHeads, draw: int) -> list[Intervention]:
    return [heads_at_mean(parts, parts.random_like(chosen.parts, draw))]


def _neurons(parts: FittedParts, chosen: AblateNeurons, draw: int) -> list[Intervention]:
    return [neurons_at_mean(parts, parts.random_like(chosen.parts, draw))]


def _directions(parts: FittedParts, chosen: AblateDirection, draw: int) -> list[Intervention]:
    return [replace(chosen, vectors=parts.random_vectors(len(chosen.layers), draw))]


def _late_heads(parts: FittedParts, chosen: AblateHeads, draw: int) -> list[Intervention]:
    return heads_set_late(parts, parts.random_like(chosen.parts, draw), condition=chosen.condition)


def _planes(parts: FittedParts, chosen: AngularSteering, draw: int) -> list[Intervention]:
    first, second = parts.random_vectors(2, draw)
    across = second - (second @ first) * first
    return turned(parts, (first, across / across.norm()), chosen.strength, condition=chosen.condition)


RANDOM: tuple[RandomBaseline, ...] = (
    RandomBaseline("project-affect", "random directions projected out", _directions),
    RandomBaseline("heads-mean", "random heads at their mean", _heads),
    RandomBaseline("neurons-mean", "random neurons at their mean", _neurons),
    RandomBaseline("late-heads-if-unrelated", "random heads where the gate fires", _late_heads),
    RandomBaseline("angular-if-unrelated", "turned in a random plane where the gate fires", _planes),
)


def random_bands(
    run: Run, cells: Cells, parts: FittedParts, chosen: Mapping[str, Mitigation], *, draws: int
) -> list[Row]:
    """A row for each kind whose family was tried; every draw has one in ``tables/random_draws.csv``."""
    followed = [(kind, chosen[kind.follows]) for kind in RANDOM if kind.follows in chosen]
    drawn = {kind.row_name(member): kind.draws(parts, member, draws, run.path / "fitted") for kind, member in followed}
    rows: dict[str, list[Row]] = {name: [] for name in drawn}
    total = sum(map(len, drawn.values()))

    def saved() -> str:
        return f"{sum(map(len, rows.values()))} of {total} random draws are finished"

    with run.interruptible(saved), cells.progress("random draws", total=total, done=0) as advance:
        for name, mitigations in drawn.items():
            for mitigation in mitigations:
                measure = _measuring(cells, mitigation)
                rows[name].append(run.cell(cells.cell(mitigation), measure) | {"row": name})
                advance(1)
    if rows:
        run.save_table("random_draws", pd.DataFrame([row for found in rows.values() for row in found]))
    return [band(name, found) for name, found in rows.items()]


def _measuring(cells: Cells, mitigation: Mitigation) -> Callable[[], Row]:
    def measure() -> Row:
        overall = cells.bench(mitigation, cells.config.dataset).summary["overall"]
        free = overall.get("topic_free") or {}
        relevant = cells.relevant[0]
        leaking, kept = (Pair(cells.scores(BASE, one), cells.scores(mitigation, one)) for one in (None, relevant))
        options = {"seed": cells.config.seed, "draws": cells.draws}
        return {
            "name": mitigation.name,
            "kind": mitigation.kind,
            "split": cells.split,
            "note": mitigation.note,
            **{name: overall.get(name) for name in ("auc_el", "contrast", "valence_shift", "topic_rate")},
            **{f"topic_free_{name}": free.get(name) for name in ("auc_el", "contrast", "valence_shift")},
            "leakage_reduction": json_number(leakage_reduction(leaking, **options).value),
            "retention": json_number(retention(kept, **options).value),
            **cells.removals(mitigation),
        }

    return measure


def band(name: str, draws: Sequence[Mapping[str, Any]]) -> Row:
    """One row for all draws: the median of each number and the middle 90 %; None where no draw has the number."""
    if not draws:
        raise ConfigError(f"{name}: no draws")
    first = draws[0]
    row: Row = {key: first[key] for key in ("kind", "split", "note")} | {"name": name, "told": "nothing"}
    for key in first.keys() - {"name", "kind", "split", "note", "row"}:
        values = [draw[key] for draw in draws if draw[key] is not None]
        low, median, high = np.quantile(values, (BAND[0], 0.5, BAND[1])).tolist() if values else (None, None, None)
        row |= {key: median, f"{key}_low": low, f"{key}_high": high}
    return row | {"n_draws": len(draws)}
