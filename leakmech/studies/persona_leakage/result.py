"""What a finished study of persona leakage found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from leakmech.reports.tables import Table
from leakmech.runs.result import Result


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

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.persona_leakage.report import write_report

        return write_report(self.path)
