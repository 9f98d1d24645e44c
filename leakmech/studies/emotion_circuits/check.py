"""What is in a set of scenarios, and what is wrong with it: ``leakmech data check`` for files of the form of SEV."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from leakmech.core.errors import DatasetError
from leakmech.core.rows import fields_of_first_row, numbered_items
from leakmech.datasets.sev import (
    VALENCES,
    Scenario,
    is_scenario_set,
    scenario_file,
    scenario_problems,
    scenario_warnings,
)
from leakmech.reports.cells import number, percent
from leakmech.reports.tables import Table
from leakmech.scoring.expression import LABELS, load_estimator


@dataclass(frozen=True, eq=False)
class ScenarioReport:
    """What :func:`check_scenarios` found."""

    path: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    events: pd.DataFrame
    """One row an event: theme, split, valence, words of the scenario and of the event, class by the estimator."""
    estimator: str

    def tables(self) -> list[Table]:
        """Numbers and lengths by theme, and classes by valence; none when the file could not be read."""
        if self.events.empty:
            return []
        return [self._themes(), self._classes()]

    def _themes(self) -> Table:
        rows = [
            (
                str(theme),
                str(len(own) // len(VALENCES)),
                ", ".join(f"{split} {n // len(VALENCES)}" for split, n in own["split"].value_counts().items()),
                number(own["scenario_words"].mean()),
                number(own["event_words"].mean()),
            )
            for theme, own in self.events.groupby("theme", sort=False)
        ]
        return Table("Scenarios by theme", ("theme", "scenarios", "splits", "words a scenario", "words an event"), rows)

    def _classes(self) -> Table:
        rows = [
            (str(valence), *(percent((own["class"] == label).mean()) for label in LABELS))
            for valence, own in self.events.groupby("valence", sort=False)
        ]
        title = f"Class of each event by the estimator {self.estimator!r}, which is no human judge"
        return Table(title, ("event", *LABELS), rows)


def has_scenarios(name_or_path: str | Path) -> bool:
    """Whether this is a set of scenarios: a built-in one, or a file whose first row has a scenario and no stem."""
    if is_scenario_set(name_or_path):
        return True
    fields = fields_of_first_row(Path(name_or_path))
    return "scenario" in fields and "stem" not in fields


def check_scenarios(name_or_path: str | Path, *, estimator: str = "embedded") -> ScenarioReport:
    """Check a set of scenarios: form, feelings that are named, words that voice them, lengths, class of each event."""
    path = scenario_file(name_or_path)
    try:
        scenarios = numbered_items(path, Scenario)
    except DatasetError as error:
        return ScenarioReport(path, (str(error),), (), pd.DataFrame(), estimator)
    events = pd.DataFrame(
        {
            "theme": own.theme,
            "split": own.split or "none",
            "valence": valence,
            "text": getattr(own, valence),
            "scenario_words": len(own.scenario.split()),
            "event_words": len(getattr(own, valence).split()),
        }
        for own in scenarios.values()
        for valence in VALENCES
    )
    classes = np.asarray(load_estimator(estimator)(events["text"].tolist())).argmax(axis=1)
    events["class"] = [LABELS[place] for place in classes]
    problems = tuple(scenario_problems(path, scenarios))
    return ScenarioReport(path, problems, tuple(scenario_warnings(path, scenarios)), events, estimator)
