"""Angular steering: the stream is turned in a plane to an angle, whatever its length there.

After Vu & Nguyen 2025 (arXiv 2510.26243). With orthogonal unit vectors v and w, x the stream, p = (v.x) v + (w.x) w its
part in their plane, and a its angle from v towards w,

    x <- x - p + |p| (cos(b) v + sin(b) w),    b = a + strength * (angle - a), the shorter way round;

strength 1 is theirs. The length of x stays. In the *adaptive* variant only tokens are turned that are aligned with v,

    v.x > threshold,

with threshold 0 as published; another one suits streams whose projections are not around 0. They turn what each
sublayer reads; here the stream itself is turned, and with it all that comes after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import Edit, Placed
from leakmech.interventions.fields import numbers
from leakmech.interventions.positions import RowPositions
from leakmech.interventions.stream_edits import StreamIntervention, shown
from leakmech.models.layout import Layout


@dataclass(frozen=True, eq=False, kw_only=True)
class AngularSteering(StreamIntervention):
    """Turn the stream in a plane to an angle, everywhere or where it is aligned with the plane's first vector.

    Attributes
    ----------
    vectors
        Unit vectors v: one for all layers, shape (d_model,), or each layer's own, (n_layers, d_model).
    second
        Unit vectors w of the plane, orthogonal to v, shaped as `vectors`.
    layers
        Layers at which it acts, ascending.
    site
        A site of the residual stream or of what is added to it.
    angle
        Angle to turn to, from v towards w in degrees, one number for all layers or one for each.
    strength
        Share of the way there, one number for all layers or one for each: 1 gets there, 0 does nothing.
    adaptive
        Whether only tokens are turned whose projection on v is larger than `threshold`.
    threshold
        That projection, in units of the stream, one number for all layers or one for each.

    Raises
    ------
    InterventionError
        A field is out of range, or vectors are not of length 1, not orthogonal or not as many as layers.
    """

    kind = "angular_steering"
    operation = "x <- x - p + |p| (cos(b) v + sin(b) w), p the part of x in the plane, b = a + strength * (angle - a)"
    conventions: ClassVar[Mapping[str, str]] = {
        "sign": "angles turn from v (vectors) towards w (second); the shorter way round",
        "angle": "degrees, from v",
        "strength": "share of the way to the angle",
        "adaptive": "acts where v.x > threshold, in units of the residual stream",
        "vectors": "unit length; one for all layers, or one a layer in the order of `layers`",
    }

    second: Tensor = field(kw_only=True)
    angle: float | Sequence[float] = 90.0
    strength: float | Sequence[float] = 1.0
    adaptive: bool = False
    threshold: float | Sequence[float] = 0.0

    def check(self) -> None:
        super().check()
        object.__setattr__(self, "second", self._checked_second(self.second))
        for name in ("angle", "strength", "threshold"):
            object.__setattr__(self, name, numbers(getattr(self, name), self.n_places, f"{self.kind}: {name}"))
        if not isinstance(self.adaptive, bool):
            raise InterventionError(f"{self.kind}: adaptive must be true or false, found {self.adaptive!r}")

    def edits(self, _: Layout, /) -> Sequence[Edit]:
        return [self._edit(self.site, layer, self._change(place)) for place, layer in enumerate(self.layers)]

    def _change(self, place: int) -> Any:
        second = self.second if self.second.dim() == 1 else self.second[place]
        placed = Placed(torch.stack([self.vector(place), second]))
        angle, strength, threshold = (
            numbers(values, self.n_places, self.kind)[place] for values in (self.angle, self.strength, self.threshold)
        )

        def change(x: Float[Tensor, "rows columns d_model"], _: RowPositions | None) -> Tensor:
            plane = placed.like(x, torch.float32)
            a, b = (x.float() @ plane.T).unbind(-1)
            now, length = torch.atan2(b, a), torch.hypot(a, b)
            turned = now + strength * _shorter(math.radians(angle) - now)
            added = torch.stack([length * turned.cos() - a, length * turned.sin() - b], dim=-1)
            if self.adaptive:
                added = torch.where((a > threshold)[..., None], added, 0.0)
            return (x + added @ plane).to(x.dtype)

        return change

    def __str__(self) -> str:
        angles = numbers(self.angle, self.n_places, self.kind)
        return self._described(f"to {shown(angles)} deg{', adaptive' if self.adaptive else ''}")


def _shorter(turn: Tensor) -> Tensor:
    """The same turn as an angle between -pi and pi."""
    return torch.remainder(turn + math.pi, 2 * math.pi) - math.pi
