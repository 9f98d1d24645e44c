"""What an intervention is: a frozen value that says which numbers of a forward pass change, where and how.

An intervention turns into edits. An edit belongs to a site of a layer and maps the values x there to new ones,

    x <- f(x)    at the tokens that `positions` names, in the rows in which `condition` holds,

and never in place. The sites are those of the residual stream and of what is added to it:

    resid_pre -> + attn_out -> resid_mid -> + mlp_out -> resid_post,    attn_out = z W_O,    mlp_out = mlp_post W_out.

Values hold their tensors in float32 on the CPU. :mod:`leakmech.interventions.hooks` runs them, ``fold`` bakes them into
weights, ``files`` writes them. A new kind needs a ``kind`` and a method ``edits``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save
from torch import Tensor

from leakmech.core.errors import InterventionError, LeakmechError
from leakmech.core.registry import Registry
from leakmech.core.shown import one_line
from leakmech.core.store import content_hash
from leakmech.interventions.fields import (
    check_layer,
    check_width,
    choice,
    number,
    refuse_unless_unit,
    tensor_field,
    whole,
)
from leakmech.interventions.positions import SPAN_POSITIONS, Position, RowPositions, check_position
from leakmech.models.components import Component
from leakmech.models.layout import Layout
from leakmech.models.sites import SITE_ORDER, check_site
from leakmech.prompts.told import Told

PROBE_SITES = ("resid_pre", "resid_mid", "resid_post")

Change = Callable[[Float[Tensor, "rows columns width"], RowPositions | None], Float[Tensor, "rows columns width"]]
"""Returns new values of a site; it gets the positions only if its edit asks for them (``needs_rows``)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """A condition on the prompt: does it project far enough on a direction?

    The stream is read once, at the prompt's last token or averaged over its stem or injection, as it is when the probe
    is reached; the decision holds for the whole row. A probe never fires for a prompt without the part that it reads.
    An intervention can only act after its probe, unless the probe is read ahead.

    Attributes
    ----------
    vector
        Unit vector, shape (d_model,).
    layer
        Layer at which the stream is read, from 0.
    threshold
        Threshold of the projection, in units of the residual stream.
    site
        Site at which the stream is read: ``resid_pre``, ``resid_mid`` or ``resid_post``.
    position
        ``last_prompt``: the prompt's last token. ``stem``, ``injection``: the mean over the tokens of that part.
    fires
        ``above``: the intervention acts where the projection is larger than the threshold; ``below``: where it is not.
    ahead
        Whether the stream is read beforehand, in a pass over the unchanged model that ends at the probe's layer. The
        intervention may then act in any layer, and a prompt takes longer by that pass.

    Raises
    ------
    InterventionError
        A field is out of range, or the vector is not of length 1.
    """

    vector: Float[Tensor, " d_model"]
    layer: int
    threshold: float
    site: str = "resid_post"
    position: Literal["last_prompt", "stem", "injection"] = "last_prompt"
    fires: Literal["above", "below"] = "above"
    ahead: bool = False

    def __repr__(self) -> str:
        return one_line(self)

    def __post_init__(self) -> None:
        vector = tensor_field(self.vector, "probe: vector", n_dims=1)
        refuse_unless_unit(vector[None], "probe")
        object.__setattr__(self, "vector", vector)
        object.__setattr__(self, "threshold", number(self.threshold, "probe: threshold"))
        object.__setattr__(self, "layer", whole(self.layer, "probe: layer"))
        choice(self.site, PROBE_SITES, "probe: site")
        choice(self.position, ("last_prompt", *SPAN_POSITIONS), "probe: position")
        choice(self.fires, ("above", "below"), "probe: fires")
        if not isinstance(self.ahead, bool):
            raise InterventionError(f"probe: ahead must be true or false, found {self.ahead!r}")

    @property
    def name(self) -> str:
        """Identifies the probe's decision among those on a row."""
        where = f"{self.site}{self.layer}:{self.position}:{self.fires}:{self.threshold!r}{':ahead' * self.ahead}"
        return f"{where}:{content_hash(self.vector.numpy().tobytes())}"

    def decide(self, stream: Float[Tensor, "rows d_model"]) -> Bool[Tensor, " rows"]:
        """Whether it fires, for each row; never for NaN."""
        projection = stream.float() @ self.vector.to(stream.device)
        return projection > self.threshold if self.fires == "above" else projection <= self.threshold


@dataclass(frozen=True, eq=False)
class Edit:
    """A change at one site of one layer, at some tokens of the rows in which a condition holds.

    `needs_rows` says whether `change` must get the positions of the rows.
    """

    site: str
    layer: int
    change: Change
    positions: str = "all"
    condition: Probe | None = None
    needs_rows: bool = False


@dataclass(frozen=True, eq=False)
class AttentionEdit:
    """A factor of the attention weights on the keys of a span, at one layer; queries within the span keep theirs.

    `span` is ``injection``, ``stem`` or ``prompt``. Weights are normalised again afterwards; 0 takes the keys away.
    """

    layer: int
    heads: tuple[int, ...]
    span: str
    factor: float
    positions: str = "all"
    condition: Probe | None = None


_KINDS: Registry[type[Intervention]] = Registry(
    "intervention kind", {}, error=InterventionError, unknown="unknown kind of intervention {name}"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Intervention(ABC):
    """Base of all interventions. Two are equal when they do the same: kind, settings and tensors.

    Attributes
    ----------
    positions
        The tokens at which it acts: ``all``, ``prompt``, ``injection``, ``stem``, ``last_prompt``, ``generated`` or
        ``newest`` (the prompt's last token and all generated ones).
    condition
        Decides in which rows it acts; None: in all.
    model_hash
        ``LoadedModel.weights_hash`` of the model that its tensors were fitted on; empty if it is for any model.
    """

    kind: ClassVar[str]
    operation: ClassVar[str] = ""
    """What it does, as a formula; written into saved files."""
    conventions: ClassVar[Mapping[str, str]] = {}
    """Sign and units of its numbers; written into saved files."""

    positions: Position = "all"
    condition: Probe | None = None
    model_hash: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Intervention.__repr__  # a dataclass would write its own, with every number of its tensors
        kind = cls.__dict__.get("kind")
        if kind is None:
            return
        present = _KINDS.get(kind)
        again = present is not None and (present.__module__, present.__qualname__) == (cls.__module__, cls.__qualname__)
        _KINDS.add(kind, cls, replace=again)

    def __post_init__(self) -> None:
        check_position(self.positions, where=self.kind)
        if self.condition is not None and not isinstance(self.condition, Probe):
            raise InterventionError(f"{self.kind}: condition must be a Probe, found {type(self.condition).__name__}")
        if not isinstance(self.model_hash, str):
            raise InterventionError(f"{self.kind}: model_hash must be a text, found {self.model_hash!r}")
        self.check()

    def check(self) -> None:  # noqa: B027 - a subclass need not have any
        """Check and normalise the fields of a subclass; called when a value is made."""

    @abstractmethod
    def edits(self, layout: Layout, /) -> Sequence[Edit | AttentionEdit]:
        """The changes that it makes to a model, in any order."""

    def check_fit(self, layout: Layout, /) -> None:  # noqa: B027 - a subclass need not have any
        """Refuse a model that lacks a layer, head, neuron or site that is named, or has another width.

        Raises
        ------
        InterventionError
            The message names what does not fit.
        """

    def refuse_other_model(self, layout: Layout) -> None:
        """Refuse a model that neither it nor its condition fits, and a condition that is read too late."""
        try:
            self.check_fit(layout)
            if self.condition is not None:
                check_layer(self.condition.layer, layout)
                check_width(self.condition.vector, layout)
                check_site(self.condition.site, layout)
        except LeakmechError as error:
            raise InterventionError(f"{self}: {error}") from error
        self._refuse_late_probe(layout)

    def _refuse_late_probe(self, layout: Layout) -> None:
        """Refuse changes before the probe is read, other than of generated tokens, which come after it."""
        if self.condition is None or self.condition.ahead or self.positions == "generated":
            return
        probe = (self.condition.layer, SITE_ORDER.index(self.condition.site))
        for edit in self.edits(layout):
            site = "attention" if isinstance(edit, AttentionEdit) else edit.site
            if (edit.layer, SITE_ORDER.index(site)) < probe:
                raise InterventionError(
                    f"{self}: acts at {site} of layer {edit.layer}, before its probe is read ({self.condition.site} of "
                    f"layer {self.condition.layer}); move the probe down or read it ahead, or act on 'generated' only"
                )

    @property
    def needed(self) -> frozenset[str]:
        """The parts without which a prompt is read as it is: ``injection``, ``stem``, both or none."""
        read = {self.condition.position} if self.condition else set()
        return frozenset(({self.positions} | read) & set(SPAN_POSITIONS))

    @property
    def spans(self) -> frozenset[str]:
        """The parts of a prompt that must be known: ``injection``, ``stem``, both or none."""
        return self.needed

    @property
    def told(self) -> Told:
        """What it is told beside the text of the prompt: where injection and stem are, or nothing."""
        return "boundary" if self.spans else "nothing"

    @property
    def needs_positions(self) -> bool:
        """Whether the hooks must know the positions of the rows."""
        return self.positions != "all" or self.condition is not None

    # -- JSON and tensors ------------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Kind and fields, JSON-ready; a tensor is named, see :meth:`tensors`."""
        return {"kind": self.kind} | {f.name: _encoded(getattr(self, f.name), f.name, {}) for f in fields(self)}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by the names that :meth:`to_dict` uses."""
        found: dict[str, Tensor] = {}
        for field in fields(self):
            _encoded(getattr(self, field.name), field.name, found)
        return found

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """The inverse of :meth:`to_dict` and :meth:`tensors`; looks up the class by ``kind``.

        Raises
        ------
        InterventionError
            The kind is unknown, a field is missing, unknown or out of range, or a tensor is missing or left over.
        """
        kind = value.get("kind")
        target: Any = _KINDS.find(str(kind))
        names = {field.name for field in fields(target)}
        given = set(value) - {"kind"}
        for name in sorted(given ^ names):
            raise InterventionError(f"{kind}: {'unknown' if name in given else 'missing'} field {name!r}")
        left = dict(tensors)
        decoded = {name: _decoded(value[name], left, where=f"{kind}: {name}") for name in names}
        if left:
            raise InterventionError(f"{kind}: tensor {min(left)!r} belongs to no field")
        if decoded["condition"] is not None:
            decoded["condition"] = _probe(decoded["condition"], str(kind))
        return target(**decoded)

    @property
    def key(self) -> str:
        """Hash of everything that decides what it does, every byte of its tensors included."""
        ordered = {name: tensor.contiguous() for name, tensor in sorted(self.tensors().items())}
        return content_hash(json.dumps(self.to_dict(), sort_keys=True), save(ordered))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Intervention) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return one_line(self)

    def __str__(self) -> str:
        return self.kind


def interventions_key(interventions: Sequence[Intervention]) -> str:
    """Hash of several interventions in their order."""
    return content_hash(*(intervention.key for intervention in interventions))


def _encoded(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path, "shape": list(value.shape)}
    if isinstance(value, Probe):
        return {f.name: _encoded(getattr(value, f.name), f"{path}.{f.name}", tensors) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encoded(item, f"{path}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_encoded(item, path, tensors) for item in value]
    return str(value) if isinstance(value, Component) else value


def _decoded(value: Any, tensors: dict[str, Tensor], *, where: str) -> Any:
    if isinstance(value, Mapping) and "tensor" in value:
        tensor = tensors.pop(value["tensor"], None)
        if tensor is None or list(tensor.shape) != value.get("shape"):
            raise InterventionError(f"{where}: tensor {value['tensor']!r} is missing or has another shape")
        return tensor
    if isinstance(value, Mapping):
        return {key: _decoded(item, tensors, where=where) for key, item in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _probe(value: Any, kind: str) -> Probe:
    # Files that were written before probes could be read ahead do not say so.
    if not isinstance(value, Mapping) or {*value, "ahead"} != {field.name for field in fields(Probe)}:
        raise InterventionError(f"{kind}: condition is not a probe")
    return Probe(**value)


class Placed:
    """A tensor of a value on whatever device it is needed, copied there once and usable under autograd."""

    def __init__(self, tensor: Tensor) -> None:
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {(tensor.device, tensor.dtype): tensor}
        self._tensor = tensor

    def like(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor on the device of `x`, in its dtype or in the one given."""
        place = (x.device, dtype or x.dtype)
        if place not in self._copies:
            with torch.inference_mode(False), torch.no_grad():
                self._copies[place] = self._tensor.to(*place)
        return self._copies[place]
