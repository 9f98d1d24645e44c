"""Tables of a diagnosis for terminal and markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from leakmech.reports.tables import Table

_METHOD_NAMES = {"difference_of_means": "difference of means", "two_means": "2-means"}


def diagnosis_tables(summary: Mapping[str, Any], heads: pd.DataFrame, *, top: int = 10) -> list[Table]:
    """Directions, the checks of the ranking, and the first heads."""
    chosen = heads[(heads["method"] == "attribution_patching") & (heads["target"] == summary["target"])]
    return [_directions(summary), _checks(summary), heads_table(chosen, top=top)]


def _directions(summary: Mapping[str, Any]) -> Table:
    rows, notes = [], ["target: the best direction in the layer that attribution explains"]
    for name, own in summary["directions"].items():
        if "skipped" in own:
            notes.append(f"{name}: not fitted ({own['skipped']})")
            continue
        rows.append(
            (
                name,
                _METHOD_NAMES.get(own["method"], own["method"]),
                str(own["layer"]),
                _number(own["auc"]) + _interval(own.get("test_auc_ci")),
                _number(own["d_z"]) + _interval(own.get("test_d_z_ci")),
                _number(own["accuracy"]),
                _number(own["random_auc_p95"]),
                _number(own["random_d_z_p95"]),
            )
        )
    header = ("direction", "method", "layer", "AUC", "d_z", "accuracy", "AUC, random", "d_z, random")
    notes.append("random: 95th percentile of random directions")
    return Table(f"Directions of affect, on {summary['dataset']}", header, rows, notes)


def _checks(summary: Mapping[str, Any]) -> Table:
    rows = [
        (
            "attribution against exact patching (Spearman)",
            _number(summary["attribution_patching_spearman"]),
            "0",
        )
    ]
    for name, own in summary["circuits"].items():
        kept = f"{_number(own['kept_top_random_mean'])} (max {_number(own['kept_top_random_max'])})"
        rows.append((f"shift kept by the first {own['top']} {name}", _number(own["kept_top"]), kept))
        rows.append((f"CPR of {name} (higher is better)", _number(own["cpr"]), _number(own["cpr_random"])))
        rows.append((f"CMD of {name} (lower is better)", _number(own["cmd"]), _number(own["cmd_random"])))
    stable = summary["stability"]
    rows.append(
        (
            f"first {stable['top_heads']} heads shared by halves of the samples",
            _number(stable["heads_between_halves"]),
            _number(stable["heads_chance"]),
        )
    )
    rows.append(("shift that attention to the injection carries", _number(summary["knockout_ceiling"]), ""))
    notes = [f"ranked on {summary['n_samples']['tune']} other samples; target: {summary['target']}"]
    return Table("Is the ranking right?", ("check", "measured", "at random"), rows, notes)


def heads_table(frame: pd.DataFrame, *, top: int) -> Table:
    """The first heads of a ranking."""
    rows = [
        (str(int(row["rank"])), f"L{int(row['layer'])}H{int(row['head'])}", _number(row["score"]) + _of(row))
        for row in frame.sort_values("rank").head(top).to_dict("records")
    ]
    first = frame.iloc[0]
    title = f"Heads by {str(first['method']).replace('_', ' ')}, target {first['target']}"
    return Table(title, ("rank", "head", "share of the shift"), rows)


def directions_table(frame: pd.DataFrame) -> Table:
    """The best layer of each method on tune, with its separation on test."""
    rows = []
    for method, own in frame.groupby("method", sort=False):
        best = own.sort_values(["tune_auc", "tune_d_z"], ascending=False).to_dict("records")[0]
        rows.append(
            (
                _METHOD_NAMES.get(str(method), str(method)) + (" (chosen)" if own["chosen"].any() else ""),
                str(best["layer"]),
                _number(best["tune_auc"]),
                _number(best["test_auc"]),
                _number(best["test_d_z"]),
                _number(best["test_accuracy"]),
                _number(best["random_auc_p95"]),
                _number(best["shuffled_auc_p95"]),
            )
        )
    header = ("method", "layer", "AUC (tune)", "AUC", "d_z", "accuracy", "AUC, random", "AUC, shuffled")
    notes = ["layer: the best one on tune; random and shuffled: 95th percentiles on test"]
    return Table("Directions of affect", header, rows, notes)


def _of(row: Mapping[str, Any]) -> str:
    return _interval([row["low"], row["high"]]) if "low" in row and not math.isnan(row["low"]) else ""


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


def _interval(ends: list[float] | None) -> str:
    return "" if ends is None else f" [{ends[0]:.2f}, {ends[1]:.2f}]"
