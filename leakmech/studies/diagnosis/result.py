"""What a finished diagnosis found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.models.components import Component, ComponentKind
from leakmech.reports.tables import Table
from leakmech.runs.result import Drawing, Result


@dataclass(frozen=True, repr=False)
class Diagnosis(Result):
    """A finished diagnosis.

    Attributes
    ----------
    path
        Its directory: ``summary.json``, ``tables/``, ``directions/``, ``figures/``, ``report.html``.
    summary
        The main numbers.
    """

    kind = "diagnose"

    @property
    def headline(self) -> str:
        """What was found, in sentences."""
        from leakmech.studies.diagnosis.report import first_heads, headline

        return headline(self.summary, first_heads(self.path, self.summary))

    def tables(self) -> list[Table]:
        """Directions, checks, and the heads that carry most."""
        from leakmech.studies.diagnosis.tables import diagnosis_tables

        return diagnosis_tables(self.summary, self.table("heads"))

    def first_units(self, kind: ComponentKind, n: int) -> list[Component]:
        """The `n` heads or neurons that rank first for the target, by the size of their scores on tune."""
        from leakmech.studies.diagnosis.tables import headline_rows

        ranked: Any = headline_rows(self.table(f"{kind}s"), self.summary["target"]).drop_duplicates(["layer", kind])
        first = ranked.sort_values("rank", kind="stable").loc[:, ["layer", kind]].head(n)
        return [Component(int(layer), kind, int(unit)) for layer, unit in first.itertuples(index=False)]

    def to_frame(self) -> pd.DataFrame:
        """One row per head, method and target: ``tables/heads.csv``."""
        return self.table("heads")

    def figures(self) -> Mapping[str, Drawing]:
        """The figures of the page, by name."""
        from leakmech.studies.diagnosis.figures import drawings

        return drawings(self.path, self.summary)

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.diagnosis.report import write_report

        return write_report(self.path)
