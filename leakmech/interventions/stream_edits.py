"""Interventions on the residual stream: directions projected out, vectors added, planes rotated.

With unit vectors v (and w orthogonal to it), x the stream or what is added to it,

    ablate     x <- x - strength * (v.x - set_point) v           set_point 0 projects v out
    add        x <- x + strength * stream_norm * v               positive strength moves along v
    rotate_by  turns the part of x in the plane (v, w) by an angle, from v towards w
    rotate_to  turns it to an angle from v; its length, and so that of x, stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError, nearest
from leakmech.interventions.base import Edit, Intervention, Placed
from leakmech.interventions.fields import (
    UNIT_TOLERANCE,
    check_layer,
    check_width,
    choice,
    layer_list,
    numbers,
    refuse_unless_unit,
    tensor_field,
)
from leakmech.interventions.positions import RowPositions
from leakmech.models.layout import Layout
from leakmech.models.sites import STREAM_SITES, check_site


class Along(Protocol):
    """A direction that was fitted, such as :class:`leakmech.mechanism.directions.direction.Direction`."""

    @property
    def vector(self) -> Tensor: ...
    @property
    def site(self) -> str: ...
    @property
    def layer(self) -> int: ...
    @property
    def stream_norm(self) -> float: ...
    @property
    def projections(self) -> Mapping[str, float]: ...
    @property
    def model_hash(self) -> str: ...


EVERYWHERE = "everywhere"
"""The embedding and everything that is added to it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class StreamIntervention(Intervention):
    """Shared by the kinds with vectors at layers: one for all of them, or each layer's own."""

    vectors: Tensor = field(kw_only=False)
    layers: Sequence[int] = ()
    site: str = "resid_post"

    @property
    def n_places(self) -> int:
        """The number of values that a per-layer setting has."""
        return len(self.layers) or 1

    def check(self) -> None:
        self._check_place()
        object.__setattr__(self, "vectors", self._checked_vectors(self.vectors, "vectors"))

    def _check_place(self) -> None:
        choice(self.site, STREAM_SITES, f"{self.kind}: site")
        object.__setattr__(self, "layers", layer_list(self.layers, self.kind))

    def _checked_vectors(self, value: Any, name: str) -> Tensor:
        """Vectors of length 1, one for all layers or one for each."""
        n_dims = value.dim() if isinstance(value, Tensor) and value.dim() == 1 else 2
        vectors = tensor_field(value, f"{self.kind}: {name}", n_dims=n_dims)
        if n_dims == 2 and len(vectors) != self.n_places:
            raise InterventionError(
                f"{self.kind}: {name} are {len(vectors)} for {self.n_places} layers; give one or all"
            )
        refuse_unless_unit(vectors.reshape(-1, vectors.shape[-1]), f"{self.kind}: {name}")
        return vectors

    def _checked_second(self, value: Any) -> Tensor:
        """The second vectors of planes, orthogonal to the first ones."""
        second = self._checked_vectors(value, "second")
        if second.shape != self.vectors.shape or float((second * self.vectors).sum(-1).abs().max()) > UNIT_TOLERANCE:
            raise InterventionError(f"{self.kind}: second must be shaped as vectors and orthogonal to them")
        return second

    def check_fit(self, layout: Layout, /) -> None:
        for layer in self.layers:
            check_layer(layer, layout)
        check_width(self.vectors, layout)
        check_site(self.site, layout)

    def vector(self, place: int) -> Float[Tensor, " d_model"]:
        """The vector of the layer at `place` in `layers`."""
        return self.vectors if self.vectors.dim() == 1 else self.vectors[place]

    def _edit(self, site: str, layer: int, change: Any) -> Edit:
        return Edit(site, layer, change, self.positions, self.condition)

    def _described(self, setting: str) -> str:
        where = f"{self.site} of layers {self.layers[0]} to {self.layers[-1]}" if len(self.layers) > 1 else self.site
        where = f"{self.site} of layer {self.layers[0]}" if len(self.layers) == 1 else where
        return f"{self.kind} ({where}, {setting})"


def shown(values: Sequence[float]) -> str:
    """One number, or the range of several."""
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


@dataclass(frozen=True, eq=False, kw_only=True)
class AblateDirection(StreamIntervention):
    """Project a direction out, or move the projection to a set point.

    Attributes
    ----------
    vectors
        Unit vectors: one for all layers, shape (d_model,), or each layer's own, (n_layers, d_model).
    layers
        Layers at which it acts, ascending; None for the site ``everywhere``.
    site
        A site of the residual stream or of what is added to it; or ``everywhere``: out of the embedding and out of
        everything that any layer adds, so that the stream never has it. Only that one is a change of weights alone.
    strength
        Share of the way to the set point, one number for all layers or one for each: 1 gets there, 0 does nothing.
    set_point
        The projection to reach, in units of the residual stream, one number for all layers or one for each; 0 projects
        out. With ``everywhere``, the projection that the whole stream keeps.

    Raises
    ------
    InterventionError
        A field is out of range, or vectors are not of length 1 or not as many as layers.
    """

    kind = "ablate_direction"
    operation = "x <- x - strength * (v.x - set_point) v"
    conventions: ClassVar[Mapping[str, str]] = {
        "sign": "set_point is a projection on v: turning v round turns its sign",
        "strength": "share of the way to the set point",
        "set_point": "units of the residual stream",
        "vectors": "unit length; one for all layers, or one a layer in the order of `layers`",
    }

    strength: float | Sequence[float] = 1.0
    set_point: float | Sequence[float] = 0.0

    @classmethod
    def of(
        cls,
        direction: Along,
        *,
        layers: Sequence[int] | None = None,
        site: str | None = None,
        strength: float = 1.0,
        set_point: float | str = 0.0,
    ) -> Self:
        """Take a fitted direction out of the stream, or bring its projection to a set point.

        Parameters
        ----------
        direction
            What :func:`leakmech.sentiment_directions` found, or a saved direction.
        layers, site
            Where it acts; by default at the layer and the site of the direction. ``everywhere`` takes no layers.
        strength
            Share of the way to the set point.
        set_point
            A projection in units of the stream, or the condition (``"control"``) whose mean projection it is.

        Raises
        ------
        InterventionError
            The direction has no projection of that condition, or a field is out of range.
        """
        if isinstance(set_point, str):
            if set_point not in direction.projections:
                known = nearest(set_point, direction.projections)
                raise InterventionError(f"{cls.kind}: the direction has no projection of {set_point!r}{known}")
            set_point = direction.projections[set_point]
        site = site or direction.site
        if layers is None:
            layers = () if site == EVERYWHERE else (direction.layer,)
        return cls(
            direction.vector,
            layers=layers,
            site=site,
            strength=strength,
            set_point=set_point,
            model_hash=direction.model_hash,
        )

    def check(self) -> None:
        super().check()
        for name in ("strength", "set_point"):
            object.__setattr__(self, name, numbers(getattr(self, name), self.n_places, f"{self.kind}: {name}"))

    def _check_place(self) -> None:
        if self.site != EVERYWHERE:
            choice(self.site, (*STREAM_SITES, EVERYWHERE), f"{self.kind}: site")
            super()._check_place()
            return
        if self.layers:
            raise InterventionError(f"{self.kind}: site 'everywhere' is all layers; leave `layers` out")
        object.__setattr__(self, "layers", ())

    @property
    def strengths(self) -> tuple[float, ...]:
        """One for each layer."""
        return numbers(self.strength, self.n_places, self.kind)

    @property
    def set_points(self) -> tuple[float, ...]:
        """One for each layer."""
        return numbers(self.set_point, self.n_places, self.kind)

    def places(self, layout: Layout) -> list[tuple[str, int, int, float]]:
        """Site, layer, place in `layers` and set point of every edit."""
        if self.site != EVERYWHERE:
            return [(self.site, layer, place, self.set_points[place]) for place, layer in enumerate(self.layers)]
        # The embedding brings the set point, and what is added to it must then leave it alone.
        added = [(site, layer, 0, 0.0) for layer in range(layout.n_layers) for site in ("attn_out", "mlp_out")]
        return [("resid_pre", 0, 0, self.set_points[0]), *added]

    def edits(self, layout: Layout, /) -> Sequence[Edit]:
        return [
            self._edit(site, layer, _projection(self.vector(place), self.strengths[place], set_point))
            for site, layer, place, set_point in self.places(layout)
        ]

    def __str__(self) -> str:
        return self._described(f"strength {shown(self.strengths)}")


_TOKENS_AT_ONCE = 2048
"""In float32, of a stream in half precision: large temporaries cost more than the arithmetic."""


def _projection(vector: Tensor, strength: float, set_point: float) -> Any:
    placed = Placed(vector)

    def moved(x: Tensor, v: Tensor) -> Tensor:
        tokens = x.to(v.dtype)
        excess = torch.mv(tokens, v)
        if set_point:
            excess = excess - set_point
        # One kernel and one large temporary: this runs at every layer of every step.
        return torch.addr(tokens, excess, v, alpha=-strength).to(x.dtype)

    def change(x: Tensor, _: RowPositions | None) -> Tensor:
        # Not in half precision: the difference of two large projections would be lost.
        exact = torch.promote_types(x.dtype, torch.float32)
        v = placed.like(x, exact)
        tokens = x.reshape(-1, x.shape[-1])
        if x.dtype == exact or len(tokens) <= _TOKENS_AT_ONCE:
            return moved(tokens, v).view(x.shape)
        return torch.cat([moved(part, v) for part in tokens.split(_TOKENS_AT_ONCE)]).view(x.shape)

    return change
