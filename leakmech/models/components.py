"""Names of a model's parts: head ``L12H3``, neuron ``L12N873``, sublayers ``L12.attn`` and ``L12.mlp``.

Layers, heads and neurons are counted from 0. Heads are query heads, also where several of them share keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from leakmech.errors import ModelError
from leakmech.models.layout import Layout

ComponentKind = Literal["head", "neuron", "attn", "mlp"]
_SITES = {"head": "z", "neuron": "mlp_post", "attn": "attn_out", "mlp": "mlp_out"}
_LABEL = re.compile(r"L(\d+)(?:([HN])(\d+)|\.(attn|mlp))", re.ASCII)
_COMPONENT_KINDS: tuple[ComponentKind, ...] = get_args(ComponentKind)


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
        Heads and neurons need an index, sublayers must have none; numbers count from 0.
    """

    kind: ComponentKind
    layer: int
    index: int | None = None

    def __post_init__(self) -> None:
        numbers = (self.layer, self.index or 0)
        fits = (self.index is not None) == (self.kind in ("head", "neuron"))
        if self.kind not in _COMPONENT_KINDS or not fits or min(numbers) < 0:
            raise ModelError(f"component {self.kind!r} of layer {self.layer} cannot have index {self.index}")

    @classmethod
    def parse(cls, label: str | Component) -> Component:
        """The component of a label; a component is returned as it is.

        Raises
        ------
        ModelError
            It is none.
        """
        if isinstance(label, Component):
            return label
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
        self.validate(layout)
        if self.index is None:
            return slice(None)
        return layout.head(self.index) if self.kind == "head" else slice(self.index, self.index + 1)

    def validate(self, layout: Layout) -> None:
        """Refuse what a model does not have.

        Raises
        ------
        ModelError
            There is no such layer, head or neuron; the message names what there is.
        """
        if self.layer >= layout.n_layers:
            raise ModelError(f"{self}: this model has {layout.n_layers} layers, 0 to {layout.n_layers - 1}")
        size = layout.n_heads if self.kind == "head" else layout.d_mlp
        if self.index is not None and self.index >= size:
            raise ModelError(f"{self}: this model has {size} {self.kind}s a layer, 0 to {size - 1}")


def parse_components(
    labels: Iterable[str | Component], *, kinds: Sequence[ComponentKind] = _COMPONENT_KINDS
) -> tuple[Component, ...]:
    """Components from labels, each once, of the kinds that are allowed.

    Raises
    ------
    ModelError
        There is none, one is named twice, or one is of another kind.
    """
    if isinstance(labels, str):
        raise ModelError(f"components: give a list of labels, found the text {labels!r}")
    components = tuple(Component.parse(label) for label in labels)
    if not components:
        raise ModelError("components: name at least one")
    for place, component in enumerate(components):
        if component.kind not in kinds:
            raise ModelError(f"{component}: is no {' or '.join(kinds)}")
        if component in components[:place]:
            raise ModelError(f"{component}: is named twice")
    return components
