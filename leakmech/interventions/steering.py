"""Vectors added to the residual stream, and planes of it rotated (:mod:`leakmech.interventions.stream_edits`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import Edit, Placed
from leakmech.interventions.fields import choice, numbers
from leakmech.interventions.positions import RowPositions
from leakmech.interventions.stream_edits import Along, StreamIntervention, shown
from leakmech.models.layout import Layout


@dataclass(frozen=True, eq=False, kw_only=True)
class Steer(StreamIntervention):
    """Add a vector to the stream, or turn the stream in a plane.

    With a `condition` (:class:`leakmech.interventions.base.Probe`) it acts only on rows whose prompt fires the probe.

    Attributes
    ----------
    vectors
        Unit vectors v: one for all layers, shape (d_model,), or each layer's own, (n_layers, d_model).
    layers
        Layers at which it acts, ascending.
    site
        A site of the residual stream or of what is added to it.
    mode
        ``add``, ``rotate_by`` or ``rotate_to``.
    strength
        For ``add``: step along v as a share of the stream's RMS length, one number for all layers or one for each.
    stream_norm
        For ``add``: that RMS length (root mean square of the length of the activations), in units of the residual
        stream, one number for all layers or one for each.
    second
        For rotations: unit vectors w of the plane, orthogonal to v, shaped as `vectors`.
    angle
        For rotations: angle from v towards w in degrees, one number for all layers or one for each.

    Raises
    ------
    InterventionError
        A field is out of range or missing in this mode, or vectors are not of length 1, not orthogonal or not as many
        as layers.
    """

    kind = "steer"
    operation = "add: x <- x + strength * stream_norm * v; rotate_by, rotate_to: in the plane of v and w, norm kept"
    conventions: ClassVar[Mapping[str, str]] = {
        "sign": "positive strength moves along v; positive angles turn from v (vectors) towards w (second)",
        "strength": "share of the stream's RMS length (stream_norm)",
        "stream_norm": "root mean square length of the activations, units of the residual stream",
        "angle": "degrees; rotate_by turns by it, rotate_to turns to it",
        "vectors": "unit length; one for all layers, or one a layer in the order of `layers`",
    }

    mode: Literal["add", "rotate_by", "rotate_to"] = "add"
    strength: float | Sequence[float] = 0.0
    stream_norm: float | Sequence[float] = 0.0
    second: Tensor | None = None
    angle: float | Sequence[float] = 0.0

    @classmethod
    def along(
        cls, direction: Along, strength: float, *, layers: Sequence[int] | None = None, site: str | None = None
    ) -> Self:
        """Steps along a fitted direction, in units of the stream that it was fitted on.

        Parameters
        ----------
        direction
            What :func:`leakmech.sentiment_directions` found, or a saved direction; positive affect is along it.
        strength
            Step as a share of the stream's RMS length; negative steps go against the direction.
        layers, site
            Where it acts; by default at the layer and the site of the direction.

        Raises
        ------
        InterventionError
            The site is not one of the residual stream, or a number is out of range.
        """
        return cls(
            direction.vector,
            layers=(direction.layer,) if layers is None else layers,
            site=site or direction.site,
            strength=strength,
            stream_norm=direction.stream_norm,
            model_hash=direction.model_hash,
        )

    def check(self) -> None:
        super().check()
        choice(self.mode, ("add", "rotate_by", "rotate_to"), f"{self.kind}: mode")
        for name, least in (("strength", -math.inf), ("stream_norm", 0.0), ("angle", -math.inf)):
            values = numbers(getattr(self, name), self.n_places, f"{self.kind}: {name}", least=least)
            object.__setattr__(self, name, values)
        if self.mode == "add":
            self._check_addition()
        else:
            self._check_plane()

    def _check_addition(self) -> None:
        if self.second is not None:
            raise InterventionError(f"{self.kind}: mode 'add' takes no second vector")
        if any(strength and not norm for strength, norm in zip(self.strengths, self.stream_norms, strict=True)):
            raise InterventionError(f"{self.kind}: strength is a share of stream_norm; give stream_norm above 0")

    def _check_plane(self) -> None:
        if self.second is None:
            raise InterventionError(f"{self.kind}: mode {self.mode!r} turns in a plane; give its second vector")
        object.__setattr__(self, "second", self._checked_second(self.second))

    @property
    def strengths(self) -> tuple[float, ...]:
        """One for each layer."""
        return numbers(self.strength, self.n_places, self.kind)

    @property
    def stream_norms(self) -> tuple[float, ...]:
        """One for each layer."""
        return numbers(self.stream_norm, self.n_places, self.kind)

    @property
    def angles(self) -> tuple[float, ...]:
        """One for each layer, in degrees."""
        return numbers(self.angle, self.n_places, self.kind)

    def step(self, place: int) -> Float[Tensor, " d_model"]:
        """What is added at the layer at `place` in `layers`."""
        return self.strengths[place] * self.stream_norms[place] * self.vector(place)

    def edits(self, _: Layout, /) -> Sequence[Edit]:
        return [self._edit(self.site, layer, self._change(place)) for place, layer in enumerate(self.layers)]

    def _change(self, place: int) -> Any:
        if self.mode == "add":
            return _addition(self.step(place))
        if self.second is None:
            raise AssertionError("a rotation has a plane")
        second = self.second if self.second.dim() == 1 else self.second[place]
        return _rotation(self.vector(place), second, math.radians(self.angles[place]), to=self.mode == "rotate_to")

    def __str__(self) -> str:
        setting = f"strength {shown(self.strengths)}" if self.mode == "add" else f"{self.mode} {shown(self.angles)} deg"
        return self._described(setting)


def _addition(step: Tensor) -> Any:
    placed = Placed(step)

    def change(x: Tensor, _: RowPositions | None) -> Tensor:
        return x + placed.like(x)

    return change


def _rotation(first: Tensor, second: Tensor, angle: float, *, to: bool) -> Any:
    placed = Placed(torch.stack([first, second]))
    cosine, sine = math.cos(angle), math.sin(angle)

    def change(x: Tensor, _: RowPositions | None) -> Tensor:
        plane = placed.like(x, torch.float32)
        a, b = (x.float() @ plane.T).unbind(-1)
        if to:
            length = torch.hypot(a, b)
            new_a, new_b = length * cosine, length * sine
        else:
            new_a, new_b = a * cosine - b * sine, a * sine + b * cosine
        return (x + torch.stack([new_a - a, new_b - b], dim=-1) @ plane).to(x.dtype)

    return change
