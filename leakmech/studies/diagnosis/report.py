"""The page about a finished diagnosis: what was found, then its charts, each with the tables it is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakmech.core.store import read_json
from leakmech.reports.cells import cell, estimate, is_number, number, significant, typeset
from leakmech.reports.figures.frames import words
from leakmech.reports.frame_tables import frame_table
from leakmech.reports.page import (
    Facts,
    Headline,
    Section,
    Shown,
    figures_beside,
    headed,
    how_it_was_made,
    write_page,
)
from leakmech.reports.quick_runs import quick_caution
from leakmech.reports.tables import Table
from leakmech.studies.diagnosis.charts import charts, is_shown, ranked
from leakmech.studies.diagnosis.figures import draw
from leakmech.studies.diagnosis.settings import DiagnoseConfig
from leakmech.studies.diagnosis.tables import headline_rows, read_components, with_test_intervals

Summary = Mapping[str, Any]
_NAMED = 8  # heads that a sentence names

_NUMBERS = {
    "attribution_patching_spearman": (
        "Attribution patching against activation patching",
        "Spearman correlation over heads: 1 means that the fast method ranks them as the exact one does",
    ),
    "cpr": ("CPR", "area under the curve of faithfulness when only the first k components are kept; higher is better"),
    "cmd": ("CMD", "area between that curve and the whole model's; lower is better"),
}
_DIRECTION_NUMBERS = {
    "auc": ("AUC", "share of pairs of prompts in which the positive one projects higher; 0.5 is chance"),
    "d_z": ("d_z", "difference between positive and negative within samples, in its standard deviations"),
    "accuracy": ("accuracy", "share of prompts on their side of the threshold; 0.5 is chance"),
}
_VERDICT_COLUMNS = (
    "set",
    "share",
    "low",
    "high",
    "n",
    "share_judged",
    "random_mean",
    "random_p95",
    "random_max",
    "random_sets",
    "p",
    "n_judged",
    "target",
    "split",
)
_DIRECTION_COLUMNS = (
    "name",
    "kind",
    "site",
    "position",
    "method",
    "layer",
    "test_auc",
    "test_d_z",
    "test_accuracy",
    "random_auc_p95",
    "random_d_z_p95",
    "shuffled_auc_p95",
    "shuffled_d_z_p95",
)
_TITLES = {
    "verdict": "Ranked components beside random ones of the same layers, under interchange",
    "sampled": "Answers under mean ablation",
    "directions": "Directions and their baselines",
    "knockout": "Attention to the injection knocked out",
    "patching_stream": "Stream exchanged, by region and layer",
    "patching_heads": "Heads by both methods",
}
_KNOCKOUT_COLUMNS = ("name", "contrast", "target", "effect", "low", "high", "intact", "knocked_out", "split", "n")
_CHAPTERS: Mapping[str, tuple[str, Mapping[str, tuple[str, ...]]]] = {
    "verdict": ("Do they carry more than random ones?", {"verdict": _VERDICT_COLUMNS, "sampled": ()}),
    "heads": ("Attention heads", {"heads": ()}),
    "neurons": ("Neurons", {"neurons": (), "sublayers": ()}),
    "directions": ("Directions, layer by layer", {"directions": _DIRECTION_COLUMNS}),
    "token_projection": ("Along the tokens of a prompt", {}),
    "patching_stream": ("Where it passes", {"patching_stream": ()}),
    "attention": ("What heads look at", {"knockout": _KNOCKOUT_COLUMNS}),
    "transport": ("Who brings it, who writes it out", {"transport": ()}),
    "patching_heads": ("Is the ranking right?", {"patching_heads": ()}),
    "faithfulness": ("Circuits of the first components", {}),
    "cosines": ("Cosines between directions", {}),
}
"""Chapters of the page by the table that their charts are made from: heading, tables, and their columns (none: all)."""


def write_report(run: str | Path, summary: Summary | None = None) -> Path:
    """Draw the figures and write ``report.html`` into the directory of a diagnosis; return its path.

    Give the `summary` if ``summary.json`` is not written yet.
    """
    run = Path(run)
    known: Summary = read_json(run / "summary.json") if summary is None else summary
    draw(run, known)
    about = f"{known.get('model', 'unknown model')} on {known.get('dataset', 'unknown data')}"
    return write_page(run, f"Which layers, heads and neurons carry leaked affect: {about}", sections(run, known))


def sections(run: Path, summary: Summary) -> list[Section]:
    """The page, from what was found to everything."""
    numbers, found = main_numbers(summary), findings(summary, first_heads(run, summary))
    drawn = charts(run, summary)
    chapters = [section for name in _CHAPTERS for section in _chapter(run, name, summary, drawn.get(name, []))]
    return [
        *([Headline(found[0], " ".join(found[1:]))] if found else []),
        *quick_caution(summary, "a few samples, sets and methods"),
        Facts.of(summary),
        *chapters,
        *([Shown(numbers, style="meaning", heading="Main numbers", is_open=not chapters)] if numbers else []),
        *figures_beside(run),
        *how_it_was_made(run, summary, DiagnoseConfig),
    ]


def _chapter(run: Path, name: str, summary: Summary, drawn: Sequence[Section]) -> list[Section]:
    """Charts and tables under one heading; nothing if the run has none of them."""
    heading, tables = _CHAPTERS[name]
    files = {table: run / "tables" / f"{table}.csv" for table in tables}
    shown = [_table(file, table, summary, tables[table]) for table, file in files.items() if file.exists()]
    return headed(heading, [*drawn, *shown])


def _table(file: Path, name: str, summary: Summary, columns: tuple[str, ...]) -> Shown:
    frame = read_components(file)
    if name in ("heads", "neurons"):
        frame = headline_rows(frame, summary["target"])
    table = frame_table(frame, f"tables/{name}.csv", columns=columns)
    return Shown(replace(table, title=f"{_TITLES.get(name, words(name).capitalize())}. {table.title}"))


def first_heads(run: Path, summary: Summary) -> list[str]:
    """Names of the first heads of the ranking; none where the run has no table of heads."""
    file = run / "tables" / "heads.csv"
    if not file.exists() or "target" not in summary:
        return []
    return ranked(read_components(file), summary, "head")["name"].tolist()


# -- numbers ---------------------------------------------------------------------------------------------------------


def headline(summary: Summary, heads: Sequence[str] = ()) -> str:
    """What was found, in sentences: the verdict first; empty if there is neither one nor a direction nor an area.

    `heads` are the names of the ranking's first ones, which the verdict is then said of.
    """
    return " ".join(findings(summary, heads))


def findings(summary: Summary, heads: Sequence[str] = ()) -> list[str]:
    """The sentences of the headline, the main one first."""
    parts, found = [], verdict_sentences(summary, heads)
    directions = [(name, values) for name, values in _directions(summary).items() if is_number(values.get("auc"))]
    if directions:
        name, values = directions[0]
        text = f"The direction “{name}” separates positive from negative injections with AUC {estimate(values, 'auc')}"
        parts.append(text + (f" (d_z {significant(values['d_z'])})" if is_number(values.get("d_z")) else ""))
    if is_number(summary.get("cpr")):
        text = f"keeping the components ranked first gives a CPR of {number(summary['cpr'])}"
        random = _baseline(summary, "cpr")
        parts.append(text + (f", random ones {number(random)}" if is_number(random) else ""))
    sentence = "; ".join(parts)
    return [typeset(text) for text in (*found, sentence and f"{sentence[0].upper()}{sentence[1:]}.") if text]


def verdict_sentences(summary: Summary, heads: Sequence[str] = ()) -> list[str]:
    """Whether ranked components account for more than random ones of their layers; none without a verdict."""
    verdict = summary.get("verdict")
    if not verdict:
        return []
    first, *others = verdict["rows"]
    said = [_judged(first, verdict, heads, "of the affect shift")]
    if others:
        said.append(" ".join(_judged(row, verdict, heads, "of it") for row in others))
    said.append(
        f"Measured by interchange on {first['n']} test samples (shift of {first['target']} "
        f"{significant(verdict['shift'])}); {first['random_sets']} random sets with as many components per layer, on "
        f"{first['n_judged']} of the samples."
    )
    return said


def _judged(row: Summary, verdict: Summary, heads: Sequence[str], of: str) -> str:
    """One row of the verdict: what the set is, its share, and what random sets have."""
    total = verdict["components"].get(row["universe"])
    named = list(heads)[: row["size"]] if row["universe"] == "heads" and row["size"] <= _NAMED else []
    whole = row["set"] if total is None else f"{row['set'].removesuffix(row['universe'])}of {total:,} {row['universe']}"
    name = f"The {whole}" + (f" ({', '.join(named)})" if named else "")
    if row["size"] == 1:
        name = name.replace("first 1 of", "first of")
    share = estimate({**row, "share_ci": (row["low"], row["high"])}, "share")
    there = (
        "" if row["n_judged"] == row["n"] else f"on {row['n_judged']} samples {number(row['share_judged'])} against "
    )
    against = f"{there}mean {number(row['random_mean'])}, at most {number(row['random_max'])}, p {number(row['p'])}"
    verb = "account for" if row["universe"] != "direction" else "accounts for"
    if is_shown(row):
        return f"{name} {verb} {share} {of}, more than random ones of the same layers ({against})."
    return f"{name} {verb} {share} {of}: not shown to be more than random ones of the same layers ({against})."


def main_numbers(summary: Summary) -> Table | None:
    """Agreement, areas and directions, each beside its baseline; None if the summary has none of them."""
    asked: list[tuple[str, Summary, Mapping[str, tuple[str, str]]]] = [("", summary, _NUMBERS)]
    asked += [(f"{name}: ", values, _DIRECTION_NUMBERS) for name, values in _directions(summary).items()]
    rows = [
        (f"{prefix}{label}", estimate(values, name, cell), cell(_baseline(values, name)), meaning)
        for prefix, values, numbers in asked
        for name, (label, meaning) in numbers.items()
        if name in values
    ]
    header = ("number", "value [95 % CI]", "random baseline", "what it says")
    return Table("On test, beside what random directions or components reach", header, rows) if rows else None


def _directions(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """Directions by name, from a mapping or from a list of records with a ``name``."""
    found = summary.get("directions") or {}
    if not isinstance(found, Mapping):
        found = {str(row.get("name", index)): row for index, row in enumerate(found)}
    return {str(name): with_test_intervals(own) for name, own in found.items() if isinstance(own, Mapping)}


def _baseline(values: Mapping[str, Any], name: str) -> Any:
    for key in (f"{name}_random", f"random_{name}", f"random_{name}_p95"):
        if values.get(key) is not None:
            return values[key]
    return None
