"""What a finished comparison of mitigations found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leakmech.reports.tables import Table
from leakmech.runs.result import Result
from leakmech.studies.mitigation.tables import mitigations_table


@dataclass(frozen=True)
class MitigationComparison(Result):
    """What :func:`leakmech.mitigate` or :func:`leakmech.evaluate_mitigations` found.

    Attributes
    ----------
    path
        Its directory: ``summary.json``, ``tables/mitigations.csv``, and the benchmark runs in ``cells/``.
    summary
        Settings and the main numbers.
    """

    kind = "mitigate"

    def to_frame(self) -> pd.DataFrame:
        """One row per mitigation and split; ``base`` first."""
        return self.table("mitigations")

    def tables(self, split: str = "test") -> list[Table]:
        """The table of one split."""
        frame = self.to_frame()
        title = f"Mitigations of {self.summary['model']} on {self.summary['dataset']}"
        return [mitigations_table(frame.loc[frame["split"] == split], title=title)]

    def to_markdown(self, split: str = "test") -> str:
        """The table of one split as markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables(split))

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.mitigation.report import write_report

        return write_report(self.path)
