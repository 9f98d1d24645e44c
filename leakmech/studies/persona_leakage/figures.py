"""Figures of the study, from its tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from leakmech.core.tables import read_table
from leakmech.reports.figures.scatter import scatter_panels, value_map
from leakmech.reports.figures.series import named_points
from leakmech.reports.quick_runs import figure_subtitle
from leakmech.studies.persona_leakage.workbench import BYSTANDER

_NAMED = 5
_SHARED = 0.9


def draw(run: Path, summary: Mapping[str, Any]) -> None:
    """Draw every figure that the run has data for; names and data lie in ``figures/``."""
    for name, drawing in drawings(run, summary).items():
        drawing(run / "figures" / name)


def drawings(run: Path, summary: Mapping[str, Any]) -> dict[str, Callable[..., Figure]]:
    """The figures that the run has data for, by name: functions of path, title and width."""
    about = figure_subtitle(summary["model"], summary)
    taken = taken_on(summary)
    found: dict[str, Callable[..., Figure]] = {}
    if taken:
        found["scatter"] = partial(_scatter, run, taken, summary["similarity"]["headline"], subtitle=about)
        found["kinds"] = partial(_kinds, run, subtitle=about)
    if rows := summary["containment"].get("rows"):
        found["containment"] = partial(_containment, pd.DataFrame(rows), subtitle=about)
    return found


def _scatter(
    run: Path, taken: Mapping[tuple[str, str], Any], headline: str, path: Any = None, *, title: Any = None, **look: Any
) -> Figure:
    everything: Any = read_table(run / "tables" / "personas.csv")
    return scatter_panels(
        bystander_points(everything, taken, headline), path, x=(headline, "similarity to the source"),
        y=("change", "change"), rows="behaviour", columns="source", name="name", mark="shares_words",
        title="Change of bystanders over their similarity to the source" if title is None else title,
        note=lambda behaviour, source: f"rho {taken[behaviour, source]['rho']:+.2f}", **look,
    )  # fmt: skip


def _kinds(run: Path, path: Any = None, *, title: Any = None, **look: Any) -> Figure:
    return value_map(
        change_by_kind(run), path,
        label="change", title="Change of bystanders, by kind of persona" if title is None else title, **look,
    )  # fmt: skip


def _containment(rows: pd.DataFrame, path: Any = None, *, title: Any = None, **look: Any) -> Figure:
    return named_points(
        rows, path, x=("coupling", "coupling: rise of the source's rate"),
        y=("spread", "spread: rise of the bystanders' rate"), name="name",
        title="Spread against coupling" if title is None else title, **look,
    )  # fmt: skip


def taken_on(summary: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """The pairs of behaviour and source of which a correlation is told."""
    return {(row["behaviour"], row["source"]): row for row in summary["pairs"] if row["rho"] is not None}


def change_by_kind(run: Path) -> pd.DataFrame:
    """Mean change of bystanders: a row for each behaviour and source, a column for each kind of persona."""
    kinds: Any = read_table(run / "tables" / "kinds.csv")
    kinds["row"] = kinds["behaviour"] + ", " + kinds["source"]
    return kinds.pivot_table(index="row", columns="kind", values="change", sort=False)


def bystander_points(everything: Any, taken: Mapping[tuple[str, str], Any], headline: str) -> pd.DataFrame:
    """Bystanders of the pairs that are drawn, means over seeds."""
    keys = ["behaviour", "source", "persona"]
    own = everything[(everything["role"] == BYSTANDER) & everything["taken_on"]]
    own = own[own["version"] == "behaviour"]
    own = own.groupby(keys, sort=False)[["change", headline, "shared_words"]].mean().reset_index()
    own = own[[pair in taken for pair in zip(own["behaviour"], own["source"], strict=True)]]
    groups = own.groupby(["behaviour", "source"], sort=False)
    order = groups["change"].rank(method="first", ascending=False)
    limit = groups["shared_words"].transform(lambda values: values.quantile(_SHARED))
    return own.assign(
        name=[persona if place <= _NAMED else "" for persona, place in zip(own["persona"], order, strict=True)],
        shares_words=(own["shared_words"] > limit).astype(int),
    )
