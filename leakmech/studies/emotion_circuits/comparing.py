"""The stages ``form``, ``elicitation``, ``strengths``, ``comparison`` and ``outside``: what the model says.

All methods draw replies in one way (greedy, the same penalties), to the same events. Strengths are chosen on tune: the
highest accuracy of the first judge whose replies stay below a bound of perplexity; that curve also says how accurate a
method is where its replies are as fluent as those of another one. What is reported is measured once, on the test file.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.errors import LeakmechWarning
from leakmech.datasets.emotions import EMOTIONS
from leakmech.runs.run import Fragment
from leakmech.studies.emotion_circuits.elicitation import CommandForm, Reply, accepted, groups
from leakmech.studies.emotion_circuits.finding import method_parts
from leakmech.studies.emotion_circuits.judging import (
    OVERALL,
    accuracy_rows,
    collapse_rows,
    confusion,
    difference_rows,
    kappa,
    quality_row,
)
from leakmech.studies.emotion_circuits.methods import Parts
from leakmech.studies.emotion_circuits.workbench import OUTSIDE, Workbench

RATIOS = (1.25, 1.5, 2.0)
"""Perplexities, over that of uncommanded replies, at which methods are compared."""
Row = dict[str, Any]


# -- what the model does by itself -------------------------------------------------------------------------------------


def form(bench: Workbench) -> Fragment:
    """Choose the form in which the model does what is commanded, on tune; one that was asked for is only measured."""
    asked = bench.config.form
    forms: list[CommandForm] = [asked] if asked != "auto" else ["chat", "plain"]
    if asked == "auto" and not bench.loaded.has_chat_template:
        forms = ["plain"]
    rates: dict[str, float] = {}
    for own in forms:
        replies = bench.elicit(bench.asked("tune", form=own), f"form-{own}")
        rates[own] = float(np.mean(accepted(replies, bench.judges[0])))
    chosen = max(rates, key=lambda name: rates[name])
    return {"form": chosen, "form_accuracy": rates}


def elicitation(bench: Workbench) -> Fragment:
    """What the model replies to commands on the events that directions are fitted on."""
    replies = bench.elicit(bench.asked("fit"), "fit")
    frame, headline = bench.judged(replies, "fit"), bench.judge_names[0]
    bench.run.save_table("replies_fit", frame)
    bench.run.save_table("confusion", confusion(frame, headline))
    rows = accuracy_rows(frame, bench.judge_names, **bench.statistics)
    bench.run.save_table("elicitation", pd.DataFrame(rows))
    lacking = [e for e in EMOTIONS if not (frame.loc[frame["emotion"] == e, headline] == e).any()]
    if lacking:
        warnings.warn(
            f"no reply to the command of {', '.join(lacking)} is judged so by {headline!r}: what is found for it is "
            "about the word of the command; try another --form, --model or --judges",
            LeakmechWarning,
            stacklevel=2,
        )
    return {
        "elicitation": {
            "n_replies": len(frame),
            "accuracy": _rates(rows, headline),
            "accuracy_by_judge": {name: _rates(rows, name)[OVERALL]["rate"] for name in bench.judge_names},
            "kappa": kappa(frame, bench.judge_names),
            "complete_groups": len(groups(replies, (frame[headline] == frame["emotion"]).tolist())),
            "n_groups": len(groups(replies)),
            "not_expressed": lacking,
        }
    }


def _rates(rows: Sequence[Row], judge: str) -> dict[str, Row]:
    keys = ("rate", "low", "high")
    return {row["emotion"]: {key: row[key] for key in keys} for row in rows if row["judge"] == judge}


# -- methods -----------------------------------------------------------------------------------------------------------


def method_names(bench: Workbench, parts: Parts) -> list[str]:
    """All methods that are compared."""
    late = ["steering-late"] if "late" in parts.vectors else []
    random = [f"random-{n}" for n in range(1, bench.config.random_circuits + 1)]
    return ["none", "prompting", "steering", *late, "modulation", *random, "other"]


def method_replies(bench: Workbench, parts: Parts, method: str, strength: float, split: str) -> list[Reply]:
    """Replies of one method to the events of a split, as they are meant for each of the six emotions."""
    name = f"{split}-{method}" + (f"-{strength:g}" if strength else "")
    draw = partial(bench.elicit, name=name, decoding=bench.decoding)
    if method == "prompting":
        return draw(bench.asked(split))
    asked = bench.asked(split, [None])
    if method == "none":  # one reply, held against every emotion
        replies = draw(asked)
        return [replace(own, id=f"{own.event}/{emotion}", emotion=emotion) for emotion in EMOTIONS for own in replies]
    found: list[Reply] = []
    for emotion in EMOTIONS:
        found += draw(
            [replace(own, emotion=emotion) for own in asked], interventions=parts.edits(method, emotion, strength)
        )
    return found


def measured(bench: Workbench, parts: Parts, method: str, strength: float, split: str, table: str) -> pd.DataFrame:
    """Judged replies of a method, which are also kept as a table."""
    frame = bench.judged(method_replies(bench, parts, method, strength, split), split)
    bench.run.save_table(table, frame)
    return frame


def strengths(bench: Workbench) -> Fragment:
    """Try all strengths on tune; choose one for each method, and draw the curve of accuracy against fluency."""
    parts, c, headline = method_parts(bench), bench.config, bench.judge_names[0]
    tried = {"none": (0.0,), "prompting": (0.0,), "modulation": c.modulation_scales, "steering": c.steering_strengths}
    if "late" in parts.vectors:
        tried["steering-late"] = c.steering_strengths
    rows: list[Row] = []
    for method, values in tried.items():
        for strength in values:
            table = f"replies_tune_{method}_{strength:g}"
            frame = measured(bench, parts, method, strength, "tune", table)
            accuracy = accuracy_rows(frame, [headline], **bench.statistics)[-1]
            rows.append({
                "method": method, "strength": strength, "accuracy": accuracy["rate"], "accuracy_low": accuracy["low"],
                "accuracy_high": accuracy["high"], "cut": accuracy["cut"],
                **quality_row(frame, **bench.statistics), "n": len(frame), "split": "tune",
            })  # fmt: skip
    usual = rows[0]["perplexity"]
    for row in rows:
        row["ratio"] = row["perplexity"] / usual if row["perplexity"] and usual else None
    chosen = {name: choose(rows, name, c.fluency_bound) for name in tried if name not in ("none", "prompting")}
    bench.run.save_table("curve", pd.DataFrame(rows))
    prompted = next(row["ratio"] for row in rows if row["method"] == "prompting")
    levels = [*RATIOS, prompted] if prompted else [*RATIOS]
    matched = [
        {"ratio": ratio, **{name: matched_accuracy(rows, name, ratio) for name in chosen}} for ratio in sorted(levels)
    ]
    return {"strengths": chosen, "prompting_ratio": prompted, "matched": matched}


def choose(rows: Sequence[Row], method: str, bound: float) -> float:
    """The strength with the highest accuracy among those within the bound of perplexity; the least if none is."""
    own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["strength"])
    within = [row for row in own if row["ratio"] is not None and row["ratio"] <= bound]
    return max(within, key=lambda row: row["accuracy"])["strength"] if within else own[0]["strength"]


def matched_accuracy(rows: Sequence[Row], method: str, ratio: float) -> float | None:
    """Accuracy where replies have that perplexity, on lines between strengths (from 0, which is ``none``).

    The first crossing counts; None where no strength is so dear.
    """
    own = [row for row in rows if row["method"] == method and row["ratio"] is not None]
    points = [(1.0, next(row["accuracy"] for row in rows if row["method"] == "none"))]
    points += [(row["ratio"], row["accuracy"]) for row in sorted(own, key=lambda row: row["strength"])]
    for (left, low), (right, high) in pairwise(points):
        if left <= ratio <= right and right > left:
            return float(low + (high - low) * (ratio - left) / (right - left))
    return None


# -- what is reported --------------------------------------------------------------------------------------------------


def comparison(bench: Workbench) -> Fragment:
    """All methods on the test file."""
    parts, headline = method_parts(bench), bench.judge_names[0]
    names = method_names(bench, parts)
    chosen: dict[str, float] = bench.earlier("strengths")["strengths"]
    frames = {
        name: measured(bench, parts, name, _strength(chosen, name), "test", f"replies_test_{name}") for name in names
    }
    rows = [
        {"method": name, **row}
        for name, frame in frames.items()
        for row in accuracy_rows(frame, bench.judge_names, **bench.statistics)
    ]
    bench.run.save_table("accuracy", pd.DataFrame(rows))
    quality = {name: quality_row(frame, **bench.statistics) for name, frame in frames.items()}
    usual = quality["none"]["perplexity"]
    for own in quality.values():
        own["ratio"] = own["perplexity"] / usual if own["perplexity"] and usual else None
    bench.run.save_table(
        "fluency", pd.DataFrame([{"method": n, "strength": _strength(chosen, n), **q} for n, q in quality.items()])
    )
    template = {name: collapse_rows(frame) for name, frame in frames.items()}
    bench.run.save_table("collapse", pd.DataFrame([{"method": n, **row} for n, own in template.items() for row in own]))
    bench.run.save_table(
        "confusions",
        pd.concat([confusion(frame, headline).assign(method=name) for name, frame in frames.items()]),
    )
    differences = _differences(bench, frames)
    bench.run.save_table("differences", pd.DataFrame(differences))
    accuracy = {name: _rates([row for row in rows if row["method"] == name], headline) for name in names}
    by_judge = {
        judge: {n: _rates([row for row in rows if row["method"] == n], judge)[OVERALL] for n in names}
        for judge in bench.judge_names
    }
    return {
        "accuracy": _with_random(accuracy),
        "accuracy_by_judge": by_judge,
        "fluency": quality,
        "collapse": {
            name: {row["emotion"]: {key: row[key] for key in row if key != "emotion"} for row in own}
            for name, own in template.items()
        },
        "differences": differences,
        "kappa": kappa(pd.concat(list(frames.values())), bench.judge_names),
        "n_test": len(frames["prompting"]),
    }


def _strength(chosen: dict[str, float], method: str) -> float:
    """The chosen strength; circuits that should do worse have that of the emotion's own."""
    if method in ("none", "prompting"):
        return 0.0
    return chosen.get(method, chosen["modulation"])


def _differences(bench: Workbench, frames: dict[str, pd.DataFrame]) -> list[Row]:
    """Modulation against none, random circuits, another emotion's, and steering; steering against none."""
    random = [frame for name, frame in frames.items() if name.startswith("random")]
    pairs = {
        ("modulation", "none"): [frames["none"]],
        ("modulation", "random circuits"): random,
        ("modulation", "other"): [frames["other"]],
        ("modulation", "steering"): [frames["steering"]],
        ("modulation", "prompting"): [frames["prompting"]],
        ("steering", "none"): [frames["none"]],
    }
    return [
        {"method": one, "against": against, **row}
        for (one, against), others in pairs.items()
        for row in difference_rows(frames[one], others, bench.judge_names[0], **bench.statistics)
    ]


def _with_random(accuracy: dict[str, Any]) -> dict[str, Any]:
    """With the mean over random circuits, and the lowest and highest of them, under one name."""
    drawn = [own for name, own in accuracy.items() if name.startswith("random")]
    rates = {emotion: [own[emotion]["rate"] for own in drawn] for emotion in (*EMOTIONS, OVERALL)}
    mean = {e: {"rate": float(np.mean(own)), "low": min(own), "high": max(own)} for e, own in rates.items()}
    return {name: own for name, own in accuracy.items() if not name.startswith("random")} | {"random_circuit": mean}


def outside(bench: Workbench) -> Fragment:
    """The methods on questions that belong to no scenario."""
    if not bench.config.outside_prompts:
        return {"outside": {"skipped": "no prompts outside of the scenarios were asked for"}}
    parts, headline = method_parts(bench), bench.judge_names[0]
    chosen: dict[str, float] = bench.earlier("strengths")["strengths"]
    found: Fragment = {}
    for name in ("none", "prompting", "steering", "modulation", "random-1"):
        frame = measured(bench, parts, name, _strength(chosen, name), OUTSIDE, f"replies_outside_{name}")
        row = accuracy_rows(frame, [headline], **bench.statistics)[-1]
        quality = quality_row(frame, **bench.statistics)
        found[name] = {key: row[key] for key in ("rate", "low", "high", "n")} | {
            key: quality[key] for key in ("perplexity", "distinct_2", "modal_share", "relevance", "words")
        }
    bench.run.save_table("outside", pd.DataFrame([{"method": name, **own} for name, own in found.items()]))
    return {"outside": found}
