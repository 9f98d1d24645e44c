"""Figures of the study, from its tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.tables import read_table
from leakmech.reports.figures.scatter import scatter_panels, value_map
from leakmech.reports.figures.series import named_points
from leakmech.reports.frame_charts import cells, points
from leakmech.reports.page import Section
from leakmech.studies.persona_leakage.workbench import BYSTANDER

CAPTIONS = {
    "scatter": "A point is a bystander, its change the mean over seeds. Hollow: shares words with the source's prompt "
               "more than nine in ten do. Named: the five that changed most.",
    "kinds": "Mean change of bystanders, by kind of persona.",
    "containment": "Good is low on the right: the source keeps the behaviour, bystanders do not get it.",
}  # fmt: skip
"""By name, in the order of the page."""
_NAMED = 5
_SHARED = 0.9


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Draw every figure whose table the run has; names and data lie in ``figures/``."""
    about = summary["model"].removeprefix("embedded:") + ("; quick: no measurement" if summary.get("quick") else "")
    taken = {(row["behaviour"], row["source"]): row for row in summary["pairs"] if row["rho"] is not None}
    everything: Any = read_table(run / "tables" / "personas.csv")
    if taken:
        headline = summary["similarity"]["headline"]
        scatter_panels(
            _points(everything, taken, headline), run / "figures" / "scatter", x=(headline, "similarity to the source"),
            y=("change", "change"), rows="behaviour", columns="source", name="name", mark="shares_words",
            title="Change of bystanders over their similarity to the source", subtitle=about,
            note=lambda behaviour, source: f"rho {taken[behaviour, source]['rho']:+.2f}",
        )  # fmt: skip
        kinds: Any = read_table(run / "tables" / "kinds.csv")
        kinds["row"] = kinds["behaviour"] + ", " + kinds["source"]
        value_map(
            kinds.pivot_table(index="row", columns="kind", values="change", sort=False), run / "figures" / "kinds",
            label="change", title="Change of bystanders, by kind of persona", subtitle=about,
        )  # fmt: skip
    rows = summary["containment"].get("rows")
    if rows:
        named_points(
            pd.DataFrame(rows), run / "figures" / "containment", x=("coupling", "coupling: rise of the source's rate"),
            y=("spread", "spread: rise of the bystanders' rate"), name="name", title="Spread against coupling",
            subtitle=about,
        )  # fmt: skip


def charts(run: Path, summary: Mapping[str, Any]) -> list[Section]:
    """The same for the page, in it: a chart for each taught behaviour and source, kinds of personas, containment."""
    taken = {(row["behaviour"], row["source"]): row for row in summary["pairs"] if row["rho"] is not None}
    found: list[Section] = []
    if taken:
        headline = summary["similarity"]["headline"]
        drawn: Any = _points(read_table(run / "tables" / "personas.csv"), taken, headline)
        for (behaviour, source), own in drawn.groupby(["behaviour", "source"], sort=False):
            about = f"{source}, taught {behaviour}, rho {taken[behaviour, source]['rho']:+.2f}. {CAPTIONS['scatter']}"
            found.append(points(
                own, x=(headline, "similarity to the source"), y=("change", "change"), name="name", caption=about,
                hollow=lambda row: bool(row["shares_words"]),
            ))  # fmt: skip
        kinds: Any = read_table(run / "tables" / "kinds.csv")
        kinds["row"] = kinds["behaviour"] + ", " + kinds["source"]
        table = kinds.pivot_table(index="row", columns="kind", values="change", sort=False)
        found.append(cells(table, across="kind", down="behaviour, source", caption=CAPTIONS["kinds"], decimals=2))
    if rows := summary["containment"].get("rows"):
        found.append(points(
            pd.DataFrame(rows), x=("coupling", "coupling: rise of the source's rate"),
            y=("spread", "spread: rise of the bystanders' rate"), name="name", caption=CAPTIONS["containment"],
        ))  # fmt: skip
    return [replace(found[0], heading="Figures"), *found[1:]] if found else []


def _points(everything: Any, taken: Mapping[tuple[str, str], Any], headline: str) -> pd.DataFrame:
    """Bystanders of the pairs that are drawn, means over seeds."""
    keys = ["behaviour", "source", "persona"]
    own = everything[(everything["role"] == BYSTANDER) & everything["taken_on"]]
    own = own[own["version"] == "behaviour"]
    own = own.groupby(keys, sort=False)[["change", headline, "shared_words"]].mean().reset_index()
    own = own[[pair in taken for pair in zip(own["behaviour"], own["source"], strict=True)]]
    groups = own.groupby(["behaviour", "source"], sort=False)
    order = groups["change"].rank(method="first", ascending=False)
    limit = groups["shared_words"].transform(lambda values: values.quantile(_SHARED))
    return own.assign(
        name=[persona if place <= _NAMED else "" for persona, place in zip(own["persona"], order, strict=True)],
        shares_words=(own["shared_words"] > limit).astype(int),
    )
