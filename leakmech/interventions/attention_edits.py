"""Interventions on attention: chosen heads look less at the injection.

The attention weights A of a head are multiplied by a factor f on the keys of a span and normalised again,

    A_qk <- f A_qk / (1 - (1 - f) sum_{k' in span} A_qk')    for k in the span,

which is the bias log f on their scores. Queries within the span keep their weights: the injection is still read, but
nothing else looks at it. A query so always keeps its own token to look at, also where f = 0 takes the span away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import AttentionEdit, Intervention
from leakmech.interventions.fields import choice, number
from leakmech.interventions.positions import SPAN_POSITIONS
from leakmech.models.components import Component, parse_components
from leakmech.models.layout import Layout


@dataclass(frozen=True, eq=False, kw_only=True)
class DampenAttention(Intervention):
    """Multiply the attention of heads to a span of the prompt.

    Attributes
    ----------
    components
        Labels of the heads (``L12H3``).
    span
        The part of the prompt whose keys get other weights: ``injection`` or ``stem``.
    factor
        Factor of the attention weights before they are normalised again: 0 takes the span away from the heads, 1
        changes nothing, more than 1 draws them to it.
    positions
        The queries; those within the span are left out.

    Raises
    ------
    InterventionError
        A field is out of range, or a component is not a head.
    """

    kind = "dampen_attention"
    operation = "attention weights on the keys of the span <- factor * weights, then normalised again"
    conventions: ClassVar[Mapping[str, str]] = {"factor": "0 takes the span away, 1 changes nothing"}

    components: Sequence[str | Component] = field(kw_only=False)
    span: Literal["injection", "stem"] = "injection"
    factor: float = 0.0

    def check(self) -> None:
        object.__setattr__(self, "components", parse_components(self.components, kinds=["head"]))
        object.__setattr__(self, "factor", number(self.factor, f"{self.kind}: factor", least=0.0))
        choice(self.span, SPAN_POSITIONS, f"{self.kind}: span")
        if self.positions == self.span:
            raise InterventionError(f"{self.kind}: queries within the span keep their weights; choose other positions")

    def check_fit(self, layout: Layout, /) -> None:
        for component in parse_components(self.components):
            component.validate(layout)

    @property
    def needed(self) -> frozenset[str]:
        return super().needed | {self.span}

    @property
    def needs_positions(self) -> bool:
        return True

    def edits(self, _: Layout, /) -> Sequence[AttentionEdit]:
        by_layer: dict[int, list[int]] = {}
        for component in sorted(parse_components(self.components)):
            by_layer.setdefault(component.layer, []).append(component.index or 0)
        return [
            AttentionEdit(layer, tuple(heads), self.span, self.factor, self.positions, self.condition)
            for layer, heads in by_layer.items()
        ]

    def __str__(self) -> str:
        return f"{self.kind} ({len(self.components)} heads, {self.span}, factor {self.factor:g})"
