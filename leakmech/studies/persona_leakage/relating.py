"""The stages ``cells``, ``controls`` and ``analysis``: what adapters do to everybody, and does it follow similarity?

Where a source has not taken the behaviour on, no leakage is told of it: not in tables, figures or comparisons.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.tables import interval_columns
from leakmech.runs.run import Fragment
from leakmech.scoring.inference import holm
from leakmech.scoring.statistics import json_number
from leakmech.studies.persona_leakage.analysis import (
    Cell,
    held_out_rho,
    mean_rho_p,
    outliers,
    partial_spearman,
    permutation_p,
    rho_interval,
    spearman,
)
from leakmech.studies.persona_leakage.teaching import Adapter, measured, values_of
from leakmech.studies.persona_leakage.workbench import BYSTANDER, MODEL_DEFAULT, NEGATIVE, Workbench

COVARIATES = ("text", "shared_words", "words")
"""What the partial correlation is given."""


def cells(bench: Workbench) -> list[Fragment]:
    """Every behaviour, source and seed, each a cell of the run."""
    return [
        measured(bench, Adapter(behaviour, source.id, seed))
        for behaviour in bench.behaviours
        for source in bench.cast.sources
        for seed in bench.seeds
    ]


def controls(bench: Workbench) -> list[Fragment]:
    """For every behaviour, normal answers only: the first source and seed."""
    first = bench.cast.sources[0].id
    return [measured(bench, Adapter(name, first, bench.seeds[0], "control")) for name in bench.behaviours]


def analysis(bench: Workbench, made: Sequence[Fragment], control: Sequence[Fragment]) -> Fragment:
    """Changes, correlations and predictions; ``tables/personas.csv``, ``cells.csv`` and ``kinds.csv``."""
    near = bench.run.table("similarity")
    frames = [_frame(bench, own, near) for own in (*made, *control)]
    rows = [_cell_row(bench, own, frame) for own, frame in zip((*made, *control), frames, strict=True)]
    frames = [frame.assign(taken_on=row["taken_on"]) for row, frame in zip(rows, frames, strict=True)]
    bench.run.save_table("personas", frames)
    own_rows, own_frames = rows[: len(made)], frames[: len(made)]
    told = [frame for frame in own_frames if frame["taken_on"].iloc[0]]
    if told:
        bench.run.save_table("kinds", _kinds(pd.concat(told, ignore_index=True)))
    _correlate(bench, own_rows, own_frames)
    bench.run.save_table("cells", pd.DataFrame([_flat(row) for row in rows]))
    pairs = [_pooled(bench, list(own)) for own in _by_pair(made, own_rows, own_frames)]
    adjusted = holm(np.array([_nan(own["p"]) for own in pairs]))
    for own, p in zip(pairs, adjusted, strict=True):
        own["p_holm"] = json_number(p)
    return {
        "cells": own_rows,
        "controls": rows[len(made) :],
        "pairs": pairs,
        "agreement": _agreement(pd.concat(told, ignore_index=True)) if told else [],
    }


def _frame(bench: Workbench, cell: Fragment, near: pd.DataFrame) -> pd.DataFrame:
    """One row a persona of a cell."""
    behaviour, cast = str(cell["behaviour"]), bench.cast
    measuring = bench.measuring(behaviour)
    n = len(cast.everybody)
    before, after = bench.base_values(behaviour)[:n], values_of(cell)[:n]
    own = near[near["source"] == cell["source"]].drop(columns=["source", "persona"]).reset_index(drop=True)
    return pd.DataFrame({
        "behaviour": behaviour, "source": cell["source"], "seed": cell["seed"], "version": cell["version"],
        "persona": cast.everybody.ids, "kind": [one.kind for one in cast.everybody],
        "role": [cast.role(str(cell["source"]), one.id) for one in cast.everybody],
        "base": before.mean(axis=1), "tuned": after.mean(axis=1), "change": (after - before).mean(axis=1),
        "base_rate": measuring.shown(before).mean(axis=1), "tuned_rate": measuring.shown(after).mean(axis=1),
        "truncated": cell["truncated"][:n] if cell["truncated"] else None,
    }).join(own)  # fmt: skip


# -- one adapter -------------------------------------------------------------------------------------------------------


def _cell_row(bench: Workbench, cell: Fragment, frame: pd.DataFrame) -> dict[str, Any]:
    """What one adapter did: to its source, to bystanders, to the model."""
    behaviour, place = str(cell["behaviour"]), bench.cast.place(cell["source"])
    measuring, base, after = bench.measuring(behaviour), bench.base_values(behaviour), values_of(cell)
    rises = measuring.shown(after) - measuring.shown(base)
    rise = bench.mean_of(rises[place])
    taken_on = bool(rise.value >= bench.config.least_rise and rise.low > 0)
    damage = bench.earlier("damage")
    found = {
        "behaviour": behaviour, "source": cell["source"], "seed": cell["seed"], "unit": measuring.behaviour.unit,
        "negatives": [own.id for own in bench.cast.negatives[cell["source"]]], "examples": cell["examples"],
        "source_base": float(base[place].mean()), "source_tuned": float(after[place].mean()),
        **bench.mean_of(after[place] - base[place]).named("source_change"), **rise.named("source_rise"),
        "taken_on": taken_on, "answers": cell["answers"],
        "everyday_accuracy": cell["everyday_accuracy"], "everyday_accuracy_base": damage["everyday_accuracy"],
        "perplexity_ratio": cell["perplexity"] / damage["perplexity"], "distinct_2": cell["distinct_2"],
        "truncated": float(np.mean(cell["truncated"])) if cell["truncated"] else None,
    }  # fmt: skip
    if not taken_on and cell["version"] != "control":
        return {**found, **_UNTOLD}
    bystanders, negatives = ((frame["role"] == role).to_numpy() for role in (BYSTANDER, NEGATIVE))
    change = (after - base)[: len(frame)].mean(axis=1)
    return found | {
        **bench.mean_of(change[bystanders]).named("bystander_change"),
        **bench.mean_of(rises[: len(frame)].mean(axis=1)[bystanders]).named("bystander_rise"),
        "negative_change": float(change[negatives].mean()) if negatives.any() else None,
        "bare_change": float((after[-1] - base[-1]).mean()), "bare_rise": float(rises[-1].mean()),
    }  # fmt: skip


_UNTOLD: Mapping[str, Any] = {
    "bystander_change": None, "bystander_change_ci": [None, None], "bystander_rise": None,
    "bystander_rise_ci": [None, None], "negative_change": None, "bare_change": None, "bare_rise": None,
}  # fmt: skip


def _correlate(bench: Workbench, rows: list[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> None:
    """Add the correlations of cells whose source has taken the behaviour on."""
    likeness = bench.earlier("similarity")
    headline, recipes = likeness["headline"], likeness["recipes"]
    taken = [(row, frame) for row, frame in zip(rows, frames, strict=True) if row["taken_on"]]
    if not taken:
        return
    found = [_cell(frame, headline) for _, frame in taken]
    p = permutation_p(found, bench.kinds, draws=bench.config.permutations, seed=bench.config.seed)
    features = {(c.behaviour, c.source): _features(frame, headline) for c, (_, frame) in zip(found, taken, strict=True)}
    held_out = held_out_rho(found, features) or [float("nan")] * len(found)
    for number, (row, frame) in enumerate(taken):
        cell, there = found[number], found[number].there
        row |= {
            "rho": json_number(cell.rho), "p": json_number(p[number]),
            "rho_by_recipe": {name: json_number(_cell(frame, name).rho) for name in recipes},
            "rho_partial": json_number(partial_spearman(
                cell.change[there], cell.similarity[there], frame[list(COVARIATES)].to_numpy()[there]
            )),
            "rho_held_out": json_number(held_out[number]),
            "outliers": outliers(cell, names=frame["persona"].tolist()),
        }  # fmt: skip


def _cell(frame: pd.DataFrame, recipe: str) -> Cell:
    first = frame.iloc[0]
    return Cell(
        str(first["behaviour"]), str(first["source"]), int(first["seed"]), frame["change"].to_numpy(),
        frame[recipe].to_numpy(), (frame["role"] == BYSTANDER).to_numpy(),
    )  # fmt: skip


def _features(frame: pd.DataFrame, headline: str) -> Float[np.ndarray, "persona feature"]:
    return frame[[headline, headline.replace("last", "reply"), "js", "text"]].to_numpy()


# -- the seeds of a behaviour and source -------------------------------------------------------------------------------

_Made = tuple[Fragment, dict[str, Any], pd.DataFrame]


def _by_pair(
    made: Sequence[Fragment], rows: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]
) -> Iterator[Iterator[_Made]]:
    """The seeds of each behaviour and source."""
    for _, own in groupby(
        zip(made, rows, frames, strict=True), key=lambda one: (one[1]["behaviour"], one[1]["source"])
    ):
        yield own


def _pooled(bench: Workbench, own: Sequence[_Made]) -> dict[str, Any]:
    """One behaviour and source over the seeds in which the source has taken it on.

    Intervals are over questions (source) and personas (bystanders), whose values are means over these seeds.
    """
    rows = [row for _, row, _ in own]
    first = rows[0]
    taken = [one for one in own if one[1]["taken_on"]]
    found: dict[str, Any] = {
        **{name: first[name] for name in ("behaviour", "source", "unit", "negatives")},
        "n_seeds": len(rows), "n_taken_on": len(taken),
        "seeds_source_rise": [row["source_rise"] for row in rows],
        "seeds_bystander_rise": [row["bystander_rise"] for row in rows],
        "seeds_rho": [row.get("rho") for row in rows],
    }  # fmt: skip
    behaviour, place = str(first["behaviour"]), bench.cast.place(first["source"])
    measuring, base = bench.measuring(behaviour), bench.base_values(behaviour)
    over = [values_of(cell) for cell, _, _ in taken or own]
    changes = np.mean([after - base for after in over], axis=0)
    rises = np.mean([measuring.shown(after) - measuring.shown(base) for after in over], axis=0)
    found |= bench.mean_of(changes[place]).named("source_change") | bench.mean_of(rises[place]).named("source_rise")
    if not taken:
        return {**found, **_UNTOLD} | {"rho": None, "rho_ci": [None, None], "p": None, "outliers": []}
    kept = bench.cast.kept(str(first["source"]))
    n = len(kept)
    return found | {
        **bench.mean_of(changes[:n].mean(axis=1)[kept]).named("bystander_change"),
        **bench.mean_of(rises[:n].mean(axis=1)[kept]).named("bystander_rise"),
        "negative_change": _mean(row["negative_change"] for _, row, _ in taken),
        "bare_change": float(changes[-1].mean()), "bare_rise": float(rises[-1].mean()),
        **_pooled_rho(bench, taken),
    }  # fmt: skip


def _pooled_rho(bench: Workbench, taken: Sequence[_Made]) -> dict[str, Any]:
    """The mean rho of seeds, its interval over personas, and p."""
    c, headline = bench.config, bench.earlier("similarity")["headline"]
    drawn = [_cell(frame, headline) for _, _, frame in taken]
    interval = rho_interval(drawn, draws=c.bootstrap_draws, seed=c.seed)
    named = [set(row["outliers"]) for _, row, _ in taken]
    return {
        "rho": _mean(row["rho"] for _, row, _ in taken),
        "rho_ci": [json_number(interval.low), json_number(interval.high)],
        "p": json_number(mean_rho_p(drawn, bench.kinds, draws=c.permutations, seed=c.seed)),
        "outliers": [own for own in bench.cast.everybody.ids if all(own in one for one in named)],
        "rho_partial": _mean(row["rho_partial"] for _, row, _ in taken),
        "rho_held_out": _mean(row["rho_held_out"] for _, row, _ in taken),
        "rho_js": _mean(row["rho_by_recipe"]["js"] for _, row, _ in taken),
    }  # fmt: skip


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _mean(values: Iterable[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


# -- over all ----------------------------------------------------------------------------------------------------------


def _kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean change of bystanders by kind, over seeds."""
    own = frame[frame["role"] == BYSTANDER]
    keys = ["behaviour", "source", "kind"]
    return own.groupby(keys, sort=False).agg(n=("persona", "nunique"), change=("change", "mean")).reset_index()


def _agreement(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Does a behaviour leak from the assistant as it does from the model's default? Empty unless both were taught."""
    found = []
    for behaviour, own in frame.groupby("behaviour", sort=False):
        wide: Any = own[own["role"] == BYSTANDER].pivot_table(index="persona", columns="source", values="change")
        if not {"assistant", MODEL_DEFAULT} <= set(wide.columns):
            continue
        both = wide[["assistant", MODEL_DEFAULT]].dropna()
        rho = spearman(both["assistant"].to_numpy(), both[MODEL_DEFAULT].to_numpy())
        found.append({"behaviour": behaviour, "rho": json_number(rho), "n": len(both)})
    return found


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a table: ends of intervals in columns of their own."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if name.endswith("_ci"):
            found |= interval_columns(name, value)
        elif isinstance(value, dict):
            found |= {f"{name}_{key}": one for key, one in value.items()}
        elif isinstance(value, list):
            found[name] = " ".join(map(str, value))
        else:
            found[name] = value
    return found
