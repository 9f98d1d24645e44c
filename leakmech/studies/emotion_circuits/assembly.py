"""How many heads and neurons of each layer go into an emotion's circuit.

After arXiv 2510.11328: every layer has a minimum, the rest is shared out in proportion to the influence of its
sublayer (none where that is negative), no layer gives more than a share of its units, and fractions go to the largest
remainders. The original has 560 units (392 neurons, 168 heads; at least 4 and 2 a layer) in a model of 28 layers, 24
heads and 8,192 neurons; here sizes are shares of the model's units, so that circuits of other models are as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from leakmech.core.errors import UsageError

CAP = 0.4
"""The most of a layer's units of one kind."""


@dataclass(frozen=True)
class KindShare:
    """The size of a circuit in units of one kind, and the least of a layer, as shares of all and of a layer's."""

    total: float
    least: float

    def sizes(self, n_layers: int, per_layer: int) -> tuple[int, int]:
        """Units in all, and the least of a layer: one or more where there are as many units as layers."""
        total = max(1, round(self.total * n_layers * per_layer))
        least = min(max(1, round(self.least * per_layer)), total // n_layers)
        return total, least


HEADS = KindShare(168 / (28 * 24), 2 / 24)
NEURONS = KindShare(392 / (28 * 8192), 4 / 8192)


def layer_budget(influence: Sequence[float], *, total: int, least: int, per_layer: int) -> list[int]:
    """Units of each layer.

    Parameters
    ----------
    influence
        Of the sublayer of each layer; negative ones count as 0, and if none is above 0 all count alike.
    total, least, per_layer
        Units in all, the least of a layer, and how many a layer has.

    Raises
    ------
    UsageError
        So many units cannot be placed.
    """
    weights = np.maximum(np.asarray(influence, dtype=float), 0.0)
    weights = weights if weights.any() else np.ones_like(weights)
    most = max(int(CAP * per_layer), least)
    if not least * len(weights) <= total <= most * len(weights):
        raise UsageError(f"circuit: {total} units do not fit into {len(weights)} layers with {least} to {most} of each")
    budget = np.full(len(weights), least)
    while (left := total - int(budget.sum())) > 0:
        room = most - budget
        open_weights = np.where(room > 0, weights, 0.0)
        if not open_weights.any():  # what has influence is full: the others share the rest
            open_weights = np.where(room > 0, 1.0, 0.0)
        wanted = np.minimum(left * open_weights / open_weights.sum(), room)
        given = np.floor(wanted).astype(int)
        remainder = np.where(given < room, wanted - given, -1.0) * (open_weights > 0)
        spare = left - int(given.sum())
        for layer in np.argsort(-remainder, kind="stable")[: min(spare, int((remainder > 0).sum()))]:
            given[layer] += 1
        budget = budget + given
    return budget.tolist()
