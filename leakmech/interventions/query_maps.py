"""Interventions that map the queries of heads, by a matrix of low rank.

With q the query of a head before its position is put in, A of shape (d_head, rank) and B of shape (rank, d_head),

    q <- q + strength * A B q.

A head's scores are linear in its queries, so the map changes what the head attends to, and nothing else. It can be
folded into the matrix that makes the queries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import Edit, Intervention, Placed
from leakmech.interventions.fields import low_rank_maps, number
from leakmech.interventions.positions import RowPositions
from leakmech.models.components import Component, parse_components
from leakmech.models.layout import Layout
from leakmech.models.sites import QUERIES, site_module


@dataclass(frozen=True, eq=False, kw_only=True)
class MapQueries(Intervention):
    """Add a linear map of low rank of the queries of heads.

    Attributes
    ----------
    components
        Labels of the heads (``L12H3``).
    writes
        A of each head, shape (n_heads, d_head, rank).
    reads
        B of each head, shape (n_heads, rank, d_head).
    strength
        Factor of the maps: 1 is what was fitted, 0 does nothing.

    Raises
    ------
    InterventionError
        A field is out of range, a component is not a head, the matrices are not as many as heads or do not fit one
        another; or, for a model, its queries share a module with keys and values, or are normalised.
    """

    kind = "map_queries"
    operation = "q <- q + strength * A B q, q the query of a head before its position is put in"
    conventions: ClassVar[Mapping[str, str]] = {
        "strength": "1 is the maps as they were fitted, 0 does nothing",
        "matrices": "writes A (d_head, rank) and reads B (rank, d_head), one each a head in the order of `components`",
    }

    components: Sequence[str | Component] = field(kw_only=False)
    writes: Tensor = field(kw_only=False)
    reads: Tensor = field(kw_only=False)
    strength: float = 1.0

    def check(self) -> None:
        heads = parse_components(self.components, kinds=["head"])
        object.__setattr__(self, "components", heads)
        object.__setattr__(self, "strength", number(self.strength, f"{self.kind}: strength"))
        maps = low_rank_maps(self.writes, self.reads, len(heads), self.kind, of="heads", width="d_head")
        for name, value in zip(("writes", "reads"), maps, strict=True):
            object.__setattr__(self, name, value)

    @property
    def by_head(self) -> list[tuple[Component, Tensor, Tensor]]:
        """Head, strength * A and B."""
        heads: Any = self.components
        return list(zip(heads, self.strength * self.writes, self.reads, strict=True))

    def check_fit(self, layout: Layout, /) -> None:
        for head, writes, _ in self.by_head:
            head.validate(layout)
            site_module(layout.block(head.layer), QUERIES)
            if len(writes) != layout.d_head:
                raise InterventionError(f"has maps of width {len(writes)}, the model's heads have {layout.d_head}")

    def edits(self, layout: Layout, /) -> Sequence[Edit]:
        layers: dict[int, list[int]] = defaultdict(list)
        for place, (head, _, _) in enumerate(self.by_head):
            layers[head.layer].append(place)
        return [
            Edit(QUERIES, layer, self._change(places, layout), self.positions, self.condition)
            for layer, places in sorted(layers.items())
        ]

    def _change(self, places: Sequence[int], layout: Layout) -> Any:
        heads: Any = self.components
        own = [heads[place].index for place in places]
        writes, reads = Placed(self.strength * self.writes[list(places)]), Placed(self.reads[list(places)])

        def change(q: Float[Tensor, "rows columns width"], _: RowPositions | None) -> Tensor:
            exact = torch.promote_types(q.dtype, torch.float32)
            queries = rearrange(q, "row column (head d) -> row column head d", head=layout.n_heads).clone()
            read = einsum(queries[:, :, own].to(exact), reads.like(q, exact), "r c head d, head k d -> r c head k")
            added = einsum(read, writes.like(q, exact), "r c head k, head d k -> r c head d")
            queries[:, :, own] = (queries[:, :, own].to(exact) + added).to(q.dtype)
            return rearrange(queries, "row column head d -> row column (head d)")

        return change

    def __str__(self) -> str:
        return f"{self.kind} ({len(self.components)} heads, rank {self.reads.shape[1]})"
