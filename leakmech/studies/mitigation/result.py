"""What a finished comparison of mitigations found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from leakmech.reports.tables import Table
from leakmech.runs.result import Drawing, Result
from leakmech.studies.mitigation.older import read_rows
from leakmech.studies.mitigation.tables import (
    arrangements_table,
    by_estimator_table,
    charged_table,
    mitigations_table,
    quick_opening,
    read_by_estimator,
)


@dataclass(frozen=True, repr=False)
class MitigationComparison(Result):
    """What :func:`leakmech.mitigate` or :func:`leakmech.evaluate_mitigations` found.

    Attributes
    ----------
    path
        Its directory: ``summary.json``, ``tables/mitigations.csv`` (with several estimators also
        ``mitigations_by_estimator.csv``), and the benchmark runs in ``cells/``.
    summary
        Settings and the main numbers.
    """

    kind = "mitigate"

    def to_frame(self) -> pd.DataFrame:
        """One row per mitigation and split; ``base`` first."""
        return read_rows(self.path)

    def by_estimator(self) -> pd.DataFrame | None:
        """One row per estimator and mitigation on test samples, the headline's first; None if it is the only one."""
        return read_by_estimator(self.path)

    @property
    def headline(self) -> str:
        """What the table supports, in sentences."""
        from leakmech.studies.mitigation.headline import headline

        frame = self.to_frame()
        return f"{quick_opening(self.summary)}{headline(frame[frame['split'] == 'test'])}"

    def tables(self, split: str = "test") -> list[Table]:
        """Of one split the main numbers, what selectivity charges and what leaks with the injection elsewhere.

        Of test samples also what each estimator says.
        """
        frame = self.to_frame()
        title = f"{quick_opening(self.summary)}Mitigations of {self.summary['model']} on {self.summary['dataset']}"
        rows, views = frame.loc[frame["split"] == split], self.by_estimator()
        charged = charged_table(rows, self.summary)
        elsewhere = arrangements_table(rows)
        own = [mitigations_table(rows, title=title), *(one for one in (charged, elsewhere) if one is not None)]
        return own if views is None or split != "test" else [*own, by_estimator_table(views)]

    def figures(self) -> Mapping[str, Drawing]:
        """``pareto``: what each takes out against what it keeps; nothing where the base model does not leak."""
        from leakmech.studies.mitigation.report import draw_mitigations, has_trade_off

        frame = self.to_frame()
        return {"pareto": partial(draw_mitigations, frame)} if has_trade_off(frame) else {}

    def to_markdown(self, split: str = "test") -> str:
        """The tables of one split as markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables(split))

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.mitigation.report import write_report

        return write_report(self.path)
