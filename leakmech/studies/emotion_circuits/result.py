"""What a finished study of emotion circuits found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from leakmech.reports.tables import Table
from leakmech.runs.result import Drawing, Result


@dataclass(frozen=True, repr=False)
class EmotionCircuits(Result):
    """A finished study of emotion circuits.

    Attributes
    ----------
    path
        Its directory: ``summary.json``, ``tables/``, ``directions/``, ``replies/``, ``figures/``, ``report.html``.
    summary
        The main numbers: ``accuracy``, ``fluency``, ``collapse``, ``bridge`` and what each stage found.
    """

    kind = "study"

    @property
    def headline(self) -> str:
        """What was found, in sentences."""
        from leakmech.studies.emotion_circuits.report import headline

        return headline(self.summary)

    def tables(self) -> list[Table]:
        """Accuracy of all methods beside what their replies are like; units; the bridge."""
        from leakmech.studies.emotion_circuits.tables import study_tables

        return study_tables(self.summary)

    def to_frame(self) -> pd.DataFrame:
        """One row per method and emotion: ``tables/accuracy.csv``."""
        return self.table("accuracy")

    def figures(self) -> Mapping[str, Drawing]:
        """The figures of the page, by name."""
        from leakmech.studies.emotion_circuits.figures import drawings

        return drawings(self.path, self.summary)

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        from leakmech.studies.emotion_circuits.report import write_report

        return write_report(self.path)
