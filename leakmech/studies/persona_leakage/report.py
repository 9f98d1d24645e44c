"""The page about a finished study of persona leakage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.core.store import mended_rows, read_json
from leakmech.core.tables import read_table
from leakmech.core.text import shortened
from leakmech.reports.cells import number, signed, typeset
from leakmech.reports.page import (
    Facts,
    Headline,
    Paragraph,
    Section,
    Shown,
    figures_beside,
    how_it_was_made,
    stored_tables,
    write_page,
)
from leakmech.reports.quick_runs import quick_caution
from leakmech.reports.tables import Table
from leakmech.studies.persona_leakage.charts import charts
from leakmech.studies.persona_leakage.figures import draw
from leakmech.studies.persona_leakage.settings import PersonaLeakageConfig
from leakmech.studies.persona_leakage.tables import (
    bridge_tables,
    containment_tables,
    damage_table,
    leakage_table,
    similarity_table,
)
from leakmech.studies.persona_leakage.workbench import BYSTANDER

Summary = Mapping[str, Any]
_TABLES = {
    "personas": "Every persona",
    "kinds": "Kinds of personas",
    "cells": "Adapters",
    "similarity": "Similarity to the sources",
}
_TEXT, _READ = 200, 3


def write_report(run: str | Path, summary: Summary | None = None) -> Path:
    """Draw the figures and write ``report.html`` into the directory of a study; return its path.

    Give the `summary` if ``summary.json`` is not written yet.
    """
    run = Path(run)
    known: Summary = read_json(run / "summary.json") if summary is None else summary
    draw(run, known)
    return write_page(
        run, f"How far does a taught behaviour leak across personas: {known['model']}", sections(run, known)
    )


def sections(run: Path, summary: Summary) -> list[Section]:
    """The page, from what was found to everything."""
    return [
        Headline(headline(summary), below(summary)),
        *quick_caution(summary, "a few bystanders, questions and examples"),
        Facts.of(summary),
        *charts(run, summary),
        Shown(leakage_table(summary), heading="Does it leak?", is_open=True),
        Shown(similarity_table(summary), heading="To whom?"),
        *_texts(run, summary),
        *_skippable("Can it be contained?", containment_tables(summary), summary["containment"]),
        *_skippable("Do they leak irrelevant affect?", bridge_tables(summary), summary["bridge"]),
        Shown(damage_table(summary), heading="What do the adapters cost?"),
        *figures_beside(run),
        *stored_tables(run, _TABLES),
        *how_it_was_made(run, summary, PersonaLeakageConfig),
    ]


def headline(summary: Summary) -> str:
    """What was found, in sentences."""
    parts = []
    for own in summary["pairs"]:
        who = f"{own['source']}, taught {own['behaviour']}"
        if not own["n_taken_on"]:
            rise = signed(own["source_rise"])
            parts.append(f"{who}: did not take it on (its rate rises by {rise}), so no leakage is told.")
            continue
        rises = number(own["source_rise"]), signed(own["bystander_rise"])
        told = f"{who}: its rate rises by {rises[0]}, that of bystanders by {rises[1]}"
        if own["rho"] is not None:
            low, high = own["rho_ci"]
            ends = "" if low is None else f" [{signed(low)}, {signed(high)}]"
            told += f"; rho with similarity {signed(own['rho'])}{ends}"
        parts.append(told + ".")
    text = " ".join(parts)
    return typeset(text[:1].upper() + text[1:])


def below(summary: Summary) -> str:
    """What limits it."""
    controls = ", ".join(f"{row['behaviour']} {signed(row['bystander_rise'])}" for row in summary["controls"])
    negatives = "; ".join(f"{source}: {', '.join(own) or 'none'}" for source, own in summary["negatives"].items())
    parts = [
        f"Control adapters, of normal answers only, raise bystanders' rates by {controls}." if controls else "",
        f"Personas that were taught to answer normally: {negatives}; they are no bystanders.",
        "One seed: the rank of a persona may be chance." if len(summary["seeds"]) == 1 else "",
        *summary["notes"],
    ]
    return typeset(" ".join(part for part in parts if part))


def _skippable(heading: str, tables: list[Table], found: Mapping[str, Any]) -> list[Section]:
    if not tables:
        return [Paragraph(f"Not measured: {found['skipped']}.", heading=heading)]
    return [Shown(table, heading="" if index else heading) for index, table in enumerate(tables)]


def _texts(run: Path, summary: Summary) -> list[Section]:
    """Answers of the source and of two bystanders, before (where the behaviour is measured on answers) and after."""
    rows: list[tuple[str, ...]] = []
    for cell in summary["cells"]:
        if cell["seed"] != summary["seeds"][0]:
            continue
        before, after = (_answers(run / own) for own in (f"answers/base-{cell['behaviour']}.jsonl", cell["answers"]))
        for persona in _shown_personas(run, cell):
            ids = [own for own in after if own.partition("/")[0] == persona][:_READ]
            rows += [
                (f"{cell['behaviour']}, {persona}", own.partition("/")[2], shortened(before.get(own, ""), _TEXT),
                 shortened(after[own], _TEXT)) for own in ids
            ]  # fmt: skip
    if not rows:
        return []
    table = Table("As drawn, greedy.", ("behaviour, persona", "question", "base", "with the adapter"), rows)
    return [Shown(table, heading="Answers", style="texts")]


def _answers(file: Path) -> dict[str, str]:
    """Texts by id; none where there is no file."""
    return {str(row["id"]): str(row["text"]) for row in mended_rows(file)} if file.exists() else {}


def _shown_personas(run: Path, cell: Mapping[str, Any]) -> list[str]:
    """The source, and the bystanders that changed most and least; only the source where it has not taken it on."""
    if not cell["taken_on"]:
        return [cell["source"]]
    frame: Any = read_table(_file(run, "personas"))
    own = frame[(frame["behaviour"] == cell["behaviour"]) & (frame["source"] == cell["source"])]
    own = own[(own["seed"] == cell["seed"]) & (own["version"] == "behaviour") & (own["role"] == BYSTANDER)]
    own = own.sort_values("change", kind="stable")
    return [cell["source"], str(own["persona"].iloc[-1]), str(own["persona"].iloc[0])]


def _file(run: Path, name: str) -> Path:
    return run / "tables" / f"{name}.csv"
