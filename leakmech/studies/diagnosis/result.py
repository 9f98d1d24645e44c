"""What a finished diagnosis found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leakmech.reports.tables import Table
from leakmech.runs.result import Result


@dataclass(frozen=True)
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

    def tables(self) -> list[Table]:
        """Directions, checks, and the heads that carry most."""
        from leakmech.studies.diagnosis.tables import diagnosis_tables

        return diagnosis_tables(self.summary, self.table("heads"))

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.diagnosis.report import write_report

        return write_report(self.path)
