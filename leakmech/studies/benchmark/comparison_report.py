"""What a comparison of runs says: its table, its forest plot and its page, from what ``comparison.json`` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leakmech.core.store import read_json
from leakmech.reports.cells import DASH, p_value, signed, typeset, with_interval
from leakmech.reports.chart import Forest, ForestRow
from leakmech.reports.figures.canvas import Width
from leakmech.reports.figures.forest import forest_plot
from leakmech.reports.page import Details, Headline, Paragraph, Section, Shown, write_page
from leakmech.reports.statistic_names import LABELS, shown_as
from leakmech.reports.tables import Table

Content = Mapping[str, Any]
_FIGURE = "The same as a figure for papers: forest.pdf and forest.png."
_VERDICTS = {
    "different": "differs from",
    "different within the margin": "differs, within the margin, from",
    "equivalent": "is equivalent to",
    "undecided": "is not shown to differ from",
}
_difference = partial(signed, decimals=3)


def comparison_table(comparison: Content) -> Table:
    """Runs and how they differ."""
    margin, alpha = comparison["margin"], comparison["alpha"]
    about = _about(comparison)
    header = ["run", f"{LABELS[about]} [95 % CI]", "difference [95 % CI]", "p", "p Holm", "p equiv.", "verdict"]
    header += [f"{LABELS[name]} difference" for name in _others(about)]
    notes = [
        f"{LABELS[about]}: {about}, to which difference, p values and verdict belong. p: runs exchanged within "
        f"samples; Holm: adjusted over the comparisons of this table; verdict at alpha {alpha:g}."
    ]
    if margin is not None:
        notes.append(f"p equiv.: two one-sided tests that {about} differs by less than {margin:g}, adjusted likewise.")
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
    about = _about(comparison)
    values = {e["run"]: e for e in comparison["estimates"] if e["statistic"] == about}
    texts = {run: with_interval(e["value"], e["low"], e["high"], shown_as(about)) for run, e in values.items()}
    pairs: dict[tuple[str, str], list[Content]] = {}
    for difference in comparison["differences"]:
        pairs.setdefault((difference["run"], difference["baseline"]), []).append(difference)
    if len({baseline for _, baseline in pairs}) == 1:
        compared = {run: _difference_cells(d, about) for (run, _), d in pairs.items()}
        return [[run, texts[run], *compared.get(run, ["baseline", *[DASH] * 6])] for run in comparison["runs"]]
    alone = [[run, texts[run], *[DASH] * 7] for run in comparison["runs"]]
    return alone + [[f"{run} - {base}", DASH, *_difference_cells(d, about)] for (run, base), d in pairs.items()]


def _about(comparison: Content) -> str:
    """The statistic that a comparison is about; those of older versions are about auc_el."""
    return comparison.get("statistic", "auc_el")


def _others(about: str) -> list[str]:
    """The two other statistics whose differences stand in the table; the CSV has all."""
    first = "mu_el" if about in ("auc_el", "valence_shift") else "auc_el"
    return [first, "auc_el" if about == "valence_shift" else "valence_shift"]


def _difference_cells(differences: Sequence[Content], about: str) -> list[str]:
    """Difference in the statistic that it is about, its p values and verdict, and the differences in two others."""
    by_name = {d["statistic"]: d for d in differences}
    first, *others = (
        with_interval(d["difference"], d["low"], d["high"], partial(signed, decimals=decimals))
        for d, decimals in zip((by_name[name] for name in (about, *_others(about))), (3, 2, 2), strict=True)
    )
    tested = by_name[about]
    return [first, *(p_value(tested[name]) for name in ("p", "p_holm", "p_equivalence")), tested["verdict"], *others]


def by_estimator_table(comparison: Content) -> Table | None:
    """The differences as each estimator that the runs share sees them; None if there is only one."""
    found = comparison.get("by_estimator")
    if not found:
        return None
    first, about = next(iter(found)), _about(comparison)
    pairs = list(dict.fromkeys((d["run"], d["baseline"]) for d in found[first]))
    rows = []
    for run, baseline in pairs:
        for name, differences in found.items():
            own = [d for d in differences if (d["run"], d["baseline"]) == (run, baseline)]
            cells = _difference_cells(own, about)
            rows.append([f"{run} - {baseline}" if name == first else "", name, *cells[:3], *cells[4:]])
    header = ["runs", "estimator", f"{LABELS[about]} difference [95 % CI]", "p", "p Holm", "verdict"]
    header += [f"{LABELS[name]} difference" for name in _others(about)]
    notes = ["The same generations under each estimator that all runs have; tests are adjusted within each estimator."]
    return Table("The same differences under each expression estimator", header, rows, notes)


def draw_comparison(
    comparison: Content, path: str | Path | None = None, *, title: str | None = None, width: Width | None = None
) -> Figure:
    """The forest plot of the differences in the statistic that the comparison is about."""
    about = _about(comparison)
    rows = [d for d in comparison["differences"] if d["statistic"] == about]
    baselines = {d["baseline"] for d in rows}
    alone = len(baselines) == 1
    against = f"run - {baselines.pop()}" if alone else "first - second"
    return forest_plot(
        [d | {"label": d["run"] if alone else f"{d['run']} - {d['baseline']}"} for d in rows],
        path,
        quantity=f"difference in {about} ({against}), 95 % interval",
        margin=comparison["margin"],
        title=title or "",
        width=width,
    )


def write_report(out: str | Path) -> Path:
    """Draw the forest plot and write ``report.html`` beside ``comparison.json``; return its path."""
    out = Path(out)
    comparison = read_json(out / "comparison.json")
    draw_comparison(comparison, out / "forest.png")
    runs = ", ".join(comparison["runs"])
    return write_page(out, f"Expression leakage compared: {runs}", sections(comparison))


def sections(comparison: Content) -> list[Section]:
    """What differs, drawn and as tables, and everything."""
    views = by_estimator_table(comparison)
    return [
        headline(comparison),
        *forest(comparison),
        Shown(comparison_table(comparison), is_open=True),
        *([] if views is None else [Shown(views, heading="By every expression estimator")]),
        Paragraph(_FIGURE, "soft small"),
        Details.of(comparison, heading="Everything in comparison.json"),
    ]


def headline(comparison: Content) -> Headline:
    """Which runs differ from the baseline, the first of them with its interval."""
    about, compared = _about(comparison), _compared(comparison)
    if not compared:
        return Headline("Nothing was compared.")
    told = f"{LABELS[about]}, {comparison['n_samples']} samples in common, p adjusted over {len(compared)} (Holm)"
    shown = [d for d in compared if str(d["verdict"]).startswith("different")]
    if len(compared) == 1:
        (only,) = compared
        difference = with_interval(only["difference"], only["low"], only["high"], _difference)
        verdict = _VERDICTS.get(only["verdict"], only["verdict"])
        names = f"{only['run']} {verdict} {only['baseline']}"
        return Headline(typeset(f"{names}: {difference}."), f"Difference in {told}.")
    names = ", ".join(f"{d['run']} from {d['baseline']}" for d in shown)
    text = f"{len(shown)} of {len(compared)} differences are shown" + (f": {names}." if shown else ".")
    if shown:
        most = max(shown, key=lambda d: abs(d["difference"]))
        told += f"; the largest of these {with_interval(most['difference'], most['low'], most['high'], _difference)}"
    return Headline(text, typeset(f"Differences in {told}."))


def forest(comparison: Content) -> list[Section]:
    """The differences with their intervals."""
    rows = [
        ForestRow(
            f"{d['run']} - {d['baseline']}",
            with_interval(d["difference"], d["low"], d["high"], _difference),
            d["difference"],
            None if d["low"] is None else (d["low"], d["high"]),
            is_shown=str(d["verdict"]).startswith("different"),
        )
        for d in _compared(comparison)
        if d["difference"] is not None
    ]
    if not rows:
        return []
    margin = comparison["margin"]
    caption = f"Differences in {_about(comparison)} with their 95 % intervals; hollow where none is shown."
    caption += "" if margin is None else f" Shaded: differences that are none (±{margin:g})."
    return [Forest(rows, caption, margin=margin, heading="Differences")]


def _compared(comparison: Content) -> list[Content]:
    """The differences in the statistic that the comparison is about."""
    return [d for d in comparison["differences"] if d["statistic"] == _about(comparison)]
