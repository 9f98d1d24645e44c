"""Columns of ``tables/mitigations.csv`` from what a benchmark and the measures of side effects say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.datasets.samples import POLARITIES
from leakmech.prompts.arrangement import Arrangement
from leakmech.side_effects.equivalence import Estimate
from leakmech.side_effects.measure import SideEffects
from leakmech.side_effects.selectivity import flat


def leakage_columns(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Leakage, contrast and topic of a benchmark's summary."""
    overall = summary["overall"]
    low, high = overall["auc_el_ci"] or (None, None)
    return {
        "auc_el": overall["auc_el"],
        "auc_el_low": low,
        "auc_el_high": high,
        **_contrast(overall),
        "valence_shift": overall["valence_shift"],
        **{f"auc_el_{polarity}": summary["conditions"][polarity]["auc_el"] for polarity in POLARITIES},
        **_topic(overall),
        "on_task_rate": _on_task(summary),
    }


def _contrast(overall: Mapping[str, Any]) -> dict[str, Any]:
    """Own-label minus wrong-label EL with its interval; None in a benchmark of an older version."""
    low, high = overall.get("contrast_ci") or (None, None)
    return {"contrast": overall.get("contrast"), "contrast_low": low, "contrast_high": high}


def _topic(overall: Mapping[str, Any]) -> dict[str, Any]:
    """How many answers are about the injection, and the leakage of the others; None if topic is not told."""
    free, row = overall.get("topic_free") or {}, {"topic_rate": overall.get("topic_rate")}
    for name in ("auc_el", "contrast", "valence_shift", "d_z"):
        low, high = free.get(f"{name}_ci") or (None, None)
        row |= {f"topic_free_{name}": free.get(name), f"topic_free_{name}_low": low, f"topic_free_{name}_high": high}
    return row


def _on_task(summary: Mapping[str, Any]) -> float | None:
    """Share of the answers after injections that the model could have given without them; None if it is not told."""
    rates = [summary["conditions"][polarity].get("on_task_rate") for polarity in POLARITIES]
    return None if None in rates else sum(rates) / len(rates)


def tilt_columns(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The tilt shift of a row per token, with its intervals; None where tilt is not measured."""
    own = summary.get("tilt", {}).get("per_token", {})
    row: dict[str, Any] = {}
    for name in ("shift", "d_z", "right_sign"):
        low, high = own.get(f"{name}_ci") or (None, None)
        row |= {f"tilt_{name}": own.get(name), f"tilt_{name}_low": low, f"tilt_{name}_high": high}
    return row | {"tilt_p_swap": own.get("p_swap")}


def arrangement_columns(
    arrangement: Arrangement, overall: Mapping[str, Any], parts: Mapping[str, Estimate]
) -> dict[str, Any]:
    """Leakage with injections elsewhere, and `parts` of what is gone of it, with intervals.

    Of two opposed injections there is the shift between their orders alone.
    """
    row = {f"valence_shift_{arrangement}": number_or_none(overall["valence_shift"])}
    topic, shift = _topic(overall), "topic_free_valence_shift"
    row |= {f"{shift}_{arrangement}{end}": number_or_none(topic[f"{shift}{end}"]) for end in ("", "_low", "_high")}
    if arrangement != "opposed":
        row[f"auc_el_{arrangement}"] = number_or_none(overall["auc_el"])
    return row | flat({f"{name}_{arrangement}": found for name, found in parts.items()})


def damage_columns(effects: SideEffects) -> dict[str, Any]:
    """The columns of ``tables/mitigations.csv``, and everything else under its own name; None: not measured."""
    found = {effect.name: effect for effect in effects.effects}
    headline = {"kl": "kl", "perplexity_ratio": "perplexity_neutral", "capability": "capability"}
    row: dict[str, Any] = dict.fromkeys(headline)
    for column, name in headline.items():
        if name in found:
            effect = found[name]
            row[column] = number_or_none(effect.changed if column == "capability" else effect.effect)
    for name, effect in found.items():
        row |= {
            f"{name}_effect": number_or_none(effect.effect),
            f"{name}_low": number_or_none(effect.low),
            f"{name}_high": number_or_none(effect.high),
            f"{name}_verdict": effect.verdict,
        }
    row["damaged"] = ", ".join(effects.damaged)
    return row


def number_or_none(value: Any) -> Any:
    """`value`, or None for NaN, which JSON does not know."""
    return None if isinstance(value, float) and value != value else value
