"""The page about a comparison of mitigations: what each takes out, damages, and makes the model say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leakmech.core.store import read_json, slug
from leakmech.datasets.samples import POLARITIES
from leakmech.reports.cells import DASH, is_number
from leakmech.reports.examples import evenly_spaced, sample_texts
from leakmech.reports.figures.canvas import Width
from leakmech.reports.figures.frames import Frame
from leakmech.reports.figures.trade_off import trade_off
from leakmech.reports.page import (
    Facts,
    Headline,
    Paragraph,
    Section,
    Shown,
    figures_beside,
    how_it_was_made,
    write_page,
)
from leakmech.reports.plane import Mark, Plane
from leakmech.reports.tables import Table
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.mitigation.gate_table import focus_table, gate_table, map_table, residual_table
from leakmech.studies.mitigation.headline import claimed, sentences
from leakmech.studies.mitigation.mitigation import HELD_AGAINST
from leakmech.studies.mitigation.older import read_rows
from leakmech.studies.mitigation.settings import MitigateConfig
from leakmech.studies.mitigation.tables import (
    NOT_SHOWN,
    arrangements_table,
    by_estimator_table,
    charged_table,
    in_order,
    mitigations_table,
    quick_opening,
    read_by_estimator,
    removal_column,
    removal_verdict,
    side_effects_table,
    strengths_table,
    verdicts_table,
)

N_EXAMPLES = 4
_CAPTION = (
    "Right: less leakage. Up: more of the affect that belongs in the answer. Lines are 95 % intervals, of random edits "
    "the middle 90 % of the draws; hollow points are not shown to take anything out. What "
    "lies outside of the drawing is at its edge."
)
_NOTHING = "No row has a selectivity: what it is made of could not be measured, so this supports no comparison."
_TOLD = ("nothing", "boundary", "layout", "condition", "random")
"""What a mitigation is told, in the order of the colours."""
_EDGES = (-0.5, 1.5)  # at ticks, so that what is cut off reaches the edge


def write_report(run: str | Path) -> Path:
    """Draw the figure and write ``report.html`` into the directory of a comparison of mitigations; return its path."""
    run = Path(run)
    summary = read_json(run / "summary.json")
    rows = read_rows(run)
    if has_trade_off(rows):
        draw_mitigations(rows, run / "figures" / "pareto")
    about = f"{summary['model']} on {summary['dataset']}"
    return write_page(run, f"What takes leakage out, and what that costs: {about}", sections(run, summary))


def sections(run: Path, summary: Mapping[str, Any]) -> list[Section]:
    """The page, from what the most selective mitigation does to everything."""
    drawn: Frame = read_rows(run)
    tested, tuned = (drawn[drawn["split"] == split] for split in ("test", "tune"))
    opening = quick_opening(summary)
    main = mitigations_table(tested, title=f"{opening}On test samples; nothing was fitted or chosen on them")
    views, charged = read_by_estimator(run), charged_table(tested, summary)
    claims = charged_table(drawn[drawn["split"] == "claimed"], summary) if "claimed" in set(drawn["split"]) else None
    elsewhere = arrangements_table(tested)
    said, answers = sentences(tested) or [_NOTHING], answer_runs(run, tested, summary)
    return [
        Headline(opening + said[0], " ".join(said[1:])),
        *([Paragraph(measured_once(frozen))] if (frozen := summary.get("frozen")) else []),
        Facts.of(summary),
        *removal_sections(tested),
        *([Shown(answers_table(answers), style="texts", heading="Before and after", is_open=True)] if answers else []),
        Shown(main, heading="Main numbers"),
        *([] if charged is None else [Shown(charged, heading="Selectivity and its parts")]),
        *([] if elsewhere is None else [Shown(elsewhere, heading="With the injection elsewhere")]),
        *([] if claims is None else [Shown(claims, heading="What is claimed, over several seeds")]),
        *([] if views is None else [Shown(by_estimator_table(views), heading="By every expression estimator")]),
        Shown(side_effects_table(tested), style="texts", heading="What each one damages"),
        *([Shown(strengths_table(tuned, tested), heading="Strengths that were tried")] if len(tuned) else []),
        *([Shown(gate_table(gate), heading="What a gate can know")] if (gate := summary.get("relation_gate")) else []),
        *([Shown(map_table(maps), heading="What maps leave alone")] if (maps := summary.get("null_space")) else []),
        *(
            [Shown(residual_table(found), heading="What lies along the leak direction")]
            if (found := summary.get("residual_direction"))
            else []
        ),
        *([Shown(focus_table(found), heading="What heads attend to")] if (found := summary.get("focus")) else []),
        *figures_beside(run),
        *how_it_was_made(run, summary, MitigateConfig),
    ]


def removal_sections(tested: Frame) -> list[Section]:
    """What each takes out against what it keeps, drawn, and as a table with verdicts."""
    table = Shown(verdicts_table(tested), is_open=True)
    column = removal_column(tested)
    marks = [
        _mark(row, column)
        for row in in_order(tested)
        if row["kind"] != "base" and is_number(row.get(column)) and is_number(row.get("retention"))
    ]
    heading = "What each takes out and keeps"
    if not marks:
        return [replace(table, heading=heading)]
    used = {mark.series for mark in marks}
    legend = [
        (f"told {name}" if name in _TOLD[:4] else name, place) for place, name in enumerate(_TOLD) if place in used
    ]
    what = "removal" if column == "removal" else "leakage reduction"
    plane = Plane(
        f"{what} (1: none is left)",
        "retention of relevant affect (1: as before)",
        _CAPTION,
        marks=marks,
        legend=legend,
        x_nulls=(0.0, 1.0),
        y_nulls=(0.0, 1.0),
        heading=heading,
    )
    return [plane, table]


def _mark(row: Mapping[str, Any], column: str) -> Mark:
    """A mitigation as a point; what is beyond the drawing lies at its edge."""
    ends = {}
    for name in (column, "retention"):
        low, high = row.get(f"{name}_low"), row.get(f"{name}_high")
        ends[name] = (_inside(low), _inside(high)) if is_number(low) and is_number(high) else None
    verdict = removal_verdict(row, column)
    told = "random" if row["kind"] == "baseline" else str(row["told"])
    return Mark(
        _inside(row[column]),
        _inside(row["retention"]),
        str(row["name"]),
        "; ".join([f"told {told}" if told != "random" else told, *([verdict] if verdict != DASH else [])]),
        series=_TOLD.index(told) if told in _TOLD else 0,
        x_interval=ends[column],
        y_interval=ends["retention"],
        is_hollow=verdict in (DASH, NOT_SHOWN),
    )


def _inside(value: float) -> float:
    return min(max(float(value), _EDGES[0]), _EDGES[1])


def measured_once(frozen: Mapping[str, Any]) -> str:
    """What a page says of frozen sets."""
    sets = ", ".join(frozen["sets"])
    return f"Measured on {sets}, from {frozen['date'][:10]} on: after the choice, once, and for no other choice here."


def has_trade_off(frame: pd.DataFrame) -> bool:
    """Whether any mitigation has both leakage to take out and relevant affect to keep."""
    return not _both(frame).empty


def _both(frame: pd.DataFrame) -> Frame:
    return frame.loc[frame["leakage_reduction"].notna() & frame["retention"].notna() & (frame["kind"] != "base")]


def draw_mitigations(
    frame: pd.DataFrame, path: str | Path | None = None, *, title: str | None = None, width: Width | None = None
) -> Figure:
    """Draw retention against leakage reduction.

    Whatever is told the boundary or the condition is drawn as an oracle, and no other is held against it.
    """
    kept = _both(frame)
    return trade_off(
        kept.assign(kind=kept["kind"].where(~kept["told"].isin(["boundary", "condition"]), "oracle")),
        path,
        x=("leakage_reduction", "leakage reduction (1: none is left)"),
        y=("retention", "retention of relevant affect (1: as before)"),
        kinds=("intervention", "adapter", "instruction", "rewrite", "decoding", "oracle", "baseline"),
        bounds=("oracle", "baseline"),
        goal=0.8,
        beside=("fluency",),
        title="What takes out the leakage, and what it leaves of the feeling" if title is None else title,
        subtitle="marks: test samples, 95 % intervals; hollow: knows the injection, or random; grey lines: strengths "
        "on tune samples; shaded: both at least 0.8",
        width=width,
    )


# -- answers ---------------------------------------------------------------------------------------------------------


def answer_runs(run: Path, tested: Frame, summary: Mapping[str, Any]) -> dict[str, BenchResult]:
    """The benchmarks on the leakage set of the base model, of the most selective mitigation, and of the best one told
    more, by name.

    One that is told nothing goes before those that are told more.
    """
    judged = tested[~tested["kind"].isin(HELD_AGAINST)]
    own = claimed(judged)
    best = [row["name"] for rows in (own, judged.drop(own.index)) for row in in_order(rows)[:1]]
    found = {}
    for name in ("base", *best):
        cells = (run / "cells" / "test").glob(f"{slug(name)}-{'[0-9a-f]' * 8}/{slug(Path(summary['dataset']).stem)}")
        # A mitigation that was changed leaves the cell of its older self beside its own.
        finished = [cell for cell in cells if (cell / "summary.json").exists()]
        if finished:
            found[name] = BenchResult.load(max(finished, key=lambda cell: (cell / "summary.json").stat().st_mtime_ns))
    return found


def answers_table(runs: Mapping[str, BenchResult]) -> Table:
    """The first generation of some prompts under each mitigation, evenly spaced in the data set's order."""
    texts = sample_texts(next(iter(runs.values())))
    ids = list(texts)
    said: dict[str, dict[tuple[str, str], str]] = {}
    for name, run in runs.items():
        scores: Frame = run.scores
        first = scores[scores["generation"] == 0]
        keys = zip(first["sample"], first["condition"], strict=True)
        said[name] = dict(zip(keys, map(str, first["first_sentence"]), strict=True))
    rows = []
    for index in evenly_spaced(len(ids), N_EXAMPLES):
        sample = texts[ids[index]]
        for condition in POLARITIES:
            prompt = f"{sample.injections[condition]} {sample.stem} …"
            rows.append((prompt, *(answers[sample.id, condition] or DASH for answers in said.values())))
    shown = min(N_EXAMPLES, len(ids))
    title = f"{shown} of {len(ids)} samples, evenly spaced, first generation, scored sentence; nobody chose them."
    names = [f"before: {name}" if name == "base" else f"after: {name}" for name in runs]
    return Table(title, ("prompt", *names), rows)
