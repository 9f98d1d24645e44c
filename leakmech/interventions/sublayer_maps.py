"""Interventions that map what a sublayer adds to the stream, by a matrix of low rank.

With y the output of attention or of the MLP, A of shape (d_model, rank) and B of shape (rank, d_model),

    y <- y + strength * A B y.

What B does not see stays as it is: if B K = 0 for the outputs K of some prompts, nothing changes there. The map is
linear, so it can be folded into the matrix that writes y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.interventions.base import Edit, Intervention, Placed
from leakmech.interventions.fields import check_layer, check_width, choice, layer_list, low_rank_maps, number
from leakmech.interventions.positions import RowPositions
from leakmech.models.layout import Layout

_SITES = ("attn_out", "mlp_out")


@dataclass(frozen=True, eq=False, kw_only=True)
class MapSublayer(Intervention):
    """Add a linear map of low rank of what attention or MLP adds to the stream.

    Attributes
    ----------
    writes
        A of each layer, shape (n_layers, d_model, rank).
    reads
        B of each layer, shape (n_layers, rank, d_model).
    layers
        Layers at which it acts, ascending.
    site
        ``attn_out`` or ``mlp_out``.
    strength
        Factor of the map: 1 is what was fitted, 0 does nothing.

    Raises
    ------
    InterventionError
        A field is out of range, or the matrices are not as many as layers or do not fit one another.
    """

    kind = "map_sublayer"
    operation = "y <- y + strength * A B y, y what the sublayer adds to the stream"
    conventions: ClassVar[Mapping[str, str]] = {
        "strength": "1 is the map as it was fitted, 0 does nothing",
        "matrices": "writes A (d_model, rank) and reads B (rank, d_model), one each a layer in the order of `layers`",
    }

    writes: Tensor = field(kw_only=False)
    reads: Tensor = field(kw_only=False)
    layers: Sequence[int] = ()
    site: Literal["attn_out", "mlp_out"] = "attn_out"
    strength: float = 1.0

    def check(self) -> None:
        choice(self.site, _SITES, f"{self.kind}: site")
        object.__setattr__(self, "layers", layer_list(self.layers, self.kind))
        object.__setattr__(self, "strength", number(self.strength, f"{self.kind}: strength"))
        n_layers = len(self.layers)
        maps = low_rank_maps(self.writes, self.reads, n_layers, self.kind, of="layers", width="d_model")
        for name, value in zip(("writes", "reads"), maps, strict=True):
            object.__setattr__(self, name, value)

    def check_fit(self, layout: Layout, /) -> None:
        for layer in self.layers:
            check_layer(layer, layout)
        check_width(self.reads, layout)

    def edits(self, _: Layout, /) -> Sequence[Edit]:
        return [
            Edit(self.site, layer, self._change(place), self.positions, self.condition)
            for place, layer in enumerate(self.layers)
        ]

    def _change(self, place: int) -> Any:
        writes, reads = Placed(self.strength * self.writes[place]), Placed(self.reads[place])

        def change(y: Float[Tensor, "rows columns d_model"], _: RowPositions | None) -> Tensor:
            exact = torch.promote_types(y.dtype, torch.float32)
            return (y + (y.to(exact) @ reads.like(y, exact).T) @ writes.like(y, exact).T).to(y.dtype)

        return change

    def __str__(self) -> str:
        return f"{self.kind} ({self.site} of {len(self.layers)} layers, rank {self.reads.shape[1]})"
