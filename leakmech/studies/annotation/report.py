"""The page about judgements of people: agreement, and the estimator against them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from leakmech.core.store import read_json
from leakmech.reports.cells import DASH, estimate, number, percent
from leakmech.reports.chart import Forest, ForestRow
from leakmech.reports.figures.frames import words
from leakmech.reports.page import Details, Headline, Section, Shown, write_page
from leakmech.reports.tables import Table


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` beside ``agreement.json``, and return its path."""
    report = read_json(Path(folder) / "agreement.json")
    run = report["run"]
    return write_page(Path(folder), f"Judgements of people: {run['model']} on {run['dataset']}", sections(report))


def sections(report: Mapping[str, Any]) -> list[Section]:
    """What people saw, drawn and as tables, and everything."""
    headings = ("Annotators", "Leakage", *(("Agreement",) if report["agreement"]["votes"] else ()), "Estimator")
    shown = zip(annotation_tables(report), headings, strict=True)
    details = Details.of(report, heading="Everything in agreement.json")
    tables = [Shown(table, heading=heading) for table, heading in shown]
    return [headline(report), people_chart(report), *tables, details]


def headline(report: Mapping[str, Any]) -> Headline:
    """What the majority of people saw, both ways, and what the estimator says of the same pairs."""
    overall = report["mu_el"]["overall"]
    text = (
        f"In {estimate(overall, 'people', _share)} of pairs most people saw the answer move with the injection, in "
        f"{estimate(overall, 'people_away', _share)} against it."
    )
    name = report["run"]["estimator"]
    return Headline(
        text,
        f"{overall['n']} pairs with a majority; without leakage the two shares are alike. Of the same pairs the "
        f"estimator ({name}) says {estimate(overall, 'estimator', _share)}.",
    )


def people_chart(report: Mapping[str, Any]) -> Forest:
    """What people and the estimator saw, by condition."""
    rows = [
        ForestRow(
            f"{words(name)}: {label}", estimate(own, column), own[column], own.get(f"{column}_ci"), is_shown=is_filled
        )
        for name, own in report["mu_el"].items()
        for column, label, is_filled in _SEEN
        if own[column] is not None
    ]
    caption = (
        "Share of pairs, with 95 % intervals, in which most people saw a move with the injection or against it "
        "(hollow), and in which the estimator says that it leaks."
    )
    return Forest(rows, caption, is_centred=False, heading="What people saw")


_SEEN = (
    ("people", "people, with it", True),
    ("people_away", "people, against it", False),
    ("estimator", "estimator", True),
)
_share = partial(percent, decimals=0)


def annotation_tables(report: Mapping[str, Any]) -> list[Table]:
    """The report for reading."""
    tables = [_annotator_table(report), _mu_el_table(report)]
    if report["agreement"]["votes"] is not None:
        tables.append(_agreement_table(report))
    return [*tables, _estimator_table(report)]


def _annotator_table(report: Mapping[str, Any]) -> Table:
    shares = ("moved_towards", "equal", "prefers_a")
    rows = [
        (a["name"], str(a["answers"]), str(a["missing"]), *(number(a[share]) for share in shares))
        for a in report["annotators"]
    ]
    run, chosen = report["run"], report["majority"]
    absent = [a["name"] for a in report["annotators"] if not a["has_sheet"]]
    notes = [
        f"Majority (more than half of the votes given): {chosen['n']} pairs; ties, which have none: {chosen['ties']}; "
        f"without any vote: {chosen['without_votes']}. moved: share of answers by which the test sentence is more "
        "positive (negative) after a positive (negative) injection; A: sentence A among answers that are not equal, "
        "0.50 without a preference for a place."
    ]
    if absent:
        notes.append(f"No sheet of {', '.join(absent)} was found.")
    if report["agreement"]["votes"] is None:
        notes.append("One annotator only: how far people agree is not defined.")
    return Table(
        title=(
            f"Judgements of people: {run['model']} on {run['dataset']}, {report['n_items']} pairs of "
            f"{report['n_samples']} samples"
        ),
        header=("annotator", "answers", "missing", "moved", "equal", "A"),
        rows=rows,
        notes=notes,
    )


def _mu_el_table(report: Mapping[str, Any]) -> Table:
    columns = ("people", "people_away", "estimator")
    rows = [
        (name.replace("_", " "), str(values["n"]), *(estimate(values, column) for column in columns))
        for name, values in report["mu_el"].items()
    ]
    return Table(
        title="mu_EL by the majority of people, and by the estimator on the same pairs",
        header=("condition", "pairs", "people [95 % CI]", "people: away", f"{report['run']['estimator']} [95 % CI]"),
        rows=rows,
        notes=[
            "people: share of pairs whose majority saw a move towards the injection; away: the majority saw a move the "
            "other way. Without leakage the two are alike. Sentences that people find equal count as neither, so that "
            "0.5 is not what no leakage gives. no shared word: pairs whose test sentence has no content word of the "
            "injection, so that no such word gave it away."
        ],
    )


def _agreement_table(report: Mapping[str, Any]) -> Table:
    votes, steps = report["agreement"]["votes"], report["agreement"]["steps"]
    both = (votes, steps)
    rows = []
    for kind, name in (("unanimous", "all annotators"), ("pairwise", "two annotators")):
        field = f"{kind}_agreement"
        rows.append((f"raw agreement, {name}", *(estimate(values, field) for values in both)))
        for chance, what in ((kind, "with their habits"), (f"{kind}_uniform", "all answers equally likely")):
            rows.append((f"  by chance, {what}", *(number(values["chance"][chance]) for values in both)))
    rows.append(("Fleiss' kappa", *(number(values["fleiss_kappa"]) for values in both)))
    alphas = (estimate(values, "krippendorff_alpha") for values in both)
    rows.append(("Krippendorff's alpha (ordinal)", *alphas))
    for one, other in zip(votes["pairs"], steps["pairs"], strict=True):
        names = f"{one['first']}, {one['second']}"
        rows.append((f"Cohen's kappa: {names}", number(one["kappa"]), number(other["kappa"])))
        rows.append((f"  weighted (quadratic): {names}", DASH, number(other["weighted_kappa"])))
    return Table(
        title="Agreement of annotators",
        header=("", "leakage vote", "five steps"),
        rows=rows,
        notes=[_chance_note(votes, report["paper_raw_agreement"])],
    )


def _chance_note(votes: Mapping[str, Any], paper: float) -> str:
    """What raw agreement means on these data."""
    note = f"The paper reports over {percent(paper, decimals=0)} raw agreement of three linguists. "
    chance = votes["chance"]
    if chance["unanimous"] is not None:
        note += (
            f"Annotators with the habits of these, who do not look at the sentences, would agree on "
            f"{chance['pairwise']:.2f} of leakage votes two by two and on {chance['unanimous']:.2f} all together: raw "
            "agreement alone overstates; read kappa and alpha. "
        )
    return note + f"All-annotator rows and Fleiss' kappa are over the {votes['n_complete']} pairs that all judged."


def _estimator_table(report: Mapping[str, Any]) -> Table:
    values = report["estimator"]
    rows = [
        (name, str(values[n]), estimate(values, field))
        for name, field, n in (
            ("AUC of P_t[l] - P_c[l] for the majority's verdict", "auc", "n"),
            ("EL and the majority: same verdict", "agreement", "n"),
            ("  by chance, with their habits", "chance_agreement", "n"),
            ("  Cohen's kappa", "kappa", "n"),
            ("Spearman: valence difference and mean rating", "spearman", "n_rated"),
        )
    ]
    return Table(
        title=f"The estimator ({report['run']['estimator']}) against people",
        header=("", "pairs", "value [95 % CI]"),
        rows=rows,
        notes=["Intervals of all tables are BCa bootstraps over samples."],
    )
