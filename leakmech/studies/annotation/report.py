"""What answered sheets say: verdicts of the majority, agreement of people, and the estimator against them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.datasets.samples import POLARITIES
from leakmech.reports.tables import Table
from leakmech.scoring.leakage import LABELS
from leakmech.scoring.statistics import json_number
from leakmech.studies.annotation.agreement import (
    estimator_against_people,
    majority,
    rater_agreement,
    share_with_interval,
)
from leakmech.studies.annotation.sheets import ANSWERS, Key, Side

FORMAT_VERSION = 1
KIND = "annotation"
PAPER_RAW_AGREEMENT = 0.85  # "over 85 %", three linguists

_POLARITY = {"positive": 1.0, "negative": -1.0}
_STEPS = sorted(ANSWERS)


def annotation_report(
    key: Key, ratings: Mapping[str, Mapping[str, int]], *, seed: int, draws: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The content of ``agreement.json``, and a table with one row per item.

    Parameters
    ----------
    key
        Of the export.
    ratings
        By annotator and item, see :func:`leakmech.studies.annotation.sheets.read_sheets`; at least one.
    seed, draws
        Of the bootstrap over samples.
    """
    raters = [name for name in key.annotators if ratings.get(name)]
    matrix = np.array([[ratings[name].get(item, np.nan) for name in raters] for item in key.items], dtype=np.float64)
    pairs = _pairs(key, raters, matrix)
    moved = matrix * np.array([[_POLARITY[item.condition]] for item in key.items.values()])
    votes = np.where(np.isnan(moved), np.nan, (moved > 0).astype(np.float64))
    verdict, n_votes = majority(votes), (~np.isnan(votes)).sum(axis=1)
    away = majority(np.where(np.isnan(moved), np.nan, (moved < 0).astype(np.float64)))
    pairs["n_votes"], pairs["majority"], pairs["majority_away"] = n_votes, verdict, away
    settings: dict[str, Any] = {"groups": pairs["sample"].tolist(), "seed": seed, "draws": draws}
    agreement: dict[str, Any] = {"votes": None, "steps": None}
    if len(raters) > 1:
        agreement["votes"] = rater_agreement(votes, categories=(0, 1), raters=raters, **settings)
        agreement["steps"] = rater_agreement(matrix, categories=_STEPS, raters=raters, **settings)
    report = {
        "format_version": FORMAT_VERSION,
        "kind": KIND,
        "export": key.export,
        "run": dict(key.run),
        "cleaning": key.cleaning,
        "n_items": len(key.items),
        "n_samples": len({item.sample for item in key.items.values()}),
        "seed": seed,
        "annotators": [_annotator(key, name, ratings.get(name)) for name in key.annotators],
        "majority": {
            "n": int((~np.isnan(verdict)).sum()),
            "ties": int((np.isnan(verdict) & (n_votes > 0)).sum()),
            "without_votes": int((n_votes == 0).sum()),
        },
        "mu_el": {name: _mu_el(pairs, chosen, settings) for name, chosen in _conditions(pairs)},
        "agreement": agreement,
        "paper_raw_agreement": PAPER_RAW_AGREEMENT,
        "estimator": estimator_against_people(
            difference=pairs["difference"].to_numpy(),
            valence_difference=pairs["valence_difference"].to_numpy(),
            verdict=verdict,
            mean_rating=pairs["mean_rating"].to_numpy(),
            **settings,
        ),
    }
    return report, pairs


def _pairs(key: Key, raters: Sequence[str], matrix: Float[np.ndarray, "items raters"]) -> pd.DataFrame:
    """One row per item: where it comes from, its texts, what the estimator and people say."""
    rows = []
    for name, item in key.items.items():
        own = LABELS.index(item.condition)
        shift = np.subtract(item.p_test, item.p_control)
        rows.append(
            {
                "item": name,
                "sample": item.sample,
                "condition": item.condition,
                "generation": item.generation,
                "stem": item.stem,
                "control": item.control,
                "test": item.test,
                "names_injection": item.names_injection,
                "difference": shift[own],
                "el": int(shift[own] > 0),
                "valence_difference": shift[LABELS.index("positive")] - shift[LABELS.index("negative")],
            }
        )
    pairs = pd.DataFrame(rows)
    for i, rater in enumerate(raters):
        pairs[f"rating_{rater}"] = matrix[:, i]
    pairs["mean_rating"] = pd.DataFrame(matrix).mean(axis=1).to_numpy()
    return pairs


def _conditions(pairs: pd.DataFrame) -> list[tuple[str, Float[np.ndarray, " items"]]]:
    """Names of sets of items, and 1 for each item that belongs to one."""
    own = [(name, (pairs["condition"] == name).to_numpy(np.float64)) for name in POLARITIES]
    blind = 1.0 - pairs["names_injection"].to_numpy(np.float64)
    return [("overall", np.ones(len(pairs))), *own, ("no_shared_word", blind)]


def _mu_el(pairs: pd.DataFrame, chosen: Float[np.ndarray, " items"], settings: Mapping[str, Any]) -> dict[str, Any]:
    """mu_EL of people and of the estimator over the same pairs, those with a majority; and the opposite of leakage."""
    judged = chosen * pairs["majority"].notna().to_numpy()
    found: dict[str, Any] = {"n": int(judged.sum())}
    for name, verdicts in (("people", "majority"), ("people_away", "majority_away"), ("estimator", "el")):
        share, ends = share_with_interval(judged * (pairs[verdicts] == 1).to_numpy(), judged, **settings)
        found |= {name: share, f"{name}_ci": ends}
    return found


def _annotator(key: Key, name: str, ratings: Mapping[str, int] | None) -> dict[str, Any]:
    """What one annotator did; who always chooses A, or never sees a difference, stands out here."""
    given = ratings or {}
    firsts: dict[str, Side] = dict(key.annotators[name])
    moved = [rating * _POLARITY[key.items[item].condition] > 0 for item, rating in given.items()]
    for_a = [(rating > 0) == (firsts[item] == "test") for item, rating in given.items() if rating != 0]
    return {
        "name": name,
        "has_sheet": ratings is not None,
        "answers": len(given),
        "missing": len(key.items) - len(given),
        "moved_towards": json_number(float(np.mean(moved))) if moved else None,
        "equal": json_number(float(np.mean([rating == 0 for rating in given.values()]))) if given else None,
        "prefers_a": json_number(float(np.mean(for_a))) if for_a else None,
    }


def annotation_tables(report: Mapping[str, Any]) -> list[Table]:
    """The report for reading."""
    tables = [_annotator_table(report), _mu_el_table(report)]
    if report["agreement"]["votes"] is not None:
        tables.append(_agreement_table(report))
    return [*tables, _estimator_table(report)]


def _annotator_table(report: Mapping[str, Any]) -> Table:
    shares = ("moved_towards", "equal", "prefers_a")
    rows = [
        (a["name"], str(a["answers"]), str(a["missing"]), *(_cell(a[share]) for share in shares))
        for a in report["annotators"]
    ]
    run, chosen = report["run"], report["majority"]
    absent = [a["name"] for a in report["annotators"] if not a["has_sheet"]]
    notes = [
        f"Majority (more than half of the votes given): {chosen['n']} pairs; ties, which have none: {chosen['ties']}; "
        f"without any vote: {chosen['without_votes']}. moved: share of answers by which the test sentence is more "
        "positive (negative) after a positive (negative) injection; A: sentence A among answers that are not equal, "
        "0.50 without a preference for a place.",
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
        (
            name.replace("_", " "),
            str(values["n"]),
            *(_cell(values[column], values[f"{column}_ci"]) for column in columns),
        )
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
        rows.append((f"raw agreement, {name}", *(_cell(values[field], values[f"{field}_ci"]) for values in both)))
        for chance, what in ((kind, "with their habits"), (f"{kind}_uniform", "all answers equally likely")):
            rows.append((f"  by chance, {what}", *(_cell(values["chance"][chance]) for values in both)))
    rows.append(("Fleiss' kappa", *(_cell(values["fleiss_kappa"]) for values in both)))
    alphas = (_cell(values["krippendorff_alpha"], values["krippendorff_alpha_ci"]) for values in both)
    rows.append(("Krippendorff's alpha (ordinal)", *alphas))
    for one, other in zip(votes["pairs"], steps["pairs"], strict=True):
        names = f"{one['first']}, {one['second']}"
        rows.append((f"Cohen's kappa: {names}", _cell(one["kappa"]), _cell(other["kappa"])))
        rows.append((f"  weighted (quadratic): {names}", "–", _cell(other["weighted_kappa"])))
    return Table(
        title="Agreement of annotators",
        header=("", "leakage vote", "five steps"),
        rows=rows,
        notes=[_chance_note(votes, report["paper_raw_agreement"])],
    )


def _chance_note(votes: Mapping[str, Any], paper: float) -> str:
    """What raw agreement means on these data."""
    note = f"The paper reports over {paper:.0%} raw agreement of three linguists. ".replace("%", " %")
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
        (name, str(values[n]), _cell(values[field], values.get(f"{field}_ci")))
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


def agreement_frame(report: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers of the report, one a row: section, statistic, value, low and high (95 %)."""
    rows = []
    for section, values in (
        *((f"mu_el/{name}", values) for name, values in report["mu_el"].items()),
        *((f"agreement/{name}", values) for name, values in report["agreement"].items() if values is not None),
        ("estimator", report["estimator"]),
    ):
        rows += _rows(section, values)
    return pd.DataFrame(rows, columns=["section", "statistic", "value", "low", "high"])


def _rows(section: str, values: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _rows(f"{section}/{name}", value)
        elif name == "pairs":
            for pair in value:
                numbers = {key: pair[key] for key in ("n", "agreement", "kappa", "weighted_kappa")}
                rows += _rows(f"{section}/{pair['first']}, {pair['second']}", numbers)
        elif not name.endswith("_ci"):
            low, high = values.get(f"{name}_ci") or (None, None)
            rows.append((section, name, value, low, high))
    return rows


def _cell(value: float | None, interval: Sequence[float] | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.2f}" if interval is None else f"{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"
