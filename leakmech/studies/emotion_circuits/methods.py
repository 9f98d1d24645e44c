"""Ways to make a model express an emotion: none, a command, steering, a circuit, and circuits that should do worse.

none          the event without a command
prompting     the event with the command
steering      steps along the emotion's direction in the middle layers, at the newest token
steering-late the same with directions of late reply tokens, which cannot be about how a reply opens
modulation    to the units of the emotion's circuit is added what the command adds to them, at the newest token
random-k      the same for units outside of the circuit, as many in each layer
other         the same for the units of another emotion's circuit
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from leakmech.core.seeds import numpy_generator
from leakmech.datasets.emotions import EMOTIONS, Emotion
from leakmech.interventions.base import Intervention
from leakmech.interventions.types import Steer
from leakmech.models.components import Component, ComponentKind
from leakmech.models.layout import Layout
from leakmech.studies.emotion_circuits.components import modulation

STEERED = (0.39, 0.72)
REFERENCE = (0.75, 0.90)
"""Layers by depth: those that are steered, and those whose mean direction influence is measured along."""
Circuits = Mapping[Emotion, Sequence[Component]]


@dataclass(frozen=True, eq=False)
class Parts:
    """What methods are made of."""

    layout: Layout
    model_hash: str
    vectors: Mapping[str, np.ndarray]
    """Directions in the stream after each layer by set (``recipe``, ``late``): shape (emotion, layer, d_model)."""
    stream_norms: np.ndarray
    """RMS length of the stream after each layer."""
    changes: Mapping[str, np.ndarray]
    """What each command adds to heads (``z``) and neurons (``mlp_post``): shape (emotion, layer, width)."""
    circuits: Mapping[str, Circuits]
    """By name: ``modulation``, ``random-1`` … and ``other``."""

    def edits(self, method: str, emotion: Emotion, strength: float) -> list[Intervention]:
        """What the model runs under; nothing for ``none`` and ``prompting``."""
        if method in ("none", "prompting"):
            return []
        if method.startswith("steering"):
            return [self._steer("late" if method.endswith("late") else "recipe", emotion, strength)]
        own = {site: values[EMOTIONS.index(emotion)] for site, values in self.changes.items()}
        return [
            modulation(
                self.circuits[method][emotion], own, self.layout, scale=strength, model_hash=self.model_hash
            )
        ]  # fmt: skip

    def _steer(self, directions: str, emotion: Emotion, strength: float) -> Steer:
        layers = layers_between(STEERED, self.layout.n_layers)
        vectors = self.vectors[directions][EMOTIONS.index(emotion), layers]
        return Steer(
            torch.from_numpy(vectors).float(), layers=layers, site="resid_post", strength=strength,
            stream_norm=self.stream_norms[layers].tolist(), positions="newest", model_hash=self.model_hash,
        )  # fmt: skip


def layers_between(depth: tuple[float, float], n_layers: int) -> list[int]:
    """Layers from one depth up to another, as shares of all; at least one."""
    low, high = depth
    return [n for n in range(n_layers) if low <= n / n_layers < high] or [min(int(low * n_layers), n_layers - 1)]


def random_circuit(chosen: Sequence[Component], layout: Layout, *, number: int, seed: int) -> tuple[Component, ...]:
    """As many units of each kind in each layer, from outside of `chosen` as far as there are others."""
    generator = numpy_generator("random circuit", seed, number, *sorted(map(str, chosen)))
    drawn: list[Component] = []
    counts: Counter[tuple[int, ComponentKind]] = Counter((unit.layer, unit.kind) for unit in chosen)
    for (layer, kind), count in sorted(counts.items()):
        size = layout.n_heads if kind == "head" else layout.d_mlp
        inside = [unit.index or 0 for unit in chosen if unit.layer == layer and unit.kind == kind]
        outside = np.setdiff1d(np.arange(size), inside)
        first = generator.permutation(outside)[:count]
        rest = generator.permutation(np.array(inside, dtype=int))[: count - len(first)]
        drawn += [Component(layer, kind, int(index)) for index in sorted([*first, *rest])]
    return tuple(drawn)


def overlap(drawn: Sequence[Component], chosen: Sequence[Component]) -> float:
    """Share of the drawn units that are in the circuit all the same."""
    return len(set(drawn) & set(chosen)) / max(len(drawn), 1)


def another(emotion: Emotion) -> Emotion:
    """The emotion whose circuit stands in for that of `emotion`."""
    return EMOTIONS[(EMOTIONS.index(emotion) + 1) % len(EMOTIONS)]
