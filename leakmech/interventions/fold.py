"""Bake interventions into the weights of a copy: full speed, and it can be saved and served anywhere.

A sublayer adds y = u W + b, with u the head outputs or neurons. Scaling and replacing them, u <- s u + m, gives

    W <- diag(s) W,    b <- b + m W,

and what is done to y, y <- y A + c (A = 1 - strength v v^T for a direction, 1 + a map of low rank), gives W <- W A,
b <- b A + c. A map of a head's queries goes the same way into the columns that make them. A constant that is added to
the stream goes into the bias of the sublayer before it. A direction that is projected out everywhere is taken out of
the embedding and of all that is added to it. Everything else depends on what the model reads (positions, probes, draws,
attention) or on the stream as a whole, and no weight holds it: it is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import InterventionError, ModelError
from leakmech.interventions.added import AddToComponents
from leakmech.interventions.angular import AngularSteering
from leakmech.interventions.base import Intervention
from leakmech.interventions.checks import as_interventions, fitting_layout
from leakmech.interventions.component_edits import (
    AblateHeads,
    AblateNeurons,
    AffineMap,
    ModulateCircuit,
    ScaleHeads,
    ScaleNeurons,
)
from leakmech.interventions.query_maps import MapQueries
from leakmech.interventions.steering import Steer
from leakmech.interventions.stream_edits import AblateDirection
from leakmech.interventions.sublayer_maps import MapSublayer
from leakmech.models.adapters import merged_copy
from leakmech.models.biases import with_output_biases
from leakmech.models.layout import Layout, NoNeurons, layout_of, write_weights
from leakmech.models.load import LoadedModel
from leakmech.models.sites import QUERIES, site_module

_SUBLAYERS = {"z": "attn", "mlp_post": "mlp", "attn_out": "attn", "mlp_out": "mlp"}
_Affine = AblateHeads | AblateNeurons | ScaleHeads | ScaleNeurons | ModulateCircuit | AddToComponents


def fold(model: Any, interventions: Intervention | Iterable[Intervention], *, share: bool = False) -> Any:
    """A copy of `model` whose weights do what `interventions` do.

    Parameters
    ----------
    model
        What :func:`leakmech.load_model` returns, or a Hugging Face or PEFT model (adapters are merged); it stays as it
        is.
    interventions
        One or several interventions.
    share
        Take from `model` the weights that stay as they are, which saves their memory: the two then hold the same
        tensors, so that neither may be trained or changed in place. Weights of a PEFT model are copied all the same.

    Returns
    -------
    LoadedModel or PreTrainedModel
        As given: with its tokenizer, so that ``fold(model, edit).save_pretrained(folder)`` writes a folder that can be
        loaded and measured by its path, or a plain Hugging Face model in eval mode. Constants need biases, which turn
        Qwen2 and Mistral into Llama models; tied embeddings are untied where only the input is changed.

    Raises
    ------
    InterventionError
        An intervention cannot be folded, or not on this architecture, or does not fit the model; the message says why.
    """
    chosen = as_interventions(interventions)
    layout = fitting_layout(chosen, model)
    plan = _Plan()
    for intervention in chosen:
        _refuse_unfoldable(intervention)
        plan.take(intervention, layout)
    source = model.model if isinstance(model, LoadedModel) else model
    folded = merged_copy(source, shared=plan.unchanged(source) if share else ())
    try:
        folded = with_output_biases(folded, attention=plan.needs_bias("attn"), mlp=plan.needs_bias("mlp"))
    except ModelError as error:
        raise InterventionError(f"{plan.first_constant}: cannot be folded ({error}); use hooks") from error
    with torch.no_grad():
        plan.write(folded)
    folded.eval()
    return model.holding(folded, name=f"{model.name} (folded)") if isinstance(model, LoadedModel) else folded


def _refuse_unfoldable(intervention: Intervention) -> None:
    """Refuse what depends on more than the numbers that a matrix reads."""
    reason = None
    if intervention.positions != "all":
        reason = f"it acts at positions {intervention.positions!r} only"
    elif intervention.condition is not None:
        reason = "it depends on a probe of the prompt"
    elif isinstance(intervention, AblateHeads | AblateNeurons) and intervention.method == "resample":
        reason = "resampled values change from token to token"
    elif isinstance(intervention, AblateHeads | AblateNeurons) and set(intervention.values) - {"all"}:
        reason = "its means differ between classes of positions"
    elif isinstance(intervention, AngularSteering) or (isinstance(intervention, Steer) and intervention.mode != "add"):
        reason = "a rotation acts on the stream as a whole"
    elif isinstance(intervention, AblateDirection) and intervention.site.startswith("resid"):
        reason = "it acts on the stream as a whole; sites 'everywhere', 'attn_out' and 'mlp_out' can be folded"
    elif not isinstance(intervention, AblateDirection | Steer | MapSublayer | MapQueries | _Affine):
        reason = "no weights do what it does"
    if reason is not None:
        raise InterventionError(f"{intervention}: cannot be folded ({reason}); use hooks (leave --fold out)")


def _refuse_experts(intervention: Intervention, changed: Iterable[tuple[str, int]], layout: Layout) -> None:
    """Refuse what changes an MLP that has no output matrix of its own."""
    if any(part == "mlp" and isinstance(layout.block(layer).neurons_out, NoNeurons) for part, layer in changed):
        raise InterventionError(
            f"{intervention}: cannot be folded (the MLPs of {layout.architecture} are mixtures of experts, without one "
            "output matrix); use hooks (`apply`; leave --fold out)"
        )


# -- what happens to weights ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Output:
    """y <- scale * (y - strength * (v.y) v) + constant, or y + A B y, on rows of what is added to the stream."""

    scale: float = 1.0
    strength: float = 0.0
    vector: Tensor | None = None
    constant: Tensor | None = None
    map: tuple[Tensor, Tensor] | None = None
    """A and B."""

    def linear(self, rows: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The part without the constant."""
        if self.vector is not None:
            vector = self.vector.to(rows)
            rows = rows - self.strength * (rows @ vector)[..., None] * vector
        if self.map is not None:
            writes, reads = (matrix.to(rows) for matrix in self.map)
            rows = rows + (rows @ reads.T) @ writes.T
        return self.scale * rows

    def affine(self, rows: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n d_model"]:
        """The whole map, constant included."""
        rows = self.linear(rows)
        return rows if self.constant is None else rows + self.constant.to(rows)


@dataclass(eq=False)
class _Sublayer:
    """Changes of one sublayer of one layer: of inputs first, then of outputs, then of what is added to the stream."""

    scale: Tensor | None = None
    shift: Tensor | None = None
    outputs: list[_Output] = field(default_factory=list)
    constants: list[Tensor] = field(default_factory=list)

    def map_inputs(self, affine: AffineMap) -> None:
        """Compose another map of the inputs after those that are there."""
        scale = affine.scale.double()
        self.scale = scale if self.scale is None else self.scale * scale
        shift = affine.shift.double()
        self.shift = shift if self.shift is None else self.shift * scale + shift

    @property
    def has_constant(self) -> bool:
        """Whether the sublayer needs a bias."""
        constants = [self.shift, *(output.constant for output in self.outputs), *self.constants]
        return any(constant is not None and bool(constant.any()) for constant in constants)

    def write(self, module: nn.Module) -> None:
        """Change weights and bias of the module that writes to the stream; in float64, rounded once."""
        weights = write_weights(module)
        new = weights.double()
        bias: Any = module.bias
        new_bias = None if bias is None else bias.double()
        if self.scale is not None and self.shift is not None:
            if new_bias is not None:
                new_bias = new_bias + self.shift.to(new) @ new
            new = self.scale.to(new)[:, None] * new
        for output in self.outputs:
            new = output.linear(new)
            new_bias = None if new_bias is None else output.affine(new_bias)
        for constant in self.constants:
            if new_bias is not None:
                new_bias = new_bias + constant.to(new_bias)
        weights.copy_(new)
        if bias is not None:
            bias.copy_(new_bias)


class _Plan:
    """All changes, by sublayer, and those of the embedding in their order."""

    def __init__(self) -> None:
        self.sublayers: dict[tuple[str, int], _Sublayer] = {}
        self.embedding: list[_Output] = []
        self.queries: list[tuple[int, slice, _Output]] = []
        """Layer, entries of one head, and what happens to them."""
        self.post_norm_scales: dict[tuple[str, int], float] = {}
        self.first_constant: Intervention | None = None

    def needs_bias(self, part: str) -> bool:
        """Whether any layer's attention (``attn``) or MLP needs a bias."""
        return any(sublayer.has_constant for (name, _), sublayer in self.sublayers.items() if name == part)

    def take(self, intervention: Intervention, layout: Layout) -> None:
        """Add what an intervention does."""
        if isinstance(intervention, _Affine):
            for affine in intervention.affine_maps(layout) or ():
                self._take_map(affine, layout)
        elif isinstance(intervention, AblateDirection):
            self._take_projection(intervention, layout)
        elif isinstance(intervention, MapSublayer):
            for place, layer in enumerate(intervention.layers):
                matrices = intervention.strength * intervention.writes[place].double(), intervention.reads[place]
                self._output(intervention, _SUBLAYERS[intervention.site], layer, layout).append(_Output(map=matrices))
        elif isinstance(intervention, MapQueries):
            for head, writes, reads in intervention.by_head:
                output = _Output(map=(writes.double(), reads))
                self.queries.append((head.layer, head.features(layout), output))
        elif isinstance(intervention, Steer):
            for place, layer in enumerate(intervention.layers):
                self._take_step(intervention, layer, intervention.step(place), layout)
        _refuse_experts(intervention, self.sublayers, layout)
        if self.first_constant is None and (self.needs_bias("attn") or self.needs_bias("mlp")):
            self.first_constant = intervention

    def _take_map(self, affine: AffineMap, layout: Layout) -> None:
        part = _SUBLAYERS[affine.site]
        if affine.site in ("z", "mlp_post"):
            self._at(part, affine.layer).map_inputs(affine)
            return
        scale = float(affine.scale[0])  # a sublayer is scaled as a whole
        if _post_norm(layout, part, affine.layer) is None:
            self._at(part, affine.layer).outputs.append(_Output(scale=scale))
            return
        key = (part, affine.layer)
        self.post_norm_scales[key] = self.post_norm_scales.get(key, 1.0) * scale

    def _take_projection(self, ablation: AblateDirection, layout: Layout) -> None:
        for site, layer, place, set_point in ablation.places(layout):
            strength, vector = ablation.strengths[place], ablation.vector(place)
            constant = strength * set_point * vector if set_point else None
            output = _Output(strength=strength, vector=vector.double(), constant=constant)
            if site == "resid_pre":
                self.embedding.append(output)
            else:
                self._output(ablation, _SUBLAYERS[site], layer, layout).append(output)

    def _take_step(self, steer: Steer, layer: int, step: Tensor, layout: Layout) -> None:
        if steer.site in ("attn_out", "mlp_out"):
            self._output(steer, _SUBLAYERS[steer.site], layer, layout).append(_Output(constant=step))
        elif steer.site == "resid_pre" and layer == 0:
            self.embedding.append(_Output(constant=step))
        else:
            part = "attn" if steer.site == "resid_mid" else "mlp"
            before = layer - 1 if steer.site == "resid_pre" else layer
            self._output(steer, part, before, layout)
            self._at(part, before).constants.append(step)

    def _at(self, part: str, layer: int) -> _Sublayer:
        return self.sublayers.setdefault((part, layer), _Sublayer())

    def _output(self, intervention: Intervention, part: str, layer: int, layout: Layout) -> list[_Output]:
        """The changes of what a sublayer adds; refused where a norm comes in between."""
        if _post_norm(layout, part, layer) is not None:
            raise InterventionError(
                f"{intervention}: cannot be folded ({layout.architecture} normalises what its sublayers write before "
                "it is added to the stream); use hooks (leave --fold out)"
            )
        return self._at(part, layer).outputs

    # -- writing ---------------------------------------------------------------------------------------------------

    def unchanged(self, model: Any) -> list[Tensor]:
        """The weights of `model` that :meth:`write` leaves alone."""
        layout = layout_of(model)
        written: list[Any] = [site_module(layout.block(layer), QUERIES)[0] for layer, _, _ in self.queries]
        written += [_writes(layout, part, layer) for part, layer in self.sublayers]
        written += [_post_norm(layout, part, layer) for part, layer in self.post_norm_scales]
        written += [layout.embedding, layout.position_embedding] if self.embedding else []
        changed = {id(weight) for module in written if module is not None for weight in module.parameters()}
        return [weight for weight in model.parameters() if id(weight) not in changed]

    def write(self, model: Any) -> None:
        """Change the weights of `model` in place."""
        layout = layout_of(model)
        for (part, layer), sublayer in self.sublayers.items():
            sublayer.write(_writes(layout, part, layer))
        for layer, entries, output in self.queries:
            module: Any = site_module(layout.block(layer), QUERIES)[0]
            made = [write_weights(module)] if module.bias is None else [write_weights(module), module.bias]
            for values in made:
                values[..., entries].copy_(output.linear(values[..., entries].double()))
        for (part, layer), scale in self.post_norm_scales.items():
            norm: Any = _post_norm(layout, part, layer)
            one = 1 if type(norm).__name__.startswith("Gemma") else 0  # Gemma's norms multiply by 1 + weight
            norm.weight.copy_((one + norm.weight.double()) * scale - one)
        if self.embedding:
            _untie(model, layout)
            self._write_embedding(layout)

    def _write_embedding(self, layout: Layout) -> None:
        weight: Any = layout.embedding.weight
        rows = weight.double() * layout.embedding_scale
        for output in self.embedding:
            rows = output.affine(rows)
        weight.copy_(rows / layout.embedding_scale)
        if layout.position_embedding is not None:  # constants have come with the embedding
            by_position: Any = layout.position_embedding.weight
            added = by_position.double()
            for output in self.embedding:
                added = output.linear(added)
            by_position.copy_(added)


def _writes(layout: Layout, part: str, layer: int) -> nn.Module:
    """The module of a sublayer that writes to the stream."""
    block = layout.block(layer)
    return block.heads_out if part == "attn" else block.neurons_out


def _post_norm(layout: Layout, part: str, layer: int) -> nn.Module | None:
    block = layout.block(layer)
    return block.attention_post_norm if part == "attn" else block.mlp_post_norm


def _untie(model: Any, layout: Layout) -> None:
    """Give the unembedding weights of its own: what is read changes, what is predicted from the stream does not."""
    unembedding: Any = layout.unembedding
    if unembedding.weight is layout.embedding.weight:
        unembedding.weight = nn.Parameter(unembedding.weight.detach().clone())
    model.config.tie_word_embeddings = False
    if hasattr(model, "all_tied_weights_keys"):
        model.all_tied_weights_keys = {}
