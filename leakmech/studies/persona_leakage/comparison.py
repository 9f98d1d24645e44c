"""Two or more finished studies: does a behaviour leak further in one of them (a model, a contrast, a recipe)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.core.shown import cut
from leakmech.core.tables import write_records
from leakmech.reports.cells import signed
from leakmech.reports.tables import Table, estimate_of, value_of
from leakmech.runs.result import Readable
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.capability import with_count
from leakmech.side_effects.equivalence import estimate, mean_ratio
from leakmech.studies.persona_leakage.result import PersonaLeakage
from leakmech.studies.persona_leakage.workbench import BYSTANDER


@dataclass(frozen=True, repr=False)
class LeakageComparison(Readable):
    """Rises of sources and bystanders in each study, and how much further bystanders rise than in the first one."""

    rows: Sequence[Mapping[str, Any]]

    def to_table(self) -> Table:
        """One row per study, behaviour and source."""
        columns = {
            "study": value_of("run"),
            "behaviour": value_of("behaviour"),
            "source": value_of("source"),
            "taken on": value_of("taken_on"),
            "source's rise": value_of("source_rise", signed),
            "bystanders' rise": value_of("bystander_rise", signed),
            "less the first study's [95 % CI]": estimate_of("difference", signed),
            "personas": value_of("n"),
            "rho": value_of("rho", signed),
        }
        notes = ["means over seeds; the same bystanders in both studies; intervals over personas, not corrected"]
        return Table.of("Studies of persona leakage", self.rows, columns, notes)

    def tables(self) -> list[Table]:
        """The table."""
        return [self.to_table()]

    def to_frame(self) -> pd.DataFrame:
        """The same rows with every number."""
        return pd.DataFrame([dict(row) for row in self.rows])

    def __repr__(self) -> str:
        names = dict.fromkeys(str(row["run"]) for row in self.rows)
        return cut(f"{type(self).__name__}({', '.join(names)})")

    def save(self, out: str | Path) -> Path:
        """Write ``studies.csv`` into the folder `out`; return its path."""
        file = Path(out) / "studies.csv"
        write_records(file, self.rows)
        return file


def compare_leakage(runs: Sequence[str | Path], *, seed: int = 0, draws: int = DRAWS) -> LeakageComparison:
    """Compare finished studies of persona leakage with the first one, behaviour by behaviour and source by source.

    Raises
    ------
    RunDirectoryError
        A run is not a finished study of persona leakage.
    UsageError
        There are fewer than two, or one has no behaviour and source in common with the first.
    """
    if len(runs) < 2:
        raise UsageError("compare: name at least two studies")
    found = [PersonaLeakage.load(run) for run in runs]
    first = found[0]
    for own in found:
        if own.record.command != first.record.command:
            raise RunDirectoryError(f"{own.path}: is not a study of persona leakage like {first.path}")
    known = {_pair(row) for row in first.summary["pairs"]}
    rises = [_rises(own) for own in found]
    rows: list[dict[str, Any]] = []
    for own, table in zip(found, rises, strict=True):
        shared = [row for row in own.summary["pairs"] if _pair(row) in known]
        if not shared:
            raise UsageError(f"{own.path}: has no behaviour and source in common with {first.path}")
        for row in shared:
            told: dict[str, Any] = {
                "run": own.path.name, "behaviour": row["behaviour"], "source": row["source"],
                "taken_on": f"{row['n_taken_on']} of {row['n_seeds']}", "source_rise": row["source_rise"],
                "bystander_rise": row["bystander_rise"], "rho": row["rho"], "difference": None,
                "difference_ci": [None, None], "n": None,
            }  # fmt: skip
            if own is not first and _pair(row) in table and _pair(row) in rises[0]:
                told |= _difference(table[_pair(row)], rises[0][_pair(row)], seed=seed, draws=draws)
            rows.append(told)
    return LeakageComparison(rows)


def _pair(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["behaviour"], row["source"]


def _rises(study: PersonaLeakage) -> dict[tuple[str, str], pd.Series]:
    """Mean rise over seeds of every bystander, where the source has taken the behaviour on."""
    frame: Any = study.table("personas")
    own = frame[(frame["role"] == BYSTANDER) & frame["taken_on"] & (frame["version"] == "behaviour")]
    own = own.assign(rise=own["tuned_rate"] - own["base_rate"])
    return {
        (str(behaviour), str(source)): part.groupby("persona", sort=False)["rise"].mean()
        for (behaviour, source), part in own.groupby(["behaviour", "source"], sort=False)
    }


def _difference(own: pd.Series, first: pd.Series, *, seed: int, draws: int) -> dict[str, Any]:
    both = own.to_frame("own").join(first.rename("first"), how="inner")
    change = (both["own"] - both["first"]).to_numpy(dtype=float)
    found = estimate(with_count(change), mean_ratio, seed=seed, draws=draws)
    return {**found.named("difference"), "n": len(both)}
