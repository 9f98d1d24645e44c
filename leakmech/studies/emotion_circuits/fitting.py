"""The stage ``directions``: five sets of directions, and what each layer's are worth.

    recipe        the original's: all groups, last token of the prompt
    accepted      the same from groups whose six replies were all accepted, where there are at least 30
    reply         mean over the tokens of the reply
    late          the same without the first tokens, so that no direction is about how a reply opens
    neutral-out   recipe, less the first components of neutral events without a command (half of their variance)

Directions of commands can be directions of words. So each set is held against groups of a theme that was left out
(which the word passes), against commands in other words (which it does not), and against the embeddings of the words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from leakmech.core.tensor_files import tensor_files
from leakmech.datasets.emotions import EMOTIONS
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.load import LoadedModel
from leakmech.runs.run import Fragment
from leakmech.scoring.statistics import json_number
from leakmech.studies.emotion_circuits.directions import (
    commanded_directions,
    cosines,
    cross_theme,
    cross_wording,
    first_component_valence,
    neutral_components,
    without,
)
from leakmech.studies.emotion_circuits.elicitation import WORDINGS, groups
from leakmech.studies.emotion_circuits.methods import STEERED, layers_between
from leakmech.studies.emotion_circuits.reading import Reading, read_groups
from leakmech.studies.emotion_circuits.workbench import Workbench

LEAST_ACCEPTED = 30
"""Complete groups of accepted replies below which no directions are fitted on them alone."""
POST = "resid_post"
_NEUTRAL_SHARE = 0.5

Sets = dict[str, Float[np.ndarray, "emotion layer d_model"]]


def directions(bench: Workbench) -> Fragment:
    """Fit all sets of directions, judge them, save those of the recipe, and keep what commands add to units."""
    asked = bench.asked("fit")
    middle = middle_site(bench)
    replies, k = bench.elicit(asked, "fit"), bench.config.late_tokens
    read = read_groups(
        bench.loaded, asked, replies=replies, late=k, streams=tuple({middle: 0, POST: 0}), **bench.running
    )
    reading = read["last"]
    judged = bench.run.table("replies_fit")  # of these replies, in their order
    complete = groups(replies, (judged[bench.judge_names[0]] == judged["emotion"]).tolist())
    sets: Sets = {"recipe": _fitted(reading, POST)}
    skipped: dict[str, str] = {}
    if len(complete) >= LEAST_ACCEPTED:
        sets["accepted"] = _fitted(reading, POST, complete)
    else:
        skipped["accepted"] = f"{len(complete)} complete groups of accepted replies, {LEAST_ACCEPTED} are needed"
    for name, first_read in (("reply", 0), ("late", k)):
        if name in read:
            sets[name] = _fitted(read[name], POST)
        else:
            skipped[name] = f"no event has six replies of more than {first_read} tokens"
    sets["neutral-out"] = _without_neutral(bench, sets["recipe"])
    rows = _quality(bench, read, sets)
    bench.run.save_table("directions", pd.DataFrame(rows))
    norms = np.sqrt((reading.streams[POST].astype(np.float64) ** 2).sum(axis=-1).mean(axis=(0, 1)))
    late_units = read["late"].changes if "late" in read else {}
    bench.run.save_arrays(
        "directions",
        middle=_fitted(reading, middle),
        norms=norms,
        **{f"set_{name.replace('-', '_')}": own for name, own in sets.items()},
        **{f"late_{site}": own for site, own in late_units.items()},
        **{f"mean_{site}": own for site, own in reading.means.items()},
    )
    layer = _saved_layer(bench, rows)
    _save(bench, sets["recipe"][:, layer], layer, float(norms[layer]), reading)
    bench.run.save_table("emotion_cosines", _cosine_frame(sets, layer))
    bench.run.save_table("emotion_components", _component_frame(sets, layer))
    return {
        "directions": {
            "n_groups": len(reading.events),
            "layer": layer,
            "skipped": skipped,
            **{name: _of_layer(rows, name, layer) for name in sets},
        }
    }


def middle_site(bench: Workbench) -> str:
    """The stream after attention; where attention and MLP run side by side, that after both."""
    return POST if bench.layout.parallel else "resid_mid"


def _fitted(reading: Reading, site: str, events: list[str] | None = None) -> Float[np.ndarray, "emotion layer d"]:
    chosen = np.isin(reading.events, events if events is not None else reading.events)
    n_layers = reading.streams[site].shape[2]
    return np.stack([commanded_directions(reading.of(site, layer)[chosen]) for layer in range(n_layers)], axis=1)


def _without_neutral(bench: Workbench, recipe: np.ndarray) -> np.ndarray:
    neutral = [own for own in bench.asked("fit", [None]) if own.valence == "neutral"]
    texts = [LabelledText.at_last(own.id, own.ids) for own in neutral]
    h = read_labelled(bench.loaded, texts, sites=[POST], **bench.running)[POST][:, 0].astype(np.float64)
    left = [
        without(recipe[:, layer], neutral_components(h[:, layer], share=_NEUTRAL_SHARE)) for layer in range(h.shape[1])
    ]
    return np.stack(left, axis=1)


# -- what they are worth -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Held:
    """Groups that a set is tested on: of left-out themes, and under other words; None where there are none."""

    own: Reading
    other: Reading | None


def _quality(bench: Workbench, read: Mapping[str, Reading], sets: Sets) -> list[dict[str, Any]]:
    reworded = bench.asked("tune", wording="second")
    second = read_groups(bench.loaded, reworded, streams=(POST,), components=(), **bench.running)["last"]
    embedded = embedding_vectors(bench.loaded)
    rows = []
    for name, vectors in sets.items():
        in_replies = name in read
        held = _Held(read[name] if in_replies else read["last"], None if in_replies else second)
        for layer in range(vectors.shape[1]):
            row = _quality_row(bench, held, vectors[:, layer], layer)
            row["cosine_recipe"] = float(np.diagonal(cosines(vectors[:, layer], sets["recipe"][:, layer])).mean())
            row["cosine_embedding"] = float(np.diagonal(cosines(vectors[:, layer], embedded)).mean())
            rows.append({"set": name, "layer": layer, **row})
    return rows


def _quality_row(bench: Workbench, held: _Held, vectors: np.ndarray, layer: int) -> dict[str, Any]:
    h = held.own.of(POST, layer)
    found = cross_theme(h, held.own.themes, draws=bench.config.random_draws, seed=bench.config.seed)
    between = cosines(vectors, vectors)[~np.eye(len(EMOTIONS), dtype=bool)]
    row = {
        "cross_theme": found.overall, "cross_theme_null": float(np.mean(found.null)), "cross_theme_p": found.p,
        "valence_of_first_component": first_component_valence(vectors), "cosine_between": float(between.mean()),
    }  # fmt: skip
    if held.other is None:
        return {**row, "cross_wording": None}
    by_emotion = cross_wording(vectors, held.other.of(POST, layer))
    return {**row, "cross_wording": float(np.mean(list(by_emotion.values()))),
            **{f"cross_wording_{name}": value for name, value in by_emotion.items()}}  # fmt: skip


def embedding_vectors(loaded: LoadedModel) -> Float[np.ndarray, "emotion d_model"]:
    """Directions of the emotions' names in the embedding table: the null of what a command's direction could be."""
    model: Any = loaded.model
    table = model.get_input_embeddings().weight.detach().float().cpu()
    means = np.stack([
        table[loaded.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]].mean(dim=0).double().numpy()
        for name in WORDINGS["first"].values()
    ])  # fmt: skip
    centred = means - means.mean(axis=0)
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def _saved_layer(bench: Workbench, rows: list[dict[str, Any]]) -> int:
    """Of the layers that are steered the one whose recipe holds best under other words; the first of equals."""
    inner = layers_between(STEERED, bench.layout.n_layers)
    held = {row["layer"]: row["cross_wording"] for row in rows if row["set"] == "recipe" and row["layer"] in inner}
    return max(inner, key=lambda layer: held[layer])


def _of_layer(rows: list[dict[str, Any]], name: str, layer: int) -> Fragment:
    row = next(row for row in rows if row["set"] == name and row["layer"] == layer)
    return {
        key: value if isinstance(value, int) else json_number(value)
        for key, value in row.items()
        if key not in ("set", "layer") and value is not None
    }


def _save(bench: Workbench, vectors: np.ndarray, layer: int, norm: float, reading: Reading) -> None:
    for emotion, vector in zip(EMOTIONS, vectors, strict=True):
        h = reading.of(POST, layer)
        projections = h @ vector
        own = EMOTIONS.index(emotion)
        others = np.delete(projections, own, axis=1).mean()
        direction = Direction(
            vector=torch.from_numpy(vector).float(), site=POST, layer=layer, position="last_prompt",
            method="commanded_minus_mean", kind="commanded", stream_norm=norm, projections={},
            threshold=float((projections[:, own].mean() + others) / 2), label=emotion,
            model_hash=bench.loaded.weights_hash, data_hash=bench.splits["fit"].content_hash,
        )  # fmt: skip
        files: tuple[Path, ...] = tensor_files(direction.save(bench.run.path / "directions", emotion))
        bench.run.wrote(*files)


def _cosine_frame(sets: Sets, layer: int) -> pd.DataFrame:
    """Cosines between the emotions' directions of the recipe at the saved layer."""
    found = cosines(sets["recipe"][:, layer], sets["recipe"][:, layer])
    return pd.DataFrame(found, index=list(EMOTIONS), columns=list(EMOTIONS)).rename_axis("direction").reset_index()


def _component_frame(sets: Sets, layer: int) -> pd.DataFrame:
    """The emotions' directions in their first two principal components."""
    vectors = sets["recipe"][:, layer]
    left, lengths, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    scores = left[:, :2] * lengths[:2]
    return pd.DataFrame({"emotion": list(EMOTIONS), "first": scores[:, 0], "second": scores[:, 1]})
