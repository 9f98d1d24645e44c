"""Interventions on heads, neurons and sublayers: what a component writes is taken away, replaced or scaled.

Head h of a layer writes z_h W_O[h] and neuron n writes a_n W_out[n], so both are changed at the input of the matrix
that writes them (sites ``z`` and ``mlp_post``):

    ablate, zero      z_h <- 0
    ablate, mean      z_h <- m_h, one mean for each class of positions
    ablate, resample  z_h <- a value that the head had at some token of the control prompts
    scale             z_h <- s_h z_h

A sublayer is scaled where it is added to the stream (``attn_out``, ``mlp_out``; in Gemma after the norm that follows).
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError
from leakmech.core.noise import mix
from leakmech.interventions.base import Edit, Intervention, Placed
from leakmech.interventions.fields import choice, numbers, tensor_field, whole
from leakmech.interventions.positions import SPAN_POSITIONS, RowPositions, check_position
from leakmech.models.components import Component, ComponentKind, Label, parse_components
from leakmech.models.layout import Layout

Method = Literal["zero", "mean", "resample"]

# From the general to the particular: a later class of positions has the last word.
_CLASSES = ("all", "prompt", "generated", "newest", "stem", "injection", "last_prompt")


@dataclass(frozen=True, eq=False)
class AffineMap:
    """x <- scale * x + shift at a site of a layer: what `hooks` does as it is, and `fold` does to weights."""

    site: str
    layer: int
    scale: Float[Tensor, " width"]
    shift: Float[Tensor, " width"]

    def edit(self, intervention: Intervention) -> Edit:
        """The map as an edit with the positions of an intervention."""
        scale, shift = Placed(self.scale), Placed(self.shift) if bool(self.shift.any()) else None

        def change(x: Tensor, _: RowPositions | None) -> Tensor:
            scaled = x * scale.like(x)
            return scaled if shift is None else scaled + shift.like(x)

        return Edit(self.site, self.layer, change, intervention.positions, intervention.condition)


@dataclass(frozen=True, eq=False, kw_only=True)
class ComponentIntervention(Intervention):
    """Shared by all kinds that name components."""

    allowed: ClassVar[tuple[ComponentKind, ...]]

    components: Sequence[Label] = field(kw_only=False)

    @property
    def parts(self) -> tuple[Component, ...]:
        """The components, parsed."""
        return tuple(Component.parse(label) for label in self.components)

    def check(self) -> None:
        object.__setattr__(self, "components", parse_components(self.components, kinds=self.allowed))

    def check_fit(self, layout: Layout, /) -> None:
        for component in self.parts:
            component.validate(layout)

    @abstractmethod
    def affine_maps(self, layout: Layout) -> list[AffineMap] | None:
        """Its effect as affine maps; None if it is not affine."""

    def __str__(self) -> str:
        shown = ", ".join(map(str, self.components[:3]))
        rest = len(self.components) - 3
        return f"{self.kind} ({shown}{f' and {rest} more' if rest > 0 else ''})"


# -- ablation ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class _Ablate(ComponentIntervention):
    method: Method = "zero"
    values: Mapping[str, Tensor] = field(default_factory=dict)
    seed: int = 0

    def check(self) -> None:
        super().check()
        choice(self.method, ("zero", "mean", "resample"), f"{self.kind}: method")
        whole(self.seed, f"{self.kind}: seed")
        if self.method == "zero":
            if self.values:
                raise InterventionError(f"{self}: method 'zero' takes no values")
            object.__setattr__(self, "values", {})
            return
        per_head = self.allowed == ("head",)
        n_dims = (self.method == "resample") + 1 + per_head
        checked = {}
        for name, value in self.values.items():
            check_position(name, where=f"{self.kind}: values")
            checked[name] = tensor_field(value, f"{self.kind}: values of {name!r}", n_dims=n_dims)
            count = checked[name].shape[1 if self.method == "resample" else 0]
            if count != len(self.components):
                raise InterventionError(
                    f"{self}: values of {name!r} are for {count} of {len(self.components)} components"
                )
        object.__setattr__(self, "values", checked)
        self._refuse_gaps()

    def _refuse_gaps(self) -> None:
        """Every token at which it acts must have a value."""
        known = set(self.values)
        whole_text = "all" in known or {"prompt", "generated"} <= known
        covered = whole_text or self.positions in known
        if self.positions in (*SPAN_POSITIONS, "last_prompt"):
            covered = covered or "prompt" in known
        if self.positions == "newest":
            covered = covered or {"last_prompt", "generated"} <= known
        if not covered:
            raise InterventionError(
                f"{self}: no {self.method} for positions {self.positions!r}; give values={{'all': ...}}, or one for "
                "'prompt' and one for 'generated'"
            )

    def check_fit(self, layout: Layout, /) -> None:
        super().check_fit(layout)
        if self.allowed == ("head",):
            for value in self.values.values():
                if value.shape[-1] != layout.d_head:
                    raise InterventionError(f"values have width {value.shape[-1]}, heads of this model {layout.d_head}")

    @property
    def spans(self) -> frozenset[str]:
        return super().spans | (set(self.values) & set(SPAN_POSITIONS))

    @property
    def needs_positions(self) -> bool:
        return super().needs_positions or self._needs_rows

    @property
    def _needs_rows(self) -> bool:
        return self.method == "resample" or set(self.values) - {"all"} != set()

    def affine_maps(self, layout: Layout) -> list[AffineMap] | None:
        if self._needs_rows:
            return None
        maps = []
        for layer, places in _by_layer(self.parts).items():
            columns = columns_of([self.parts[place] for place in places], layout)
            scale, shift = identity_map(self.parts[0], layout)
            scale[columns] = 0
            if self.method == "mean":
                shift[columns] = self.values["all"][places].flatten()
            maps.append(AffineMap(self.parts[0].site, layer, scale, shift))
        return maps

    def edits(self, layout: Layout, /) -> Sequence[Edit]:
        maps = self.affine_maps(layout)
        if maps is not None:
            return [affine.edit(self) for affine in maps]
        site = self.parts[0].site
        edits = []
        for layer, places in _by_layer(self.parts).items():
            columns = columns_of([self.parts[place] for place in places], layout)
            values = {name: Placed(self._values_at(name, places)) for name in _CLASSES if name in self.values}
            change = _Replace(Placed(columns), values, seed=self.seed)
            edits.append(Edit(site, layer, change, self.positions, self.condition, needs_rows=True))
        return edits

    def _values_at(self, name: str, places: list[int]) -> Float[Tensor, "draws width"]:
        value = self.values[name]
        if self.method == "mean":
            return rearrange(value[places], "... -> 1 (...)")
        return value[:, places].flatten(start_dim=1)


class _Replace:
    """Puts values into columns, by class of positions; each token gets one of several draws."""

    def __init__(self, columns: Placed, values: Mapping[str, Placed], *, seed: int) -> None:
        self.columns = columns
        self.values = values
        self.seed = seed

    def __call__(self, x: Tensor, rows: RowPositions | None) -> Tensor:
        if rows is None:
            raise AssertionError("this edit needs positions")
        columns = self.columns.like(x, torch.long)
        new = x[..., columns]
        for name, placed in self.values.items():
            mask = rows.mask(name, x.shape[1])
            if mask is False:
                continue
            values = self._drawn(placed.like(x), rows, x.shape[1]).expand_as(new)
            new = values if mask is True else torch.where(mask[..., None], values, new)
        return x.index_copy(-1, columns, new)

    def _drawn(self, values: Float[Tensor, "draws width"], rows: RowPositions, n_columns: int) -> Tensor:
        """Values of all columns, for each token from one draw: what belonged together stays together in all layers."""
        if len(values) == 1:
            return values
        address = mix(rows.keys[:, None] + mix(rows.tokens(n_columns) + self.seed)).to(values.device)
        return values[address % len(values)]


@dataclass(frozen=True, eq=False, kw_only=True)
class AblateHeads(_Ablate):
    """Take attention heads out: their output becomes zero, their mean, or that of control prompts.

    Attributes
    ----------
    components
        Labels of the heads (``L12H3``; query heads).
    method
        ``zero``, ``mean`` or ``resample``.
    values
        For ``mean``, means by class of positions, shape (n_heads, d_head) in the order of `components`:
        ``{"all": ...}``, or classes that together cover the tokens at which it acts; a particular class
        (``injection``) goes before a general one (``prompt``). For ``resample`` draws by class of positions, shape
        (n_draws, n_heads, d_head).
    seed
        Seed of the draws. A draw depends on the prompt's key, the token's number and the seed alone.

    Raises
    ------
    InterventionError
        A field is out of range, values are missing or of another shape, or a component is not a head.
    """

    kind = "ablate_heads"
    allowed = ("head",)
    operation = "z_h <- 0 (zero), mean of its class of positions (mean) or one of the draws (resample)"
    conventions: ClassVar[Mapping[str, str]] = {"values": "head outputs z, in the order of the components"}


@dataclass(frozen=True, eq=False, kw_only=True)
class AblateNeurons(_Ablate):
    """Take MLP neurons out; as :class:`AblateHeads`, with values of shape (n_neurons,) or (n_draws, n_neurons)."""

    kind = "ablate_neurons"
    allowed = ("neuron",)
    operation = "a_n <- 0 (zero), mean of its class of positions (mean) or one of the draws (resample)"
    conventions: ClassVar[Mapping[str, str]] = {
        "values": "neuron activations behind the non-linearity (gated MLPs: the product), as the components are ordered"
    }


# -- scaling -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class _Scale(ComponentIntervention):
    scales: float | Sequence[float]

    def check(self) -> None:
        super().check()
        scales = numbers(self.scales, len(self.components), f"{self.kind}: scales")
        object.__setattr__(self, "scales", scales)

    def affine_maps(self, layout: Layout) -> list[AffineMap]:
        found: dict[tuple[str, int], AffineMap] = {}
        for component, factor in zip(self.parts, numbers(self.scales, len(self.parts), self.kind), strict=True):
            place = (component.site, component.layer)
            if place not in found:
                found[place] = AffineMap(*place, *identity_map(component, layout))
            found[place].scale[columns_of([component], layout)] *= factor
        return list(found.values())

    def edits(self, layout: Layout, /) -> Sequence[Edit]:
        return [affine.edit(self) for affine in self.affine_maps(layout)]


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaleHeads(_Scale):
    """Multiply what attention heads write.

    Attributes
    ----------
    components
        Labels of the heads (``L12H3``).
    scales
        One factor for all heads, or one for each; 1 leaves a head as it is.

    Raises
    ------
    InterventionError
        A scale is not a finite number, or a component is not a head.
    """

    kind = "scale_heads"
    allowed = ("head",)
    operation = "z_h <- scale_h * z_h"


@dataclass(frozen=True, eq=False, kw_only=True)
class ScaleNeurons(_Scale):
    """Multiply what MLP neurons write; as :class:`ScaleHeads`."""

    kind = "scale_neurons"
    allowed = ("neuron",)
    operation = "a_n <- scale_n * a_n"


@dataclass(frozen=True, eq=False, kw_only=True)
class ModulateCircuit(_Scale):
    """Multiply what the components of a circuit write: heads, neurons and whole sublayers together."""

    kind = "modulate_circuit"
    allowed = ("head", "neuron", "attn", "mlp")
    operation = "what a component writes <- scale * what it writes"


def _by_layer(components: Sequence[Component]) -> dict[int, list[int]]:
    """Places in the list, by layer."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, component in enumerate(components):
        places[component.layer].append(place)
    return dict(sorted(places.items()))


def columns_of(components: Sequence[Component], layout: Layout) -> Tensor:
    """Columns of z, of the neurons or (for a sublayer) of the stream that components of one layer and kind have."""
    every = torch.arange(_width(components[0], layout))
    return torch.cat([every[component.features(layout)] for component in components])


def identity_map(component: Component, layout: Layout) -> tuple[Tensor, Tensor]:
    """Scale and shift that change nothing at the site of a component."""
    width = _width(component, layout)
    return torch.ones(width), torch.zeros(width)


def _width(component: Component, layout: Layout) -> int:
    return {"z": layout.n_heads * layout.d_head, "mlp_post": layout.d_mlp}.get(component.site, layout.d_model)
