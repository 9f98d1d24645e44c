"""What a finished study of persona leakage found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leakmech.reports.tables import Table
from leakmech.runs.result import Drawing, Result


@dataclass(frozen=True, repr=False)
class PersonaLeakage(Result):
    """A finished study of persona leakage.

    Attributes
    ----------
    path
        Its directory: ``summary.json``, ``tables/``, ``adapters/``, ``prompts/``, ``answers/``, ``cells/``,
        ``figures/``, ``report.html``.
    summary
        The main numbers: ``cells``, ``pairs`` (seeds of a behaviour and source together), ``controls``,
        ``containment``, ``bridge``.
    """

    kind = "study"

    @property
    def headline(self) -> str:
        """What was found, in sentences."""
        from leakmech.studies.persona_leakage.report import headline

        return headline(self.summary)

    def tables(self) -> list[Table]:
        """Leakage and its correlations, containment, the bridge."""
        from leakmech.studies.persona_leakage.tables import study_tables

        return study_tables(self.summary)

    def to_frame(self) -> pd.DataFrame:
        """One row per behaviour, source and seed: ``tables/cells.csv``."""
        return self.table("cells")

    def figures(self) -> Mapping[str, Drawing]:
        """The figures of the page, by name."""
        from leakmech.studies.persona_leakage.figures import drawings

        return drawings(self.path, self.summary)

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.persona_leakage.report import write_report

        return write_report(self.path)
