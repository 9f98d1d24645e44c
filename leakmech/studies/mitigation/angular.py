"""Angular steering against leaked affect: the stream is turned to where it points after a neutral sentence.

The plane is that of read affect (:mod:`leakmech.mechanism.directions.plane`), one for all layers. The angle of a layer
is that of the mean stream after neutral sentences, at the prompt's last token and in answers. The adaptive variant
(``angular-adaptive``) turns only tokens that are far out on the plane's first axis v, on either side,

    v.x > n + s    or    v.x < n - s,    s = (mean v.x after positive - after negative sentences) / 4,

with n the mean after neutral ones: half-way to where affect is read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.interventions.base import Intervention, Probe
from leakmech.interventions.types import AngularSteering
from leakmech.mechanism.directions.plane import steering_plane
from leakmech.studies.mitigation.late_outputs import LATE
from leakmech.studies.mitigation.parts import FittedParts

Plane = tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]
"""Two orthogonal unit vectors."""


def angular(parts: FittedParts, strength: float) -> list[Intervention]:
    """Every token from the prompt's last one on, a share of the way to the neutral angle."""
    return turned(parts, _plane(parts), strength)


def angular_adaptive(parts: FittedParts, strength: float) -> list[Intervention]:
    """Only tokens that are far out on either side of affect."""
    return turned(parts, _plane(parts), strength, adaptive=True)


def angular_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    """Every token from the prompt's last one on, all of the way, where the gate fires."""
    return turned(parts, _plane(parts), 1.0, condition=parts.relation_gate.probe(caught))


def _plane(parts: FittedParts) -> Plane:
    return steering_plane(torch.stack([direction.vector for direction in parts.directions]))


def turned(
    parts: FittedParts,
    plane: Plane,
    strength: float | Sequence[float],
    *,
    adaptive: bool = False,
    condition: Probe | None = None,
) -> list[Intervention]:
    """The stream of the upper layers turned in a plane to its angle after a neutral sentence."""
    return list(_turns(parts, plane, strength, adaptive=adaptive, condition=condition))


def _turns(
    parts: FittedParts, plane: Plane, strength: float | Sequence[float], *, adaptive: bool, condition: Probe | None
) -> Iterator[Intervention]:
    first, second = plane
    streams = parts.late_streams
    n_layers = len(streams.layers)
    spread = _spread(parts, first) if adaptive else torch.zeros(n_layers)
    for position in LATE:
        neutral = [torch.tensor(streams.along(axis.expand(n_layers, -1), position)) for axis in plane]
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


def _spread(parts: FittedParts, first: Float[Tensor, " d_model"]) -> Float[Tensor, " layer"]:
    """s of each layer."""
    shown = [parts.activations.layers.index(layer) for layer in parts.late_streams.layers]
    positive, negative = (
        torch.from_numpy(getattr(parts.activations, side)[:, shown].mean(0)).float() @ first
        for side in ("positive", "negative")
    )
    return (positive - negative) / 4
