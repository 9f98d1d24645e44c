"""What a table of mitigations supports, in plain words: sentences that follow by rule from its rows and intervals.

The best row told nothing is the one of the highest selectivity among those that are charged for most parts. It is held
against

    dropping unrelated sentences   it *beats* it if its interval lies above that row's, *falls short* if it lies below;
                                   otherwise the table does not tell them apart. Only rows charged for the same parts
                                   are compared.
    random edits of its size       its removal (in older tables its leakage reduction) lies above the middle 90 % of
                                   the draws, or not
    the goal                       every R and T at least .85, fluency at least .97: by the lower ends, or by values

Intervals that do not overlap are asked for, which is stricter than a test of the difference; the best of many rows is
flattered by chance, which this does not correct.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from leakmech.reports.cells import DASH, is_number, number, percent, with_interval
from leakmech.reports.figures.frames import Frame
from leakmech.studies.mitigation.mitigation import HELD_AGAINST
from leakmech.studies.mitigation.tables import in_order, removal_verdict

REFERENCE = "drop-unrelated-text"
"""Family of the text-only baseline that is told the layout."""
GOAL, FLUENT = 0.85, 0.97
"""What is hoped for of every R and T, and of fluency; a hope, not a condition."""
_REMOVALS = {"removal": "topic-free leakage", "removal_tilt": "tilt shift"}
_RETENTIONS = {
    "retention": "relevant affect",
    "retention_self": "affect of self-reports",
    "retention_facts": "facts",
}
RANDOM_OF = {
    "heads-mean": "random-heads",
    "neurons-mean": "random-neurons",
    "project-affect": "random-directions",
    "late-heads-if-unrelated": "random-late-heads-if-unrelated",
    "angular-if-unrelated": "random-plane-if-unrelated",
}
"""Families that name components or directions, and what random edits of their size are called."""
Row = Mapping[str, Any]


def headline(tested: Frame) -> str:
    """What the rows on test samples support; empty if nothing has a selectivity."""
    return " ".join(sentences(tested))


def sentences(tested: Frame) -> list[str]:
    """The sentences of the headline: what the best one does, then what it is held against."""
    found = claimed(tested)
    found = found[found["selectivity"].notna()]
    if found.empty:
        judged = tested[~tested["kind"].isin(HELD_AGAINST) & tested["selectivity"].notna()]
        return [] if judged.empty else ["Every mitigation here is told more than the text of the prompt."]
    if silent := no_leakage(tested):
        return [silent]
    best = in_order(found)[0]
    parts = (_what_it_does(best), against_text(best, tested), against_random(best, tested), against_goal(found))
    return [part for part in parts if part]


def claimed(tested: Frame) -> Frame:
    """Rows of what is meant to mitigate and is told nothing beside the text of the prompt."""
    return tested[~tested["kind"].isin(HELD_AGAINST) & (tested["told"] == "nothing")]


def no_leakage(tested: Frame) -> str:
    """A sentence if the base model's topic-free valence shift cannot be told from none; empty otherwise."""
    base = tested[tested["kind"] == "base"]
    column = "topic_free_valence_shift"
    if base.empty or f"{column}_low" not in base or pd.isna(base[f"{column}_low"].iloc[0]):
        return ""
    value, low, high = (float(base[name].iloc[0]) for name in (column, f"{column}_low", f"{column}_high"))
    if low > 0:
        return ""
    what = "runs against the injections here" if high < 0 else "cannot be told from none here"
    return (
        f"The base model's topic-free leakage {what} (valence shift {number(value)} [{number(low)}, {number(high)}]), "
        "so the table says nothing about what takes it out."
    )


def against_text(best: Row, tested: Frame) -> str:
    """How the best row that is told nothing compares with dropping unrelated sentences; empty without that row."""
    rows = tested[tested["name"].astype(str).str.startswith(REFERENCE) & (tested["split"] == best["split"])]
    if rows.empty:
        return ""
    reference: Row = rows.iloc[0].to_dict()
    ends = [row.get(f"selectivity_{end}") for row in (best, reference) for end in ("low", "high")]
    if any(end is None or pd.isna(end) for end in (*ends, reference["selectivity"])):
        return "No method told nothing could be compared with dropping unrelated sentences: an interval is missing."
    if _missing(best) != _missing(reference):
        return (
            "No method told nothing could be compared with dropping unrelated sentences: the best one and that are "
            "charged for different parts."
        )
    low, high, low_text, high_text = (float(end) for end in ends if end is not None)
    figures = f"selectivity {_interval(best)} against {_interval(reference)}"
    if low > high_text:
        return f"Told nothing, {best['name']} beats dropping unrelated sentences: {figures}."
    if high < low_text:
        return f"No method told nothing comes up to dropping unrelated sentences; the best, {best['name']}: {figures}."
    return (
        f"No method told nothing is shown to beat dropping unrelated sentences: the intervals of the best, "
        f"{best['name']}, and of that overlap ({figures})."
    )


def against_random(best: Row, tested: Frame) -> str:
    """Whether random edits of the size of the best row do as much; empty where none were drawn."""
    for family, random in RANDOM_OF.items():
        if not str(best["name"]).startswith(f"{family}-"):
            continue
        rows = tested[tested["name"] == random + str(best["name"]).removeprefix(family)]
        for name, called in (("removal", "removal"), ("leakage_reduction", "leakage reduction")):
            ends = [f"{name}_low", f"{name}_high"]
            if rows.empty or not set(ends) <= set(rows.columns) or rows[ends].isna().any(axis=None):
                continue
            low, high = rows.iloc[0][ends]
            where = "lies above" if best[name] > high else "does not lie above"
            said = f"Its {called}, {number(best[name])}, {where} the middle 90 % of random edits of its size"
            return f"{said} ({number(low)} to {number(high)})."
    return ""


def against_goal(found: Frame) -> str:
    """Whether a row reaches what is hoped for, by its intervals or by its values; empty for tables of version 1."""
    names = [name for name in (*_REMOVALS, *_RETENTIONS) if name in found.columns]
    if "removal" not in names:
        return ""
    rows = in_order(found)
    goal = f"R and T of at least {number(GOAL)} with a fluency of at least {number(FLUENT)}"
    shown = [row["name"] for row in rows if _reaches(row, names, "_low")]
    if shown:
        return f"By its interval, {shown[0]} has {goal}."
    by_value = [row["name"] for row in rows if _reaches(row, names, "")]
    if by_value:
        return f"By its values, not by its intervals, {by_value[0]} has {goal}."
    return f"None that is told nothing has {goal}."


def _reaches(row: Row, names: list[str], end: str) -> bool:
    wanted = dict.fromkeys(names, GOAL) | {"fluency": FLUENT}
    ends = {name: row.get(f"{name}{end}") for name in wanted}
    return all(value is not None and not pd.isna(value) and value >= wanted[name] for name, value in ends.items())


def _what_it_does(best: Row) -> str:
    names = _REMOVALS if is_number(best.get("removal")) else {"leakage_reduction": "leakage"}
    kept = _RETENTIONS if is_number(best.get("removal")) else {"retention": "relevant affect"}
    removed, left = (
        ", ".join(f"{_share(best, name)} of the {what}" for name, what in parts.items() if is_number(best.get(name)))
        for parts in (names, kept)
    )
    verdicts = {removal_verdict(best, name) for name in names} - {DASH}
    is_silent = bool(verdicts) and "takes it out" not in verdicts
    opening = f"Told nothing but the text of the prompt, the most selective one, {best['name']},"
    does = f"is not shown to take out leakage ({removed})" if is_silent else f"takes out {removed}"
    keeps = f", keeps {left}" if left else ""
    return (
        f"{opening} {does}{keeps}, and has a fluency of {number(best['fluency'])}: a selectivity of {_interval(best)}."
    )


def _share(row: Row, name: str) -> str:
    """A share in percent with its interval."""
    low, high = (row.get(f"{name}_{end}") for end in ("low", "high"))
    value = percent(row[name], decimals=0)
    return f"{value} [{100 * low:.0f}, {100 * high:.0f}]" if is_number(low) and is_number(high) else value


def _missing(row: Row) -> str:
    """The parts of selectivity that a row is not charged for."""
    reasons = row.get("not_charged")
    named = [reason.partition(":")[0] for reason in reasons.split("; ")] if isinstance(reasons, str) else []
    return ", ".join(sorted(name for name in named if name))


def _interval(row: Row) -> str:
    return with_interval(row["selectivity"], row.get("selectivity_low"), row.get("selectivity_high"))
