"""Tables of a comparison of mitigations, for terminal, markdown and page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.tables import read_table
from leakmech.prompts.arrangement import ARRANGEMENTS
from leakmech.reports.cells import DASH, cell, is_number, number, p_value, percent, signed
from leakmech.reports.figures.frames import Frame, words
from leakmech.reports.tables import Column, Table, estimate_of, value_of
from leakmech.studies.mitigation.mitigation import HELD_AGAINST

_VERDICTS = ("worse", "inconclusive", "equivalent", "better")


def _not_applicable(row: Mapping[str, Any]) -> list[str]:
    """Columns that are measured on texts on which the mitigation cannot act."""
    named = row.get("not_applicable")
    return named.split(", ") if isinstance(named, str) and named else []


def _where_it_acts(name: str, show: Callable[[Any], str]) -> Column:
    """The column that shows one value of a record, n/a where the mitigation cannot act on what it is measured on."""
    return lambda row: "n/a" if name in _not_applicable(row) else show(row.get(name))


_COLUMNS: Mapping[str, Column] = {
    "mitigation": lambda row: _named(row),
    "told": lambda row: cell(row["told"]) if row["kind"] not in ("base", "baseline") else DASH,
    "all pairs [95 % CI]": estimate_of("auc_el"),
    "contrast": value_of("contrast", signed),
    "topic-free": value_of("topic_free_auc_el", number),
    "reduction [95 % CI]": estimate_of("leakage_reduction"),
    "retention [95 % CI]": estimate_of("retention"),
    "self": value_of("retention_relevant-self", number),
    "requests": _where_it_acts("retention_requests", number),
    "fluency": value_of("fluency", number),
    "selectivity": value_of("selectivity", number),
    "KL": _where_it_acts("kl", lambda value: number(value, decimals=3)),
    "perplexity": _where_it_acts("perplexity_ratio", number),
    "capability": _where_it_acts("capability", number),
    "speed": value_of("speed_ratio", number),
    "p": value_of("p_holm", p_value),
}

NOT_SHOWN = "not shown"
"""The verdict on a removal whose interval contains 0."""


def quick_opening(summary: Mapping[str, Any]) -> str:
    """What headlines and titles of a quick run begin with."""
    return "No measurement (--quick): " if summary.get("quick") else ""


def removal_column(frame: Frame) -> str:
    """The column that says what is taken out: the removal, in older tables the leakage reduction."""
    return "removal" if "removal" in frame and frame["removal"].notna().any() else "leakage_reduction"


def removal_verdict(row: Mapping[str, Any], column: str) -> str:
    """What the interval of a row's removal supports; a dash for the base model and where nothing was measured.

    What stands for several random draws has their range in place of an interval, and so no verdict.
    """
    low, high = (row.get(f"{column}_{end}") for end in ("low", "high"))
    if row["kind"] == "base" or is_number(row.get("n_draws")) or not is_number(row.get(column)):
        return DASH
    if not (is_number(low) and is_number(high)):
        return NOT_SHOWN
    if low > 0:
        return "takes it out"
    return "adds to it" if high < 0 else NOT_SHOWN


def verdicts_table(tested: Frame) -> Table:
    """What each mitigation is told, takes out and keeps, and what the interval of the first supports."""
    column = removal_column(tested)
    columns: dict[str, Column] = {
        "mitigation": _named,
        "told": _COLUMNS["told"],
        "takes out [95 % CI]": estimate_of(column),
        "verdict": lambda row: removal_verdict(row, column),
        "keeps [95 % CI]": estimate_of("retention"),
        "fluency": value_of("fluency", number),
    }
    if column == "removal":
        of = ", ".join(dict.fromkeys(tested["removal_of"].dropna())) if "removal_of" in tested else "leakage"
        what = f"takes out: share of the {of} that is gone, in units of what the oracle takes out"
    else:
        what = "takes out: share of the distance of all pairs from 0.5 that is gone"
    notes = [
        f"{what}; keeps: share of the valence shift that is left where affect is relevant. not shown: the interval "
        "contains 0, or there is none, since the shift that this is a share of is not shown itself."
    ]
    rows = [row for row in in_order(tested) if row["kind"] != "base"]
    return Table.of("What each is told, takes out and keeps, on test samples", rows, columns, notes)


_BY_ESTIMATOR: Mapping[str, Column] = {
    "mitigation": lambda row: _named(row) if row["name"] else "",
    "estimator": value_of("estimator"),
    "all pairs [95 % CI]": estimate_of("auc_el"),
    "topic-free [95 % CI]": estimate_of("topic_free_auc_el"),
    "reduction [95 % CI]": estimate_of("leakage_reduction"),
    "retention [95 % CI]": estimate_of("retention"),
    "p": value_of("p_holm", p_value),
}


def mitigations_table(frame: pd.DataFrame, *, title: str = "Mitigations") -> Table:
    """One row per mitigation of one split: the base model first, then by selectivity; bounds and baselines last.

    What is told nothing but the text of the prompt stands before what is told more.
    """
    notes = [
        "told, beside the text of the prompt: nothing; the layout (its last sentence is the request); the boundary "
        "(what was injected) or the condition, which no user knows.",
        "all pairs: auc_EL on the leakage set, 0.5 = as the control; contrast: own label minus wrong label, 0 = "
        "polarity does nothing; topic-free: all pairs of the answers that are not about the injection.",
        "reduction: share of auc_EL's distance from 0.5 that is gone; retention: valence shift that is left where the "
        "injection is relevant (matched set; self: self-reports), or where emotional text is asked for (requests).",
        "KL in nats a token to the base model, perplexity of neutral text over the base model's, capability: share "
        "of everyday questions right, speed: base model's seconds over the mitigated one's; n/a: the mitigation "
        "cannot act on what this is measured on. p: auc_EL differs from the base model's (permutations of samples, "
        "Holm over the mitigations that are told nothing, and over all others).",
        *_draws_notes(frame),
    ]
    return Table.of(title, in_order(frame), _COLUMNS, notes)


_CHARGED: Mapping[str, Column] = {
    "mitigation": lambda row: _named(row),
    "R [95 % CI]": estimate_of("removal"),
    "R tilt [95 % CI]": estimate_of("removal_tilt"),
    "T matched [95 % CI]": estimate_of("retention"),
    "T self [95 % CI]": estimate_of("retention_self"),
    "T facts [95 % CI]": estimate_of("retention_facts"),
    "fluency": value_of("fluency", number),
    "perplexity × distinct × length": lambda row: " × ".join(
        number(row.get(f"fluency_{name}")) for name in ("perplexity", "repetition", "length")
    ),
    "selectivity [95 % CI]": estimate_of("selectivity"),
    "without": lambda row: _not_charged(row.get("not_charged")),
}

_PARTS = {
    "R": "removal",
    "R tilt": "removal_tilt",
    "T matched": "retention",
    "T self": "retention_self",
    "T facts": "retention_facts",
}


def charged_table(frame: pd.DataFrame, summary: Mapping[str, Any]) -> Table | None:
    """What selectivity is made of, a row for each mitigation of one split; None for a table of version 1."""
    if "removal" not in frame.columns:
        return None
    of = ", ".join(dict.fromkeys(frame["removal_of"].dropna()))
    notes = [
        f"R: what is gone of the {of}, in units of what the oracle takes out (same draws); R tilt: the same of the "
        "tilt shift per token, on completions that the base model wrote once. T: what is left of the base model's "
        "valence shift where affect is relevant (matched; self-reports), and of its right answers to facts.",
        "selectivity: harmonic mean of R, R tilt, the T and fluency, each as 1 - |1 - x| within [0, 1], so that "
        "overshooting costs as much as falling short; without: parts that could not be computed. fluency is the "
        "product of its parts against the base model: perplexity of the answers, distinct-n, length. What lies between "
        "the base model's answers with and without the injection costs nothing.",
        "± expected: half-width of the 95 % interval to be expected at 0.85, told by the base model's runs alone "
        "before anything else was measured, for a mitigation that spares some samples altogether.",
        *_facts_note(summary.get("facts_asked")),
    ]
    widths = summary.get("expected", {}) if set(frame["split"]) == {"test"} else {}
    columns = {_with_width(name, widths): column for name, column in _CHARGED.items()}
    return Table.of("What selectivity charges", in_order(frame), columns, notes)


def _with_width(header: str, widths: Mapping[str, float | None]) -> str:
    """A header with the half-width that was expected before anything but the base model was measured."""
    part = _PARTS.get(header.partition(" [")[0], "")
    return header if widths.get(part) is None else f"{header}, ±{number(widths[part])} expected"


def _facts_note(asked: Mapping[str, Any] | None) -> list[str]:
    if asked is None:
        return []
    known = f"The base model knows {percent(asked['base_accuracy'])} of {asked['n']} facts (chance "
    compared = f"; T facts is not computed: {asked['not_compared']}" if asked["not_compared"] else ""
    return [f"{known}{percent(asked['chance'])}){compared}."]


def _not_charged(reasons: Any) -> str:
    """The names alone of the parts that are missing."""
    if not isinstance(reasons, str) or not reasons:
        return DASH
    return ", ".join(words(reason.partition(":")[0]) for reason in reasons.split("; "))


def arrangements_table(tested: Frame) -> Table | None:
    """What leaks, and what is gone of it, with the injection elsewhere; None where no arrangement was measured."""
    prefix = "topic_free_valence_shift_"
    measured = [one for one in ARRANGEMENTS if f"{prefix}{one}" in tested.columns]
    if not measured:
        return None
    rows: list[dict[str, Any]] = []
    for arrangement in measured:
        named = {f"{name}_{arrangement}{end}": f"{name}{end}" for name in _ELSEWHERE for end in ("", "_low", "_high")}
        kept = tested[tested[f"{prefix}{arrangement}"].notna()]
        own = kept.drop(columns=list(named.values()), errors="ignore").rename(columns=named)
        rows += [{**row, "arrangement": arrangement} for row in in_order(own)]
    columns: dict[str, Column] = {
        "injection": value_of("arrangement", str),
        "mitigation": _named,
        "told": _COLUMNS["told"],
        "all pairs": value_of("auc_el", number),
        "topic-free shift [95 % CI]": estimate_of("topic_free_valence_shift", signed),
        "R [95 % CI]": estimate_of("removal"),
    }
    notes = [
        "Topic-free shift: valence after positive minus after negative injections (opposed: two of opposite polarity, "
        "between their two orders), answers about the injection left out; R: share of it that is gone, in units of "
        "what the oracle takes out in the same arrangement. graded: the injection of "
        "another sample that is nearest to the request. Strengths were chosen with the injection before the request."
    ]
    return Table.of("Leakage with the injection elsewhere, on test samples", rows, columns, notes)


_ELSEWHERE = ("auc_el", "topic_free_valence_shift", "removal")


def in_order(frame: Frame) -> list[dict[str, Any]]:
    """Rows with the base model first, what is told nothing before what is told more, then by selectivity.

    Of those alike, one of which a part of selectivity is missing stands after those that are charged for more.
    """
    rows = frame.to_dict("records")

    def key(row: Mapping[str, Any]) -> tuple[float, ...]:
        value = row["selectivity"]
        reasons = row.get("not_charged")
        missing = reasons.count(": ") if isinstance(reasons, str) else 0
        return _place(row["kind"], row["told"]), missing, float("inf") if pd.isna(value) else -value

    return sorted(rows, key=key)


def _draws_notes(frame: Frame) -> list[str]:
    """What the rows of random edits are; nothing without them."""
    numbers = frame.get("n_draws", pd.Series(dtype=float)).dropna().unique()
    if not len(numbers):
        return []
    drawn = " or ".join(f"{number:.0f}" for number in numbers)
    return [
        "random heads, neurons, directions and planes: as many in each layer, as strong, and under the same gate, as "
        f"what was chosen; median of {drawn} draws, and in brackets the middle 90 % of the draws. No side effects are "
        "measured of them."
    ]


def read_by_estimator(run: Path) -> Frame | None:
    """One row per estimator and mitigation on test samples, the headline's first; None if it is the only one."""
    file = run / "tables" / "mitigations_by_estimator.csv"
    return read_table(file) if file.exists() else None


def by_estimator_table(frame: Frame) -> Table:
    """What each expression estimator says of the same mitigations, in the order of their rows, the base model first."""
    names = list(dict.fromkeys(frame["estimator"]))
    order = {name: place for place, name in enumerate(dict.fromkeys(frame["name"]))}
    records = frame.copy().assign(place=frame["name"].map(order)).sort_values("place", kind="stable").to_dict("records")
    for record in records:
        if record["estimator"] != names[0]:
            record["name"] = ""  # stands in the first of its rows
    notes = [
        f"The same generations under each expression estimator. Strengths were chosen by {names[0]} alone, so what was "
        "chosen may suit that one; the others had no say. topic-free: all pairs of the answers that are not about the "
        "injection; p: all pairs differ from the base model's (Holm over the mitigations that are "
        "told nothing, and over all others, within each estimator).",
        *_order_notes(frame, names),
    ]
    return Table.of("The same mitigations under each expression estimator", records, _BY_ESTIMATOR, notes)


def _order_notes(frame: Frame, names: Sequence[str]) -> list[str]:
    """How far estimators agree on the order of the mitigations; nothing for fewer than three of them."""
    judged = frame[~frame["kind"].isin(HELD_AGAINST)]
    reductions = judged.pivot(index="name", columns="estimator", values="leakage_reduction")
    if len(reductions) < 3:
        return []
    agreement = reductions.corr(method="spearman")[names[0]]
    told = ", ".join(f"{name} {number(agreement[name])}" for name in names[1:])
    return [f"Order of the mitigations by their reduction, rank correlation with {names[0]}: {told}."]


def _named(row: Mapping[str, Any]) -> str:
    """The name of a mitigation, with the kind of what is none."""
    return f"{row['name']} ({row['kind']})" if row["kind"] in ("oracle", "baseline") else str(row["name"])


def _place(kind: str, told: Any) -> int:
    order = {"base": 0, "oracle": 5, "baseline": 6}
    return order.get(kind, {"nothing": 1, "layout": 2}.get(told, 3))


def _drawn(frame: Frame) -> Any:
    """Which rows stand for several random draws."""
    return frame["n_draws"].notna() if "n_draws" in frame else pd.Series(False, index=frame.index)


def side_effects_table(tested: Frame) -> Table:
    """One row per mitigation: the measures by their verdict."""
    measures = [name.removesuffix("_verdict") for name in tested.columns if name.endswith("_verdict")]
    rows = []
    for row in tested[(tested["kind"] != "base") & ~_drawn(tested)].to_dict("records"):
        found = {verdict: [words(m) for m in measures if row[f"{m}_verdict"] == verdict] for verdict in _VERDICTS}
        said = [", ".join(found[verdict]) or DASH for verdict in _VERDICTS]
        rows.append((str(row["name"]), *said, ", ".join(map(words, _not_applicable(row))) or DASH))
    notes = [
        "equivalent: within the margins of the configuration, by two one-sided tests (TOST); worse, better: beyond "
        "chance and not shown to lie within the margins; inconclusive: the samples do not tell; n/a: measured on texts "
        "on which the mitigation cannot act."
    ]
    return Table("Each measure against the base model's.", ("mitigation", *_VERDICTS, "n/a"), rows, notes)


def strengths_table(tuned: Frame, tested: Frame) -> Table:
    """All strengths that were tried, on the samples on which they were chosen."""
    chosen = set(tested.loc[tested["kind"] != "base", "name"])
    columns: dict[str, Column] = {"mitigation": lambda row: row["name"] + (" ✓" if row["name"] in chosen else "")}
    columns["all pairs"] = value_of("auc_el", number)
    columns["reduction"] = value_of("leakage_reduction", number)
    parts = {"R": "removal", "R tilt": "removal_tilt", "retention": "retention", "T facts": "retention_facts"}
    shown = {name: column for name, column in parts.items() if column in tuned.columns}
    columns |= {name: value_of(column, number) for name, column in shown.items()}
    columns |= {name: value_of(name, number) for name in ("fluency", "selectivity")}
    charged = (
        "; of all parts but self-reports, with facts that are not reported on" if "removal" in tuned.columns else ""
    )
    title = f"On tune samples; ✓ was chosen by its selectivity{charged}."
    return Table.of(title, tuned.to_dict("records"), columns)
