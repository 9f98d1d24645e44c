"""What a comparison of runs says: its table, its forest plot and its page, from what ``comparison.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from leakmech.core.store import read_json
from leakmech.reports.cells import DASH, p_value, signed, with_interval
from leakmech.reports.figures.forest import forest_plot
from leakmech.reports.page import Details, Picture, Section, Shown, write_page
from leakmech.reports.tables import Table

Content = Mapping[str, Any]


def comparison_table(comparison: Content) -> Table:
    """Runs and how they differ."""
    margin, alpha = comparison["margin"], comparison["alpha"]
    header = ["run", "all pairs [95 % CI]", "difference [95 % CI]", "p", "p Holm", "p equiv.", "verdict"]
    header += ["mu_EL difference", "valence shift difference"]
    notes = [
        "all pairs: auc_el, to which difference, p values and verdict belong. p: runs exchanged within samples; "
        f"Holm: adjusted over the comparisons of this table; verdict at alpha {alpha:g}."
    ]
    if margin is not None:
        notes.append(f"p equiv.: two one-sided tests that auc_el differs by less than {margin:g}, adjusted likewise.")
    rows, kept = _rows(comparison), [i for i, n in enumerate(header) if margin is not None or i != 5]
    title = f"{len(comparison['runs'])} runs over the same {comparison['n_samples']} samples, paired by sample"
    return Table(
        title=f"{title} ({comparison['cleaning']})",
        header=[header[i] for i in kept],
        rows=[[row[i] for i in kept] for row in rows],
        notes=[*notes, *comparison["notes"]],
    )


def _rows(comparison: Content) -> list[list[str]]:
    """With one baseline a row for each run; with more also one for each pair."""
    values = {e["run"]: e for e in comparison["estimates"] if e["statistic"] == "auc_el"}
    texts = {run: with_interval(e["value"], e["low"], e["high"]) for run, e in values.items()}
    pairs: dict[tuple[str, str], list[Content]] = {}
    for difference in comparison["differences"]:
        pairs.setdefault((difference["run"], difference["baseline"]), []).append(difference)
    if len({baseline for _, baseline in pairs}) == 1:
        compared = {run: _difference_cells(d) for (run, _), d in pairs.items()}
        return [[run, texts[run], *compared.get(run, ["baseline", *[DASH] * 6])] for run in comparison["runs"]]
    alone = [[run, texts[run], *[DASH] * 7] for run in comparison["runs"]]
    return alone + [[f"{run} - {base}", DASH, *_difference_cells(d)] for (run, base), d in pairs.items()]


def _difference_cells(differences: Sequence[Content]) -> list[str]:
    """Difference in auc_el, its p values and verdict, and the differences in mu_EL and valence shift."""
    first, *others = (
        with_interval(d["difference"], d["low"], d["high"], partial(signed, decimals=decimals))
        for d, decimals in zip(differences, (3, 2, 2), strict=True)
    )
    auc_el = differences[0]
    return [first, *(p_value(auc_el[name]) for name in ("p", "p_holm", "p_equivalence")), auc_el["verdict"], *others]


def draw_comparison(comparison: Content, path: Path) -> list[Path]:
    """The forest plot of the differences in auc_el."""
    rows = [d for d in comparison["differences"] if d["statistic"] == "auc_el"]
    baselines = {d["baseline"] for d in rows}
    alone = len(baselines) == 1
    against = f"run - {baselines.pop()}" if alone else "first - second"
    return forest_plot(
        [d | {"label": d["run"] if alone else f"{d['run']} - {d['baseline']}"} for d in rows],
        path,
        quantity=f"difference in auc_el ({against}), 95 % interval",
        margin=comparison["margin"],
    )


def write_report(out: str | Path) -> Path:
    """Draw the forest plot and write ``report.html`` beside ``comparison.json``; return its path."""
    out = Path(out)
    comparison = read_json(out / "comparison.json")
    draw_comparison(comparison, out / "forest.png")
    runs = ", ".join(comparison["runs"])
    return write_page(out, f"Expression leakage compared: {runs}", sections(out, comparison))


def sections(out: Path, comparison: Content) -> list[Section]:
    """The table, the forest plot, and everything."""
    return [
        Shown(comparison_table(comparison), heading="Differences"),
        Picture.of(out / "forest.png", "Differences in auc_el with their 95 % intervals.", heading="Forest plot"),
        Details.of(comparison, heading="Everything in comparison.json"),
    ]
