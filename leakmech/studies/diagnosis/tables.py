"""Tables of a diagnosis for terminal and markdown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.tables import read_table
from leakmech.reports.cells import DASH, number, with_interval
from leakmech.reports.figures.frames import Frame, head_name, words
from leakmech.reports.tables import Column, Table, estimate_of, value_of

_METHOD_NAMES = {"difference_of_means": "difference of means", "two_means": "2-means"}


def read_components(file: Path) -> pd.DataFrame:
    """A table of a diagnosis, in which the ``name`` of a component was once its ``label``."""
    frame = read_table(file)
    return frame if "name" in frame else frame.rename(columns={"label": "name"})


def headline_rows(frame: pd.DataFrame, target: str) -> pd.DataFrame:
    """The rows of attribution patching for the target: on test where there are such, in the order of tune."""
    chosen = (frame["method"] == "attribution_patching") & (frame["target"] == target)
    if "split" in frame and "test" in set(frame["split"]):
        chosen &= frame["split"] == "test"
    return frame.loc[chosen].dropna(axis=1, how="all").reset_index(drop=True)


def diagnosis_tables(summary: Mapping[str, Any], heads: pd.DataFrame, *, top: int = 10) -> list[Table]:
    """The verdict, directions, the checks of the ranking, and the first heads."""
    return [
        *verdict_tables(summary),
        _directions(summary),
        _checks(summary),
        heads_table(headline_rows(heads, summary["target"]), top=top),
    ]


_VERDICT: Mapping[str, Column] = {
    "set": value_of("set"),
    "share of the shift [95 % CI]": estimate_of("share"),
    "random, mean": value_of("random_mean", number),
    "random, max": value_of("random_max", number),
    "same samples": value_of("share_judged", number),
    "p": value_of("p", number),
}


def verdict_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Ranked sets beside random ones of as many components per layer; none for runs of earlier versions."""
    found = summary.get("verdict")
    if not found:
        return []
    rows = [{**row, "share_ci": [row["low"], row["high"]]} for row in found["rows"]]
    first = rows[0]
    notes = [
        f"interchange on test, target {first['target']}; share: {first['n']} samples{_each(found['completions'])}; "
        f"p and random sets: {first['n_judged']} samples{_each(found['completions_judged'])}",
        f"{first['random_sets']} random sets with as many components in every layer; p: rank among them, not corrected "
        f"for the {len(rows)} rows",
    ]
    sampled = summary.get("sampled")
    if sampled and "share" in sampled:
        notes.append(
            f"{sampled['edit']} of the {sampled['set']}, {sampled['n']} samples with {sampled['generations']} answers "
            f"a prompt: {number(sampled['share'])} of the topic-free valence shift goes; {sampled['random_sets']} "
            f"random sets {number(sampled['random_mean'])} (max {number(sampled['random_max'])}), "
            f"p {number(sampled['p'])}"
        )
    elif sampled:
        notes.append(f"mean ablation of the {sampled['set']}: no verdict ({sampled['reason']})")
    return [Table.of("Do the first components account for more than random ones?", rows, _VERDICT, notes)]


def _each(completions: int | None) -> str:
    return "" if completions is None else f" with {completions} completions each"


def with_test_intervals(direction: Mapping[str, Any]) -> dict[str, Any]:
    """What a summary says of a direction, with the intervals on test samples as those of its numbers."""
    ends = {name.removeprefix("test_"): value for name, value in direction.items() if name.endswith("_ci")}
    return ends | dict(direction)


def _method(record: Mapping[str, Any]) -> str:
    return _METHOD_NAMES.get(record["method"], str(record["method"]))


_DIRECTIONS: Mapping[str, Column] = {
    "direction": value_of("name"),
    "method": _method,
    "layer": value_of("layer"),
    "AUC": estimate_of("auc"),
    "d_z": estimate_of("d_z"),
    "accuracy": value_of("accuracy", number),
    "AUC, random": value_of("random_auc_p95", number),
    "d_z, random": value_of("random_d_z_p95", number),
}


def _directions(summary: Mapping[str, Any]) -> Table:
    found = summary["directions"]
    skipped = [f"{name}: not fitted ({own['skipped']})" for name, own in found.items() if "skipped" in own]
    return Table.of(
        f"Directions of affect, on {summary['dataset']}",
        [{"name": name} | with_test_intervals(own) for name, own in found.items() if "skipped" not in own],
        _DIRECTIONS,
        [
            "target: the best direction in the layer that attribution explains",
            *skipped,
            "random: 95th percentile of random directions",
        ],
    )


def _checks(summary: Mapping[str, Any]) -> Table:
    stable = summary["stability"]
    n = summary.get("n_ranked", {}).get("test")
    rows = [("attribution against exact patching (Spearman)", number(summary["attribution_patching_spearman"]), "0")]
    for name, own in summary["circuits"].items():
        kept = DASH
        if "reason" not in own:
            kept = f"{number(own['kept_top_random_mean'])} (max {number(own['kept_top_random_max'])})"
        rows += [
            (f"shift kept by the first {own['top']} {name}", number(own["kept_top"]), kept),
            (f"CPR of {name} (higher is better)", number(own["cpr"]), number(own["cpr_random"])),
            (f"CMD of {name} (lower is better)", number(own["cmd"]), number(own["cmd_random"])),
        ]
    shared = f"first {stable['top_heads']} heads shared by halves of the samples"
    rows.append((shared, number(stable["heads_between_halves"]), number(stable["heads_chance"])))
    if "heads_tune_and_test" in stable:
        shared = f"first {stable['top_heads']} heads shared by tune and test"
        rows.append((shared, number(stable["heads_tune_and_test"]), number(stable["heads_chance"])))
    rows += [
        ("shift that attention to the injection carries", number(summary["knockout_ceiling"]), DASH),
    ]
    ranked = summary.get("n_ranked", summary["n_samples"])["tune"]
    notes = [f"ranked on {ranked} other samples; target: {summary['target']}"]
    if n is not None:
        notes.append(
            f"halves and overlap on {n} test samples; patching and knock-out on {summary['exact_samples']}, circuits "
            f"on {summary['circuit_samples']}"
        )
    notes += [f"no shares of {name}: {own['reason']}" for name, own in summary["circuits"].items() if "reason" in own]
    return Table("Is the ranking right?", ("check", "measured", "at random"), rows, notes)


_HEADS: Mapping[str, Column] = {
    "rank": value_of("rank", lambda rank: str(int(rank))),
    "head": lambda row: head_name(int(row["layer"]), int(row["head"])),
    "share of the shift": lambda row: with_interval(row["score"], row.get("low"), row.get("high")),
}


def heads_table(frame: pd.DataFrame, *, top: int) -> Table:
    """The first heads of a ranking."""
    first: Frame = frame.iloc[0]
    rows = frame.sort_values("rank").head(top).to_dict("records")
    notes = [f"ranked on tune; shares on {first['n']} {first['split']} samples"] if first.get("split") == "test" else []
    return Table.of(f"Heads by {words(str(first['method']))}, target {first['target']}", rows, _HEADS, notes)


_BEST: Mapping[str, Column] = {
    "method": lambda row: _method(row) + (" (chosen)" if row["has_chosen"] else ""),
    "layer": value_of("layer"),
    "AUC (tune)": value_of("tune_auc", number),
    "AUC": value_of("test_auc", number),
    "d_z": value_of("test_d_z", number),
    "accuracy": value_of("test_accuracy", number),
    "AUC, random": value_of("random_auc_p95", number),
    "AUC, shuffled": value_of("shuffled_auc_p95", number),
}


def directions_table(frame: pd.DataFrame) -> Table:
    """The best layer of each method on tune, with its separation on test."""
    rows = []
    for _, own in frame.groupby("method", sort=False):
        best = own.sort_values(["tune_auc", "tune_d_z"], ascending=False).to_dict("records")[0]
        rows.append(best | {"has_chosen": True in own["chosen"].tolist()})
    notes = ["layer: the best one on tune; random and shuffled: 95th percentiles on test"]
    return Table.of("Directions of affect", rows, _BEST, notes)
