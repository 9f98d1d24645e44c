"""Which heads and neurons write a commanded emotion, and circuits of them (arXiv 2510.11328).

With v[e] the direction of an emotion after the sublayer, a the mean activation at the last prompt token under the
command e,

    neuron n    a_n (W_out v[e])_n                 what it adds along the direction
    head h      z_h W_O[h] v[e]                    by how much the projection falls if the head's output is zeroed

both in the stream of the same layer, which is exact where a sublayer is not normalised before it is added. A circuit
has the first units of each layer, as many as its budget says; modulation adds to them what the command adds:

    x <- x + scale (mean over g of a[g, e] - mean over e of a[g, e])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float

from leakmech.core.errors import ModelError, UsageError
from leakmech.interventions.positions import Position
from leakmech.interventions.types import AddToComponents
from leakmech.models.components import Component
from leakmech.models.layout import Layout, write_weights
from leakmech.studies.emotion_circuits.directions import Vectors

Scores = Float[np.ndarray, "emotion layer unit"]


def neuron_scores(
    layout: Layout, means: Float[np.ndarray, "emotion layer d_mlp"], vectors: Sequence[Vectors]
) -> Scores:
    """What each neuron adds along the direction of each emotion; `vectors` are those after the MLP, layer by layer."""
    refuse_post_norm(layout)
    found = [
        means[:, layer] * (vectors[layer] @ _weights(layout.block(layer).neurons_out).T)
        for layer in range(layout.n_layers)
    ]
    return np.stack(found, axis=1)


def head_scores(layout: Layout, means: Float[np.ndarray, "emotion layer width"], vectors: Sequence[Vectors]) -> Scores:
    """What each head adds along the direction of each emotion; `vectors` are those after attention, layer by layer."""
    refuse_post_norm(layout)
    found = []
    for layer in range(layout.n_layers):
        along = means[:, layer] * (vectors[layer] @ _weights(layout.block(layer).heads_out).T)
        found.append(along.reshape(len(along), layout.n_heads, layout.d_head).sum(axis=-1))
    return np.stack(found, axis=1)


def circuit(
    heads: Float[np.ndarray, "layer head"],
    neurons: Float[np.ndarray, "layer neuron"],
    *,
    head_budget: Sequence[int],
    neuron_budget: Sequence[int],
) -> tuple[Component, ...]:
    """The first heads and neurons of each layer by score, layer by layer."""
    chosen: list[Component] = []
    for layer in range(len(heads)):
        for scores, kind, number in ((heads, "head", head_budget), (neurons, "neuron", neuron_budget)):
            first = np.argsort(-scores[layer], kind="stable")[: number[layer]]
            chosen += [Component(layer, kind, int(unit)) for unit in np.sort(first)]  # pyright: ignore[reportArgumentType]
    return tuple(chosen)


def modulation(
    units: Sequence[Component],
    changes: Mapping[str, Float[np.ndarray, "layer width"]],
    layout: Layout,
    *,
    scale: float = 1.0,
    positions: Position = "newest",
    model_hash: str = "",
) -> AddToComponents:
    """Add to the units of a circuit what a command adds to them; `changes` of one emotion by site (z, mlp_post).

    Raises
    ------
    UsageError
        There is no unit.
    """
    if not units:
        raise UsageError("modulation: the circuit has no units")
    heads = [unit for unit in units if unit.kind == "head"]
    neurons = [unit for unit in units if unit.kind == "neuron"]
    values = {}
    if heads:
        z = changes["z"].reshape(layout.n_layers, layout.n_heads, layout.d_head)
        values["heads"] = torch.from_numpy(np.stack([z[unit.layer, unit.index] for unit in heads])).float()
    if neurons:
        active = np.array([changes["mlp_post"][unit.layer, unit.index] for unit in neurons])
        values["neurons"] = torch.from_numpy(active).float()
    return AddToComponents([*heads, *neurons], values=values, scale=scale, positions=positions, model_hash=model_hash)


def jaccard(circuits: Mapping[str, Sequence[Component]]) -> dict[tuple[str, str], float]:
    """Units in common over units in either, for each pair of circuits."""
    sets = {name: set(units) for name, units in circuits.items()}
    return {
        (one, other): len(sets[one] & sets[other]) / max(len(sets[one] | sets[other]), 1)
        for one, other in combinations(sets, 2)
    }


def _weights(module: torch.nn.Module) -> Float[np.ndarray, "d_in d_out"]:
    return write_weights(module).detach().float().cpu().numpy().astype(np.float64)


def refuse_post_norm(layout: Layout) -> None:
    """Refuse models that normalise what a sublayer writes before it is added."""
    if any(block.attention_post_norm is not None or block.mlp_post_norm is not None for block in layout.blocks):
        raise ModelError(
            f"emotion circuits: {layout.architecture} normalises what a sublayer writes, so that a unit's part of it "
            "has no weight of its own; this study does not take such models yet"
        )
