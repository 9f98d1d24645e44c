"""Two or more finished studies over the same test events: does a method work better in one of the models?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.core.shown import cut
from leakmech.core.tables import write_records
from leakmech.reports.cells import number
from leakmech.reports.tables import Table, estimate_of, value_of
from leakmech.runs.result import Readable
from leakmech.scoring.statistics import DRAWS
from leakmech.studies.emotion_circuits.judging import OVERALL, difference_rows
from leakmech.studies.emotion_circuits.result import EmotionCircuits

METHODS = ("none", "prompting", "steering", "modulation")


@dataclass(frozen=True, repr=False)
class StudyComparison(Readable):
    """Accuracy of each method in each study, and its difference from the first study."""

    rows: Sequence[Mapping[str, Any]]

    def to_table(self) -> Table:
        """One row per study and method."""
        columns = {
            "study": value_of("run"),
            "method": value_of("method"),
            "accuracy [95 % CI]": estimate_of("accuracy"),
            "less the first study's [95 % CI]": estimate_of("difference"),
            "perplexity ratio": value_of("ratio", number),
            "modal opening": value_of("modal_share", number),
        }
        notes = ["the same events and judge; intervals over scenarios, not corrected for the number of comparisons"]
        return Table.of("Studies of emotion circuits", self.rows, columns, notes)

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


def compare_studies(runs: Sequence[str | Path], *, seed: int = 0, draws: int = DRAWS) -> StudyComparison:
    """Compare finished studies with the first one, method by method and event by event.

    Raises
    ------
    RunDirectoryError
        A run is not a finished study of emotion circuits.
    UsageError
        There are fewer than two, or they have other test events or another first judge.
    """
    if len(runs) < 2:
        raise UsageError("compare: name at least two studies")
    found = [EmotionCircuits.load(run) for run in runs]
    first = found[0]
    for own in found:
        if own.record.command != first.record.command:
            raise RunDirectoryError(f"{own.path}: is not a study of emotion circuits like {first.path}")
        if own.record.fingerprint["test"] != first.record.fingerprint["test"]:
            raise UsageError(f"{own.path}: was tested on other events than {first.path}")
        if own.summary["judges"][0] != first.summary["judges"][0]:
            raise UsageError(f"{own.path}: was judged by {own.summary['judges'][0]!r} and not as {first.path}")
    judge = first.summary["judges"][0]
    rows = []
    for own in found:
        for method in METHODS:
            rate, fluency = own.summary["accuracy"][method][OVERALL], own.summary["fluency"][method]
            row: dict[str, Any] = {
                "run": own.path.name, "method": method, "accuracy": rate["rate"],
                "accuracy_ci": [rate["low"], rate["high"]], "ratio": fluency["ratio"],
                "modal_share": fluency["modal_share"],
            }  # fmt: skip
            if own is not first:
                frames = [one.table(f"replies_test_{method}") for one in (own, first)]
                change = difference_rows(frames[0], frames[1:], judge, seed=seed, draws=draws)[-1]
                row |= {"difference": change["difference"], "difference_ci": [change["low"], change["high"]]}
            rows.append(row)
    return StudyComparison(rows)
