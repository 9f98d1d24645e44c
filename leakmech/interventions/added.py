"""Interventions that add something to what components write, whatever they write.

Head h writes z_h W_O[h] and neuron n writes a_n W_out[n], and

    z_h <- z_h + scale v_h,    a_n <- a_n + scale v_n.

A constant goes into the bias of the matrix that follows, so it can be folded where it is added at all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import Edit
from leakmech.interventions.component_edits import AffineMap, ComponentIntervention, columns_of, identity_map
from leakmech.interventions.fields import number, tensor_field
from leakmech.models.layout import Layout

_KINDS = {"heads": ("head", 2), "neurons": ("neuron", 1)}
"""Names of values: the kind of component, and the number of axes."""


@dataclass(frozen=True, eq=False, kw_only=True)
class AddToComponents(ComponentIntervention):
    """Add fixed values to head outputs and neuron activations.

    Attributes
    ----------
    components
        Labels of heads (``L12H3``) and neurons (``L12N873``).
    values
        ``{"heads": …, "neurons": …}``: shapes (n_heads, d_head) and (n_neurons,), each in the order in which
        `components` names its kind; a kind without components has none.
    scale
        Factor of all values.

    Raises
    ------
    InterventionError
        A field is out of range, or values are missing, left over or of another shape.
    """

    kind = "add_to_components"
    allowed = ("head", "neuron")
    operation = "z_h <- z_h + scale * v_h, a_n <- a_n + scale * v_n"
    conventions: ClassVar[Mapping[str, str]] = {
        "values": "heads: added to z, neurons: added to activations behind the non-linearity (gated MLPs: the product)",
        "scale": "factor of all values",
    }

    values: Mapping[str, Tensor] = field(default_factory=dict)
    scale: float = 1.0

    def check(self) -> None:
        super().check()
        object.__setattr__(self, "scale", number(self.scale, f"{self.kind}: scale"))
        checked = {}
        for name, (kind, n_dims) in _KINDS.items():
            count = sum(component.kind == kind for component in self.parts)
            given = self.values.get(name)
            if (given is None) != (count == 0):
                raise InterventionError(f"{self}: has {count} {name}; give values of {name!r} for exactly these")
            if given is None:
                continue
            checked[name] = tensor_field(given, f"{self.kind}: values of {name!r}", n_dims=n_dims)
            if len(checked[name]) != count:
                raise InterventionError(
                    f"{self}: values of {name!r} are for {len(checked[name])} of {count} components"
                )
        if unknown := sorted(set(self.values) - set(_KINDS)):
            raise InterventionError(f"{self}: unknown values {unknown[0]!r}; they are for heads and neurons")
        object.__setattr__(self, "values", checked)

    def check_fit(self, layout: Layout, /) -> None:
        super().check_fit(layout)
        if "heads" in self.values and self.values["heads"].shape[1] != layout.d_head:
            width = self.values["heads"].shape[1]
            raise InterventionError(f"values have width {width}, heads of this model {layout.d_head}")

    def affine_maps(self, layout: Layout) -> list[AffineMap]:
        found: dict[tuple[str, int], AffineMap] = {}
        for name, (kind, _) in _KINDS.items():
            own = [component for component in self.parts if component.kind == kind]
            for component, value in zip(own, self.values.get(name, ()), strict=True):
                place = (component.site, component.layer)
                if place not in found:
                    found[place] = AffineMap(*place, *identity_map(component, layout))
                found[place].shift[columns_of([component], layout)] = self.scale * value
        return list(found.values())

    def edits(self, layout: Layout, /) -> Sequence[Edit]:
        return [affine.edit(self) for affine in self.affine_maps(layout)]
