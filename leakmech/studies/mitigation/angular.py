"""Angular steering against leaked affect: the stream is turned to where it points after a neutral sentence.

The plane is that of read affect (:mod:`leakmech.mechanism.directions.plane`), one for all layers. The angle of a layer
is that of the mean stream after neutral sentences, at the prompt's last token and in answers. The adaptive variant
(``angular-adaptive``) turns only tokens that are far out on the plane's first axis v, on either side,

    v.x > n + s    or    v.x < n - s,    s = (mean v.x after positive - after negative sentences) / 4,

with n the mean after neutral ones: half-way to where affect is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from leakmech.interventions.base import Intervention, Probe
from leakmech.interventions.types import AngularSteering
from leakmech.mechanism.directions.plane import steering_plane
from leakmech.studies.mitigation.late_outputs import LATE
from leakmech.studies.mitigation.parts import FittedParts


def angular(parts: FittedParts, strength: float) -> list[Intervention]:
    """Every token from the prompt's last one on, a share of the way to the neutral angle."""
    return list(_turns(parts, strength, adaptive=False))


def angular_adaptive(parts: FittedParts, strength: float) -> list[Intervention]:
    """Only tokens that are far out on either side of affect."""
    return list(_turns(parts, strength, adaptive=True))


def angular_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    """Every token from the prompt's last one on, all of the way, where the gate fires."""
    return list(_turns(parts, 1.0, adaptive=False, condition=parts.relation_gate.probe(caught)))


def _turns(
    parts: FittedParts, strength: float, *, adaptive: bool, condition: Probe | None = None
) -> Iterator[Intervention]:
    first, second = steering_plane(torch.stack([direction.vector for direction in parts.directions]))
    streams = parts.late_streams
    shown = [parts.activations.layers.index(layer) for layer in streams.layers]
    positive, negative = (
        torch.from_numpy(getattr(parts.activations, side)[:, shown].mean(0)).float() @ first
        for side in ("positive", "negative")
    )
    spread = (positive - negative) / 4
    for position in LATE:
        neutral = [torch.tensor(streams.along(axis.expand(len(shown), -1), position)) for axis in (first, second)]
        for sign in (1, -1) if adaptive else (1,):
            angle = torch.atan2(neutral[1], sign * neutral[0]) * 180 / math.pi
            yield AngularSteering(
                sign * first,
                second=second,
                layers=streams.layers,
                angle=angle.tolist(),
                strength=strength,
                adaptive=adaptive,
                threshold=(sign * neutral[0] + spread).tolist() if adaptive else 0.0,
                positions=position,
                condition=condition,
                model_hash=parts.loaded.base_hash,
            )
