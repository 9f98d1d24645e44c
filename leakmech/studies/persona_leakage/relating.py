"""The stages ``similarity`` and ``analysis``: who is like whom in the base model, and does leakage follow it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.runs.run import Fragment
from leakmech.scoring.statistics import json_number
from leakmech.side_effects.capability import with_count
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio
from leakmech.studies.persona_leakage.analysis import (
    Cell,
    adjusted,
    held_out_rho,
    outliers,
    partial_spearman,
    permutation_p,
    rho_interval,
    spearman,
)
from leakmech.studies.persona_leakage.measuring import Measuring, Subject, Values
from leakmech.studies.persona_leakage.similarity import centred, cosines, js_similarity, shared_words
from leakmech.studies.persona_leakage.teaching import Adapter, measured, replies_of, values_of
from leakmech.studies.persona_leakage.workbench import MODEL_DEFAULT, Workbench, similarity_questions

SOURCE, NEGATIVE, BYSTANDER = "source", "negative", "bystander"
COVARIATES = ("text", "shared_words", "words")
"""What the partial correlation is given."""


# -- similarity --------------------------------------------------------------------------------------------------------


def similarity(bench: Workbench) -> Fragment:
    """Similarity of everybody to every source, by each recipe, in ``tables/similarity.csv``."""
    questions = similarity_questions(bench.config)
    sources = [bench.cast.place(own.id) for own in bench.cast.sources]
    replies = replies_of(bench)
    prompts = [[bench.renderer.ids(question, own) for own in bench.cast.everybody] for question in questions]
    found: dict[str, np.ndarray] = {}
    for span, layer, centroids in _centroids(bench, prompts, replies):
        found[f"{span}_l{layer}"] = cosines(centred(centroids[None]), sources)
    found["js"] = js_similarity(Subject(bench.loaded).variant, prompts, replies, sources, progress=bench.progress)
    texts = [own.prompt for own in bench.cast.everybody]
    embedded = bench.encoder(texts)
    found["text"] = embedded[sources] @ embedded.T
    found["shared_words"] = shared_words(texts, sources)
    words = [len(text.split()) for text in texts]
    frame = pd.concat([
        pd.DataFrame({"source": source.id, "persona": bench.cast.everybody.ids, "words": words}
                     | {name: values[place] for name, values in found.items()})
        for place, source in enumerate(bench.cast.sources)
    ], ignore_index=True)  # fmt: skip
    bench.run.save_table("similarity", frame)
    return {"recipes": list(found), "headline": f"last_l{bench.headline_layer}", "n_questions": len(questions)}


def _centroids(
    bench: Workbench, prompts: Sequence[Sequence[tuple[int, ...]]], replies: Sequence[tuple[int, ...]]
) -> Iterator[tuple[str, int, Float[np.ndarray, "persona d"]]]:
    """Means over questions at the last prompt token and over reply tokens; one question is in memory at a time."""
    total, n = 0.0, 0
    with bench.progress("centroids", total=len(replies), done=0) as advance:
        for own, reply in zip(prompts, replies, strict=True):
            if reply:
                texts = [
                    LabelledText(
                        str(place), (*ids, *reply), ((len(ids) - 1, len(ids)), (len(ids), len(ids) + len(reply)))
                    )
                    for place, ids in enumerate(own)
                ]
                read = read_labelled(bench.loaded, texts, layers=bench.layers, batch_size=bench.config.batch_size)
                total, n = total + read["resid_post"].astype(np.float64), n + 1
            advance(1)
    means = np.asarray(total) / n
    for span, name in enumerate(("last", "reply")):
        for place, layer in enumerate(bench.layers):
            yield name, layer, means[:, span, place]


# -- cells and analysis ------------------------------------------------------------------------------------------------


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
    frames = [_frame(bench, own, near) for own in made]
    everything = pd.concat(frames, ignore_index=True)
    bench.run.save_table("personas", everything)
    bench.run.save_table("kinds", _kinds(everything))
    rows = [_cell_row(bench, own, frame) for own, frame in zip(made, frames, strict=True)]
    _correlate(bench, rows, frames)
    bench.run.save_table("cells", pd.DataFrame([_flat(row) for row in rows]))
    return {
        "cells": rows,
        "controls": [_cell_row(bench, own, _frame(bench, own, near)) for own in control],
        "pairs": [_pooled(bench, list(own)) for own in _by_pair(rows, frames)],
        "agreement": _agreement(everything),
    }


def _frame(bench: Workbench, cell: Fragment, near: pd.DataFrame) -> pd.DataFrame:
    """One row a persona of a cell."""
    behaviour, cast = str(cell["behaviour"]), bench.cast
    measuring = bench.measuring(behaviour)
    n = len(cast.everybody)
    before, after = bench.base_values(behaviour)[:n], values_of(cell)[:n]
    negatives = {own.id for own in cast.negatives[cell["source"]]}
    roles = [SOURCE if own.id == cell["source"] else NEGATIVE if own.id in negatives else BYSTANDER
             for own in cast.everybody]  # fmt: skip
    own = near[near["source"] == cell["source"]].drop(columns="source").reset_index(drop=True)
    return pd.DataFrame({
        "behaviour": behaviour, "source": cell["source"], "seed": cell["seed"],
        "persona": cast.everybody.ids, "kind": [one.kind for one in cast.everybody], "role": roles,
        "base": before.mean(axis=1), "tuned": after.mean(axis=1), "change": (after - before).mean(axis=1),
        "base_rate": measuring.shown(before).mean(axis=1), "tuned_rate": measuring.shown(after).mean(axis=1),
    }).join(own.drop(columns="persona"))  # fmt: skip


def _cell_row(bench: Workbench, cell: Fragment, frame: pd.DataFrame) -> dict[str, Any]:
    """What one adapter did: to its source, to bystanders, to the model."""
    behaviour = str(cell["behaviour"])
    measuring, base = bench.measuring(behaviour), bench.base_values(behaviour)
    after, place = values_of(cell), bench.cast.place(cell["source"])
    change = _estimate(bench, after[place] - base[place])
    rise = _estimate(bench, measuring.shown(after)[place] - measuring.shown(base)[place])
    taken_on = bool(rise.value >= bench.config.least_rise and rise.low > 0)
    damage = bench.earlier("damage")
    return {
        "behaviour": behaviour, "source": cell["source"], "seed": cell["seed"], "unit": measuring.behaviour.unit,
        "negatives": [own.id for own in bench.cast.negatives[cell["source"]]], "examples": cell["examples"],
        "source_base": float(base[place].mean()), "source_tuned": float(after[place].mean()),
        **_named("source_change", change), **_named("source_rise", rise),
        "taken_on": taken_on,
        **(_leakage(bench, measuring, frame, base, after) if taken_on or cell["version"] == "control" else _UNTOLD),
        "everyday_accuracy": cell["everyday_accuracy"], "everyday_accuracy_base": damage["everyday_accuracy"],
        "perplexity_ratio": cell["perplexity"] / damage["perplexity"], "distinct_2": cell["distinct_2"],
    }  # fmt: skip


def _leakage(
    bench: Workbench, measuring: Measuring, frame: pd.DataFrame, base: Values, after: Values
) -> dict[str, Any]:
    """What everybody but the source does; it is told only where the source has taken the behaviour on."""
    bystanders = (frame["role"] == BYSTANDER).to_numpy()
    change = frame["change"].to_numpy(dtype=float)
    rises = (frame["tuned_rate"] - frame["base_rate"]).to_numpy(dtype=float)
    negatives = change[(frame["role"] == NEGATIVE).to_numpy()]
    return {
        **_named("bystander_change", _estimate(bench, change[bystanders])),
        **_named("bystander_rise", _estimate(bench, rises[bystanders])),
        "negative_change": float(negatives.mean()) if len(negatives) else None,
        "bare_change": float((after[-1] - base[-1]).mean()),
        "bare_rise": float((measuring.shown(after)[-1] - measuring.shown(base)[-1]).mean()),
    }


_UNTOLD: Mapping[str, Any] = {
    "bystander_change": None, "bystander_change_ci": [None, None], "bystander_rise": None,
    "bystander_rise_ci": [None, None], "negative_change": None, "bare_change": None, "bare_rise": None,
}  # fmt: skip


def _estimate(bench: Workbench, values: Float[np.ndarray, " n"]) -> Estimate:
    return estimate(with_count(values), mean_ratio, **bench.statistics)


def _named(name: str, own: Estimate) -> dict[str, Any]:
    found = own.to_dict()
    return {name: found["value"], f"{name}_ci": [found["low"], found["high"]]}


def _correlate(bench: Workbench, rows: list[dict[str, Any]], frames: Sequence[pd.DataFrame]) -> None:
    """Add the correlations of cells whose source has taken the behaviour on."""
    similarity_of = bench.earlier("similarity")
    headline, recipes = similarity_of["headline"], similarity_of["recipes"]
    taken = [(row, frame) for row, frame in zip(rows, frames, strict=True) if row["taken_on"]]
    if not taken:
        return
    found = [_cell(frame, headline) for _, frame in taken]
    kinds = taken[0][1]["kind"].tolist()
    p = permutation_p(found, kinds, draws=bench.config.permutations, seed=bench.config.seed)
    p_holm = adjusted(p)
    features = {(c.behaviour, c.source): _features(frame, headline) for c, (_, frame) in zip(found, taken, strict=True)}
    held_out = held_out_rho(found, features) or [float("nan")] * len(found)
    for number, (row, frame) in enumerate(taken):
        cell, there = found[number], found[number].there
        row |= {
            "rho": json_number(cell.rho), "p": json_number(p[number]), "p_holm": json_number(p_holm[number]),
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


def _by_pair(
    rows: Sequence[dict[str, Any]], frames: Sequence[pd.DataFrame]
) -> Iterator[Iterator[tuple[dict[str, Any], pd.DataFrame]]]:
    """The seeds of each behaviour and source."""
    for _, own in groupby(zip(rows, frames, strict=True), key=lambda one: (one[0]["behaviour"], one[0]["source"])):
        yield own


def _pooled(bench: Workbench, own: Sequence[tuple[dict[str, Any], pd.DataFrame]]) -> dict[str, Any]:
    """One behaviour and source over its seeds; rho only over seeds in which the source has taken it on."""
    rows = [row for row, _ in own]
    first = rows[0]
    found: dict[str, Any] = {
        **{name: first[name] for name in ("behaviour", "source", "unit", "negatives")},
        "n_seeds": len(rows), "n_taken_on": sum(row["taken_on"] for row in rows),
        **{name: _mean(row[name] for row in rows)
           for name in ("source_change", "source_rise", "bystander_change", "bystander_rise", "bare_change",
                        "bare_rise")},
        "seeds_source_rise": [row["source_rise"] for row in rows],
        "seeds_bystander_rise": [row["bystander_rise"] for row in rows],
        "seeds_rho": [row.get("rho") for row in rows],
    }  # fmt: skip
    taken = [(row, frame) for row, frame in own if row["taken_on"] and row.get("rho") is not None]
    if not taken:
        return found | {"rho": None, "rho_ci": [None, None], "p": None, "outliers": []}
    headline = bench.earlier("similarity")["headline"]
    drawn = [_cell(frame, headline) for _, frame in taken]
    interval = rho_interval(drawn, draws=bench.config.bootstrap_draws, seed=bench.config.seed)
    mean = replace(drawn[0], change=np.mean([one.change for one in drawn], axis=0))
    kinds = taken[0][1]["kind"].tolist()
    [p] = permutation_p([mean], kinds, draws=bench.config.permutations, seed=bench.config.seed)
    return found | {
        "rho": float(np.mean([row["rho"] for row, _ in taken])),
        "rho_ci": [json_number(interval.low), json_number(interval.high)],
        "p": json_number(p), "outliers": outliers(mean, names=taken[0][1]["persona"].tolist()),
        "rho_partial": _mean(row["rho_partial"] for row, _ in taken),
        "rho_held_out": _mean(row["rho_held_out"] for row, _ in taken),
        "rho_js": _mean(row["rho_by_recipe"]["js"] for row, _ in taken),
    }  # fmt: skip


def _mean(values: Any) -> float | None:
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None


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
            found |= {f"{name[:-3]}_low": value[0], f"{name[:-3]}_high": value[1]}
        elif isinstance(value, dict):
            found |= {f"{name}_{key}": one for key, one in value.items()}
        elif isinstance(value, list):
            found[name] = " ".join(map(str, value))
        else:
            found[name] = value
    return found
