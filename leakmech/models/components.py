"""Names of a model's parts: head ``L12H3``, neuron ``L12N873``, sublayers ``L12.attn`` and ``L12.mlp``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from leakmech.errors import ModelError
from leakmech.models.layout import Layout

ComponentKind = Literal["head", "neuron", "attn", "mlp"]
_SITES = {"head": "z", "neuron": "mlp_post", "attn": "attn_out", "mlp": "mlp_out"}
_LABEL = re.compile(r"L(\d+)(?:([HN])(\d+)|\.(attn|mlp))")


@dataclass(frozen=True, order=True)
class Component:
    """One part of one layer.

    Attributes
    ----------
    kind
        ``head`` (a query head), ``neuron``, ``attn`` or ``mlp`` (the whole sublayer).
    layer, index
        Counted from 0; sublayers have no index.

    Raises
    ------
    ModelError
        Heads and neurons need an index, sublayers must have none.
    """

    kind: ComponentKind
    layer: int
    index: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(ComponentKind) or (self.index is None) == (self.kind in ("head", "neuron")):
            raise ModelError(f"component {self.kind!r} of layer {self.layer} cannot have index {self.index}")

    @classmethod
    def parse(cls, label: str) -> Component:
        """The component of a label.

        Raises
        ------
        ModelError
            It is none.
        """
        found = _LABEL.fullmatch(label)
        if not found:
            raise ModelError(f"component {label!r}: write L12H3, L12N873, L12.attn or L12.mlp")
        layer, letter, index, sublayer = found.groups()
        if sublayer:
            return cls(sublayer, int(layer))  # pyright: ignore[reportArgumentType] - the pattern allows two kinds
        return cls("head" if letter == "H" else "neuron", int(layer), int(index))

    def __str__(self) -> str:
        if self.kind in ("attn", "mlp"):
            return f"L{self.layer}.{self.kind}"
        return f"L{self.layer}{'H' if self.kind == 'head' else 'N'}{self.index}"

    @property
    def site(self) -> str:
        """Where its activations are read: ``z``, ``mlp_post``, ``attn_out`` or ``mlp_out``."""
        return _SITES[self.kind]

    def features(self, layout: Layout) -> slice:
        """Its part of the last axis of its site, checked against a model.

        Raises
        ------
        ModelError
            The model has no such layer, head or neuron.
        """
        layout.block(self.layer)
        if self.index is None:
            return slice(None)
        if self.kind == "head":
            return layout.head(self.index)
        if not 0 <= self.index < layout.d_mlp:
            raise ModelError(f"neuron {self.index}: this model has {layout.d_mlp} a layer, 0 to {layout.d_mlp - 1}")
        return slice(self.index, self.index + 1)
