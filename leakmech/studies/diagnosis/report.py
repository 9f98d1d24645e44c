"""The page about a finished diagnosis: its main numbers beside their baselines, its tables and its figures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.core.store import read_json
from leakmech.core.tables import read_table
from leakmech.reports.cells import cell, estimate, is_number, number, significant, typeset
from leakmech.reports.frame_tables import frame_table
from leakmech.reports.page import Facts, Headline, Section, Shown, how_it_was_made, pictures, write_page
from leakmech.reports.tables import Table
from leakmech.studies.diagnosis.figures import CAPTIONS, draw
from leakmech.studies.diagnosis.settings import DiagnoseConfig
from leakmech.studies.diagnosis.tables import headline_rows, with_test_intervals

Summary = Mapping[str, Any]
_ALPHA = 0.05

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
_TABLES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "verdict": (
        "Ranked components beside random ones of the same layers, under interchange",
        (
            "set", "share", "low", "high", "n", "share_judged", "random_mean", "random_p95", "random_max",
            "random_sets", "p", "n_judged", "target", "split",
        ),
    ),
    "sampled": ("Answers under mean ablation", ()),
    "directions": (
        "Directions and their baselines",
        (
            "name", "kind", "site", "position", "method", "layer", "test_auc", "test_d_z", "test_accuracy",
            "random_auc_p95", "random_d_z_p95", "shuffled_auc_p95", "shuffled_d_z_p95",
        ),
    ),
    "heads": ("Attention heads", ()),
    "neurons": ("Neurons", ()),
    "sublayers": ("Sublayers", ()),
    "knockout": (
        "Knockout",
        ("label", "contrast", "target", "effect", "low", "high", "intact", "knocked_out", "split", "n"),
    ),
}  # fmt: skip
"""Tables of the page, with heading and columns; no columns: all."""


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
    """The page, from the main numbers to everything."""
    numbers, text = main_numbers(summary), headline(summary)
    tables = [name for name in _TABLES if (run / "tables" / f"{name}.csv").exists()]
    return [
        *([Headline(text)] if text else []),
        Facts.of(summary),
        *([Shown(numbers, style="meaning", heading="Main numbers")] if numbers else []),
        *(_table(run, name, summary) for name in tables),
        *pictures(run / "figures", CAPTIONS),
        *how_it_was_made(run, summary, DiagnoseConfig),
    ]


def _table(run: Path, name: str, summary: Summary) -> Shown:
    frame = read_table(run / "tables" / f"{name}.csv")
    if name in ("heads", "neurons"):
        frame = headline_rows(frame, summary["target"])
    heading, columns = _TABLES[name]
    return Shown(frame_table(frame, f"tables/{name}.csv", columns=columns), heading=heading)


# -- numbers ---------------------------------------------------------------------------------------------------------


def headline(summary: Summary) -> str:
    """What was found, in sentences: the verdict first; empty if there is neither one nor a direction nor an area."""
    parts = []
    first = verdict_sentence(summary)
    directions = [(name, values) for name, values in _directions(summary).items() if is_number(values.get("auc"))]
    if directions:
        name, values = directions[0]
        text = f"The direction “{name}” separates positive from negative injections with AUC {number(values['auc'])}"
        parts.append(text + (f" (d_z {significant(values['d_z'])})" if is_number(values.get("d_z")) else ""))
    if is_number(summary.get("cpr")):
        text = f"keeping the components ranked first gives a CPR of {number(summary['cpr'])}"
        random = _baseline(summary, "cpr")
        parts.append(text + (f", random ones {number(random)}" if is_number(random) else ""))
    sentence = "; ".join(parts)
    whole = f"{first} {sentence[0].upper()}{sentence[1:]}." if parts else first
    return typeset(whole.strip())


def verdict_sentence(summary: Summary) -> str:
    """Whether ranked components account for more than random ones of their layers; empty without a verdict."""
    found = summary.get("verdict")
    if not found:
        return ""
    parts = []
    for row in found["rows"]:
        total = found["components"].get(row["universe"])
        name = (
            row["set"] if total is None else f"{row['set'].removesuffix(row['universe'])}of {total} {row['universe']}"
        )
        more = "more" if row["p"] is not None and row["p"] <= _ALPHA else "not more"
        ends = f" [{number(row['low'])}, {number(row['high'])}]"
        parts.append(
            f"the {name} {number(row['share'])}{ends} of it, {more} than random ones (mean "
            f"{number(row['random_mean'])}, at most {number(row['random_max'])}, p {number(row['p'])})"
        )
    row = found["rows"][0]
    return (
        f"Under interchange on {row['n']} test samples ({row['target']} shift {significant(found['shift'])}) "
        f"{'; '.join(parts)}; {row['random_sets']} random sets with as many components per layer, on {row['n_judged']} "
        "of the samples."
    )


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
