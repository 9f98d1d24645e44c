"""What the page of the study shows before its tables: what :mod:`leakmech.studies.persona_leakage.figures` draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.tables import read_table
from leakmech.reports.frame_charts import cells, points
from leakmech.reports.page import Section, headed
from leakmech.studies.persona_leakage.figures import bystander_points, change_by_kind, taken_on

CAPTIONS = {
    "scatter": "A point is a bystander, its change the mean over seeds. Hollow: shares words with the source's prompt "
               "more than nine in ten do. Named: the five that changed most.",
    "kinds": "Mean change of bystanders, by kind of persona.",
    "containment": "Good is low on the right: the source keeps the behaviour, bystanders do not get it.",
}  # fmt: skip


def charts(run: Path, summary: Mapping[str, Any]) -> list[Section]:
    """A chart for each taught behaviour and source, kinds of personas, containment."""
    taken = taken_on(summary)
    found: list[Section] = []
    if taken:
        headline = summary["similarity"]["headline"]
        drawn: Any = bystander_points(read_table(run / "tables" / "personas.csv"), taken, headline)
        for (behaviour, source), own in drawn.groupby(["behaviour", "source"], sort=False):
            about = f"{source}, taught {behaviour}, rho {taken[behaviour, source]['rho']:+.2f}. {CAPTIONS['scatter']}"
            found.append(points(
                own, x=(headline, "similarity to the source"), y=("change", "change"), name="name", caption=about,
                hollow=lambda row: bool(row["shares_words"]),
            ))  # fmt: skip
        table = change_by_kind(run)
        found.append(cells(table, across="kind", down="behaviour, source", caption=CAPTIONS["kinds"], decimals=2))
    if rows := summary["containment"].get("rows"):
        found.append(points(
            pd.DataFrame(rows), x=("coupling", "coupling: rise of the source's rate"),
            y=("spread", "spread: rise of the bystanders' rate"), name="name", caption=CAPTIONS["containment"],
        ))  # fmt: skip
    return headed("Figures", found)
