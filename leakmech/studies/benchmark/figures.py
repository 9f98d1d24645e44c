"""Figures of a benchmark, from its summary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from leakmech.reports.figures.canvas import Width
from leakmech.reports.figures.forest import forest_plot

_QUANTITY = "all pairs: how often an answer is more of its injection's sentiment than a control answer (0.5: chance)"


def draw_leakage(
    summary: Mapping[str, Any], path: str | Path | None = None, *, title: str | None = None, width: Width | None = None
) -> Figure:
    """Draw all-pairs leakage by condition, overall, without answers about the injection, and its noise floor."""
    overall = summary["overall"]
    values = {f"{name} injection": (name, summary["conditions"].get(name, {})) for name in ("positive", "negative")}
    values["overall"] = ("control", overall)
    if overall.get("topic_free"):
        values["overall, topic-free"] = ("control", overall["topic_free"])
    floor = {"auc_el": overall.get("noise_floor"), "auc_el_ci": overall.get("noise_floor_ci")}
    values["noise floor"] = ("neutral", floor)
    rows = []
    for name, (condition, own) in values.items():
        if own.get("auc_el") is not None:
            low, high = own.get("auc_el_ci") or (None, None)
            rows.append({"label": name, "condition": condition, "auc_el": own["auc_el"], "low": low, "high": high})
    about = f"{summary['model']} on {summary['dataset']}, {summary['n_samples']} samples".removeprefix("embedded:")
    return forest_plot(
        rows,
        path,
        quantity=_QUANTITY,
        value="auc_el",
        null=0.5,
        title="Expression leakage, with 95 % intervals" if title is None else title,
        subtitle=about,
        width=width,
    )
