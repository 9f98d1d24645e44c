"""What a finished run of ``bench`` or ``score`` found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leakmech.reports.order import order_table
from leakmech.reports.tables import Table, summary_tables, tilt_table
from leakmech.runs.result import Result


@dataclass(frozen=True)
class BenchResult(Result):
    """A finished benchmark run.

    Attributes
    ----------
    path
        The run directory.
    summary
        The content of ``summary.json``.
    scores
        Data frame, one row per generation, see :mod:`leakmech.scoring.records`.
    """

    kind = "bench"

    def tables(self) -> list[Table]:
        """Every table, the main one first."""
        if not self.summary.get("no_mu_el"):
            return summary_tables(self.summary)
        tilt = tilt_table(self.summary)
        return [order_table(self.summary), *([tilt] if tilt else [])]

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.benchmark.report import write_report

        return write_report(self.path)
