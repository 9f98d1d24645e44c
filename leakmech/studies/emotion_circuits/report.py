"""The page about a finished study of emotion circuits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.core.store import read_json
from leakmech.core.tables import read_table
from leakmech.core.text import shortened
from leakmech.datasets.emotions import EMOTIONS
from leakmech.reports.cells import number, percent, typeset
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
from leakmech.studies.emotion_circuits.charts import charts
from leakmech.studies.emotion_circuits.figures import draw
from leakmech.studies.emotion_circuits.judging import OVERALL
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig
from leakmech.studies.emotion_circuits.tables import (
    accuracy_table,
    bridge_tables,
    differences_table,
    matched_table,
    replies_table,
    sets_table,
)

Summary = Mapping[str, Any]
_TEXT = 160
_READ_EVENTS = 4
_TABLES = {
    "directions": "Directions, layer by layer",
    "heads": "Heads",
    "neurons": "Neurons",
    "unit_sets": "First units and random ones, emotion by emotion",
    "circuits": "Circuits",
    "collapse": "Openings",
    "outside": "Questions outside of the scenarios",
    "elicitation": "Replies to commands on the events of fit",
}


def write_report(run: str | Path, summary: Summary | None = None) -> Path:
    """Draw the figures and write ``report.html`` into the directory of a study; return its path.

    Give the `summary` if ``summary.json`` is not written yet.
    """
    run = Path(run)
    known: Summary = read_json(run / "summary.json") if summary is None else summary
    draw(run, known)
    return write_page(run, f"With which circuits does it express emotions: {known['model']}", sections(run, known))


def sections(run: Path, summary: Summary) -> list[Section]:
    """The page, from what was found to everything."""
    return [
        Headline(headline(summary), below(summary)),
        *quick_caution(summary, "a few scenarios and draws"),
        Facts.of(summary),
        *charts(run),
        Shown(accuracy_table(summary), heading="Is the emotion expressed?", is_open=True),
        Shown(replies_table(summary), heading="What are the replies like?"),
        Shown(differences_table(summary), heading="Differences"),
        Shown(matched_table(summary), heading="At equal fluency"),
        *_texts(run, summary["judges"][0]),
        Shown(sets_table(summary), heading="Do the first units write it?"),
        *_bridge(summary),
        *figures_beside(run),
        *stored_tables(run, _TABLES),
        *how_it_was_made(run, summary, EmotionCircuitsConfig),
    ]  # fmt: skip


def headline(summary: Summary) -> str:
    """What the comparison shows, in sentences."""
    accuracy = {name: own[OVERALL]["rate"] for name, own in summary["accuracy"].items()}
    above = [e for e in EMOTIONS if _low(summary, "random circuits", e) > 0 and _low(summary, "none", e) > 0]
    parts = [
        f"Told in {summary['form']} form, the model expresses the commanded emotion in {number(accuracy['prompting'])} "
        f"of its replies (chance .14; without a command {number(accuracy['none'])}).",
        f"Modulating its circuits reaches {number(accuracy['modulation'])}, steering {number(accuracy['steering'])}, "
        f"random circuits {number(accuracy['random_circuit'])}, another emotion's circuit {number(accuracy['other'])}.",
    ]
    parts.append(
        f"Modulation is above none and above random circuits for {', '.join(above)}."
        if above
        else "For no emotion is modulation shown to be above none and above random circuits."
    )
    quality = summary["fluency"]["modulation"]
    parts.append(
        f"{percent(quality['modal_share'])} of the modulated replies to an emotion open with the same three words "
        f"(prompted: {percent(summary['fluency']['prompting']['modal_share'])})."
    )
    return typeset(" ".join(parts))


def _low(summary: Summary, against: str, emotion: str) -> float:
    for row in summary["differences"]:
        if (row["method"], row["against"], row["emotion"]) == ("modulation", against, emotion):
            return row["low"] if row["low"] is not None else float("-inf")
    return float("-inf")


def below(summary: Summary) -> str:
    """What limits it."""
    found = summary["elicitation"]
    lacking = found["not_expressed"]
    only = summary["circuits"]["first_token_only"]
    layer = summary["directions"]["layer"]
    parts = [
        f"{', '.join(lacking).capitalize()}: no reply to the command is judged so, and what is found for it is about "
        "the word."
        if lacking
        else "",
        f"{percent(only)} of the circuits' units move the first token of a reply only." if only is not None else "",
        f"In layer {layer} directions hold for other words for the emotions in "
        f"{number(summary['directions']['recipe']['cross_wording'])} of the cases (chance .17).",
    ]
    return typeset(" ".join(part for part in parts if part))


def _bridge(summary: Summary) -> list[Section]:
    tables = bridge_tables(summary)
    if not tables:
        return [Paragraph(f"Not measured: {summary['bridge']['skipped']}.", heading="Do they carry leaked affect?")]
    return [Shown(table, heading="" if index else "Do they carry leaked affect?") for index, table in enumerate(tables)]


def _texts(run: Path, judge: str) -> list[Section]:
    """Replies to the first events, side by side: what the numbers are about."""
    frames = {name: _file(run, f"replies_test_{name}") for name in ("none", "prompting", "steering", "modulation")}
    read = {name: read_table(file) for name, file in frames.items() if file.exists()}
    if not read:
        return []
    rows = []
    for emotion in EMOTIONS:
        events = list(dict.fromkeys(next(iter(read.values()))["event"]))[:_READ_EVENTS]
        for event in events:
            rows.append((f"{emotion}, {event}", *(_said(frame, event, emotion, judge) for frame in read.values())))
    table = Table("As drawn; judged emotion in brackets.", ("meant, event", *read), rows)
    return [Shown(table, heading="Replies", style="texts")]


def _said(frame: Any, event: str, emotion: str, judge: str) -> str:
    own = frame[(frame["event"] == event) & (frame["emotion"] == emotion)]
    if own.empty:
        return ""
    text = own["text"].iloc[0]
    said = shortened(text, _TEXT) if isinstance(text, str) else ""
    return f"{said} [{own[judge].iloc[0]}]"


def _file(run: Path, name: str) -> Path:
    return run / "tables" / f"{name}.csv"
