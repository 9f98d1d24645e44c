"""Names of the parts of a model: head ``L12H3``, neuron ``L12N873``, sublayers ``L12.attn`` and ``L12.mlp``.

Layers, heads and neurons are counted from 0. Heads are query heads, also where several of them share keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Literal

from leakmech.core.errors import ModelError
from leakmech.models.layout import Layout

if TYPE_CHECKING:
    import pandas as pd

ComponentKind = Literal["head", "neuron", "attn", "mlp"]

_LABEL = re.compile(r"L(?P<layer>\d{1,9})(?:(?P<letter>[HN])(?P<index>\d{1,9})|\.(?P<sublayer>attn|mlp))", re.ASCII)
_KINDS: dict[str, ComponentKind] = {"H": "head", "N": "neuron", "attn": "attn", "mlp": "mlp"}
_LETTERS = {"head": "H", "neuron": "N"}
_SITES: dict[ComponentKind, str] = {"head": "z", "neuron": "mlp_post", "attn": "attn_out", "mlp": "mlp_out"}


@dataclass(frozen=True, order=True)
class Component:
    """A head, a neuron or a sublayer of one layer; `index` is None for a sublayer (``attn``, ``mlp``)."""

    layer: int
    kind: ComponentKind
    index: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in _KINDS.values():
            raise ModelError(f"component kind {self.kind!r}: use head, neuron, attn or mlp")
        has_index = self.kind in _LETTERS
        if (self.index is not None) != has_index or self.layer < 0 or (self.index or 0) < 0:
            raise ModelError(
                f"component {self.kind} of layer {self.layer} with index {self.index}: heads and neurons have an index "
                "from 0, sublayers none"
            )

    def __str__(self) -> str:
        if self.index is None:
            return f"L{self.layer}.{self.kind}"
        return f"L{self.layer}{_LETTERS[self.kind]}{self.index}"

    @classmethod
    def parse(cls, label: Label, *, pair: ComponentKind = "head") -> Component:
        """The component that a label names; a component is returned as it is.

        A pair of numbers is (layer, head), or (layer, neuron) where `pair` says so.
        """
        if isinstance(label, Component):
            return label
        if isinstance(label, tuple) and len(label) == 2 and all(isinstance(part, Integral) for part in label):
            return cls(int(label[0]), pair, int(label[1]))
        match = _LABEL.fullmatch(label) if isinstance(label, str) else None
        if match is None:
            raise ModelError(
                f"component {label!r}: write L12H3 or (12, 3) (head), L12N873 (neuron), L12.attn or L12.mlp"
            )
        index = match["index"]
        return cls(
            int(match["layer"]), _KINDS[match["letter"] or match["sublayer"]], None if index is None else int(index)
        )

    @property
    def site(self) -> str:
        """The site of its activations: ``z``, ``mlp_post``, ``attn_out`` or ``mlp_out``."""
        return _SITES[self.kind]

    def features(self, layout: Layout) -> slice:
        """Its part of the last axis of its site."""
        self.validate(layout)
        if self.index is None:
            return slice(None)
        return layout.head(self.index) if self.kind == "head" else slice(self.index, self.index + 1)

    def validate(self, layout: Layout) -> None:
        """Refuse a component that a model does not have."""
        if self.layer >= layout.n_layers:
            raise ModelError(f"{self}: this model has {layout.n_layers} layers, 0 to {layout.n_layers - 1}")
        sizes = {"head": (layout.n_heads, "heads"), "neuron": (layout.d_mlp, "neurons")}
        if self.index is None:
            return
        size, name = sizes[self.kind]
        if self.index >= size:
            raise ModelError(f"{self}: this model has {size} {name} in each layer, 0 to {size - 1}")


Label = str | tuple[int, int] | Component
"""What names a component: ``"L21H1"``, ``(21, 1)``, or the component itself."""


def parse_components(
    labels: Iterable[Label], *, kinds: Iterable[ComponentKind] = ("head", "neuron", "attn", "mlp")
) -> tuple[Component, ...]:
    """Components from labels, each once, of the kinds that are allowed; pairs of numbers are heads where they may be.

    Where heads are not allowed and neurons are, a pair is (layer, neuron).
    """
    if isinstance(labels, str):
        raise ModelError(f"components: give a list of labels, found the text {labels!r}")
    kinds = tuple(kinds)
    pair: ComponentKind = "neuron" if "neuron" in kinds and "head" not in kinds else "head"
    components = tuple(Component.parse(label, pair=pair) for label in labels)
    if not components:
        raise ModelError("components: name at least one")
    for place, component in enumerate(components):
        if component.kind not in kinds:
            raise ModelError(f"{component}: must be of kind {' or '.join(kinds)}")
        if component in components[:place]:
            raise ModelError(f"{component}: is named twice")
    return components


def with_names(frame: pd.DataFrame, kind: Literal["head", "neuron"]) -> pd.DataFrame:
    """A copy of a table with columns ``layer`` and `kind`, with the components' ``name`` after them."""
    named = frame.copy()
    names = [str(Component(int(layer), kind, int(n))) for layer, n in zip(frame["layer"], frame[kind], strict=True)]
    named.insert(list(frame.columns).index(kind) + 1, "name", names)
    return named
