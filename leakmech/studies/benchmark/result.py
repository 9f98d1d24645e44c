"""What a finished run of ``bench`` or ``score`` found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from leakmech.core.tables import flat_numbers
from leakmech.reports.order import order_table
from leakmech.reports.tables import Table, summary_tables, tilt_table
from leakmech.runs.result import Drawing, Result
from leakmech.studies.benchmark.figures import draw_leakage


@dataclass(frozen=True, repr=False)
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

    def tilt_shifts(self, samples: Sequence[str] | None = None, *, estimator: str | None = None) -> pd.Series:
        """The tilt shift per token by sample, NaN where a stem has none, of a run with tilt.

        Parameters
        ----------
        samples
            The samples that are wanted, in this order; None: those of the run.
        estimator
            Whose valence; None: the headline's.

        Raises
        ------
        RunDirectoryError
            The run has no tilt.
        """
        table = self.table("tilt")
        from leakmech.scoring.tilt import shift_column  # here: it needs torch, and to read a run does not

        shifts = pd.Series(table[shift_column(estimator)].to_numpy(dtype=float), index=table["sample"])
        return shifts if samples is None else shifts.reindex(list(samples))

    @property
    def headline(self) -> str:
        """Whether the model is shown to leak, in one line."""
        from leakmech.studies.benchmark.report_facts import verdict

        return verdict(self.summary)

    def tables(self) -> list[Table]:
        """Every table, the main one first."""
        if not self.summary.get("no_mu_el"):
            return summary_tables(self.summary)
        tilt = tilt_table(self.summary)
        return [order_table(self.summary), *([tilt] if tilt else [])]

    def to_frame(self) -> pd.DataFrame:
        """One row for each condition and ``overall``: every number, an interval as ``<name>_low`` and ``_high``.

        One row for each generation is :attr:`scores`.
        """
        rows = {"overall": self.summary["overall"]} | dict(self.summary["conditions"])
        return pd.DataFrame([{"condition": name, **flat_numbers(row)} for name, row in rows.items()])

    def figures(self) -> Mapping[str, Drawing]:
        """``leakage``: all pairs by condition, and without answers about the injection."""
        return {} if self.summary.get("no_mu_el") else {"leakage": partial(draw_leakage, self.summary)}

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.benchmark.report import write_report

        return write_report(self.path)
