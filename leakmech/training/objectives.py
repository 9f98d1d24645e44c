"""What an adapter is trained to minimise: named losses, combined with weights.

With p the prompt, r its reference, y the completion (of r by the base model, or one that is given), f the base model, g
the model with its adapter, h their hidden states and s the positions of the shared suffix
(:mod:`leakmech.training.examples`):

    consistency_sft         mean_t -log g(y_t | p, y_<t)                                     irrelevant
    sft                     mean_t -log g(y_t | p, y_<t)                                     all kinds
    distillation            mean_t D( f(. | r, y_<t) || g(. | p, y_<t) )                      irrelevant
    teacher                 mean_t D( f(. | r, y_<t) || g(. | p, y_<t) )                      teacher
    activation_consistency  mean_s,l |h_g(p, y)_s,l - h_f(r, y)_s,l|^2 / |h_f(r, y)_s,l|^2   irrelevant
    anchor                  mean_t D( f(. | p, y_<t) || g(. | p, y_<t) )                      what stays
    contrastive             mean_t D( f(. | r, y_<t) || g(. | p, y_<t) )                      all but completion
    activation_contrastive  mean_s,l |h_g(p, y)_s,l - h_f(r, y)_s,l|^2 / |h_f(r, y)_s,l|^2   all but completion
    direction_penalty       mean_s,v (v . h_g(p, y)_s - c_v)^2 / norm_v^2                     irrelevant

Every loss is a mean within an example, and the loss of a step is

    sum over objectives of weight * (sum over the examples it applies to) / (number of examples in the step),

so that the share of a kind acts as its weight and neither padding nor the way a step is cut into batches matters.
*Contrastive* is the sum of *distillation* and *anchor*: irrelevant affect is to be answered like no affect, relevant
affect as before; *activation_contrastive* asks the same of hidden states, *sft* of the sampled tokens alone. The base
model is the same model with its adapter switched off: there is no second copy, and nothing flows back into it.

D is the KL divergence or the total variation distance. They differ where the student cannot tell for sure whether an
injection is relevant: the KL divergence is least for the mixture of both answers in the proportion of their
probabilities, so that affect shows by halves everywhere; the total variation distance for the likelier of the two.

:mod:`leakmech.training.preventative` is not a loss, but a push against which the others are reached.

Sources: consistency training with outputs and activations of the clean prompt, Irpan et al. 2025 (arXiv 2510.27062);
distillation, Hinton et al. 2015; with the total variation distance, Wen et al. 2023 (arXiv 2307.15190).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from leakmech.core.errors import ConfigError, DirectionError
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.hooks import on_input
from leakmech.models.layout import Layout, layout_of
from leakmech.models.sites import STREAM_SITES, recording
from leakmech.training.examples import Batch
from leakmech.training.kinds import OBJECTIVES, Divergence, ExampleKind, Objective, SetPoint
from leakmech.training.preventative import PreventativeSteering

_ON_STATES = frozenset({"activation_consistency", "activation_contrastive"})
_ON_TOKENS = frozenset({"consistency_sft", "sft"})
_TOKENS_AT_A_TIME = 16


# -- the losses, one number a row --------------------------------------------------------------------------------------


def negative_log_likelihood(
    logits: Float[Tensor, "tokens vocab"], targets: Int[Tensor, " tokens"], mask: Bool[Tensor, "rows pos"]
) -> Float[Tensor, " rows"]:
    """Compute the mean over a row's completion of -log g(y_t), in nats; `mask` says which tokens are a row's."""
    return _row_means(functional.cross_entropy(logits.float(), targets, reduction="none"), mask)


def divergence(
    base: Float[Tensor, "tokens vocab"],
    student: Float[Tensor, "tokens vocab"],
    mask: Bool[Tensor, "rows pos"],
    measure: Divergence = "kl",
) -> Float[Tensor, " rows"]:
    """Compute the mean over a row's completion of D(base || student); `mask` says which tokens are a row's.

    KL is in nats a token, total variation between 0 and 1.
    """
    values: Any = _Divergence.apply(base, student, measure)
    return _row_means(values, mask)


class _Divergence(torch.autograd.Function):
    """D(base || student) of every token, whose gradient with respect to the student's logits is kept for the way back.

    Some tokens at a time: probabilities over the vocabulary are the largest tensors of a step, and automatic
    differentiation would write and keep a whole one for each operation.
    """

    @staticmethod
    def forward(
        ctx: Any, base: Float[Tensor, "tokens vocab"], student: Float[Tensor, "tokens vocab"], measure: Divergence
    ) -> Float[Tensor, " tokens"]:
        values = torch.empty(len(base), dtype=torch.float32, device=base.device)
        gradient = torch.empty_like(student)
        of_part = _kl if measure == "kl" else _total_variation
        for start in range(0, len(base), _TOKENS_AT_A_TIME):
            part = slice(start, start + _TOKENS_AT_A_TIME)
            wanted = functional.log_softmax(base[part].float(), dim=-1)
            found = functional.log_softmax(student[part].float(), dim=-1)
            values[part], gradient[part] = of_part(wanted, found)
        ctx.save_for_backward(gradient)
        return values

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return None, gradient * grad_outputs[0][:, None].to(gradient.dtype), None


_LogProbabilities = Float[Tensor, "tokens vocab"]


def _kl(base: _LogProbabilities, student: _LogProbabilities) -> tuple[Tensor, Tensor]:
    """Compute KL(p || q) and its gradient q - p; overwrites both arguments."""
    p = base.exp()
    return base.sub_(student).mul_(p).sum(-1), student.exp_().sub_(p)


def _total_variation(base: _LogProbabilities, student: _LogProbabilities) -> tuple[Tensor, Tensor]:
    """Compute |q - p|_1 / 2 and its gradient q (s - q.s), s = sign(q - p) / 2; overwrites both arguments."""
    q = student.exp_()
    difference = q - base.exp_()
    values, signs = difference.abs().sum(-1) / 2, difference.sign_().div_(2)
    return values, signs.sub_((signs * q).sum(-1, keepdim=True)).mul_(q)


def activation_distance(
    student: Float[Tensor, "rows pos d_model"],
    control: Float[Tensor, "rows pos d_model"],
    mask: Bool[Tensor, "rows pos"],
) -> Float[Tensor, " rows"]:
    """Compute the mean over a row's suffix of |student - control|^2 / |control|^2; nothing flows into `control`."""
    control, student = control.detach()[mask].float(), student[mask].float()
    squares = (student - control).square().sum(-1)
    return _row_means(squares / control.square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny), mask)


def squared_projection(
    hidden: Float[Tensor, "rows pos d_model"],
    vector: Float[Tensor, " d_model"],
    mask: Bool[Tensor, "rows pos"],
    *,
    set_point: float = 0.0,
    scale: float = 1.0,
) -> Float[Tensor, " rows"]:
    """Compute the mean over a row's suffix of ((v . h - set point) / scale)^2."""
    projection = einsum(hidden[mask].float(), vector.to(hidden.device).float(), "pos d, d -> pos")
    return _row_means(((projection - set_point) / scale).square(), mask)


def _row_means(values: Float[Tensor, " pos"], mask: Bool[Tensor, "rows pos"]) -> Float[Tensor, " rows"]:
    """Compute the mean of each row's values, which are given one row after the other."""
    row_of = mask.nonzero()[:, 0]
    sums = torch.zeros(len(mask), dtype=values.dtype, device=values.device).index_add(0, row_of, values)
    return sums / mask.sum(1)


# -- all of them on a batch --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Losses:
    """Objectives with their weights (those of 0 are not computed), and what they refer to."""

    weights: Mapping[str, float]
    layers: Sequence[int] | None = None
    """Layers whose ``resid_post`` the losses on activations compare; None takes all."""
    directions: Sequence[Direction] = ()
    """Directions on which projections are penalised."""
    set_point: SetPoint = "zero"
    """Where a projection should be: at zero, or at the direction's mean over control prompts."""
    steering: PreventativeSteering | None = None
    divergence: Divergence = "kl"
    _active: dict[str, Objective] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name, weight in self.weights.items():
            OBJECTIVES.find(name)
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"objectives: the weight of {name} must be 0 or more, found {weight!r}")
        active = {name: OBJECTIVES[name] for name in OBJECTIVES if self.weights.get(name, 0) > 0}
        if not active:
            raise ConfigError(f"objectives: none has a weight; give one of {', '.join(OBJECTIVES)}")
        if "direction_penalty" in active and not self.directions:
            raise ConfigError("objectives: direction_penalty needs directions; name saved ones under 'directions'")
        for direction in self.directions:
            if direction.site not in STREAM_SITES:
                raise DirectionError(
                    f"direction penalty: nothing of width d_model at {direction.site!r}; valid: {STREAM_SITES}"
                )
        object.__setattr__(self, "_active", active)

    @property
    def kinds(self) -> frozenset[ExampleKind]:
        """Name the kinds of examples that some objective applies to."""
        return frozenset(kind for objective in self._active.values() for kind in objective.kinds)

    @property
    def reference_kinds(self) -> frozenset[ExampleKind]:
        """Name the kinds of examples whose reference the base model must read."""
        return frozenset(kind for o in self._active.values() if o.reference for kind in o.kinds)

    @property
    def measure(self) -> Divergence | None:
        """Say how distributions are compared; None where no objective compares any."""
        return self.divergence if any(o.compares_distributions for o in self._active.values()) else None

    @contextmanager
    def rows(self, model: Any, batch: Batch) -> Iterator[dict[str, Float[Tensor, " applicable"]]]:
        """Compute every objective on the rows of `batch` that it applies to; go backward before the context is left.

        The model runs twice: without its adapter on the references, then with it on the prompts. Hooks of the second
        run stay until the end, since checkpointed blocks run again in the backward pass.
        """
        layout = layout_of(model)
        base = None
        if batch.reference is not None:
            with torch.no_grad(), model.disable_adapter(), ExitStack() as stack:
                base = self._run(model, layout, batch, batch.reference_rows, stack, reference=True)
        with ExitStack() as stack:
            if self.steering is not None:
                stack.enter_context(self.steering.applied(model, batch))
            everything = torch.arange(len(batch), device=batch.targets.device)
            student = self._run(model, layout, batch, everything, stack)
            values = {name: self._value(name, batch, student, base) for name in self._active}
            yield {name: value for name, value in values.items() if len(value)}

    def total(self, rows: Mapping[str, Float[Tensor, " applicable"]], n_examples: int) -> Float[Tensor, ""]:
        """Compute the weighted sum, where `n_examples` are the examples of the whole step."""
        parts = [self.weights[name] * values.sum() for name, values in rows.items()]
        return torch.stack(parts).sum() / n_examples

    # -- running the model ---------------------------------------------------------------------------------------------

    def _run(
        self, model: Any, layout: Layout, batch: Batch, rows: Tensor, stack: ExitStack, *, reference: bool = False
    ) -> _Pass:
        side = batch.reference if reference and batch.reference is not None else batch.student
        columns, hidden = side.suffix[..., None], {}
        for site, layers in self._sites(layout, reference=reference).items():
            picked = recording(layout, sites=[site], layers=layers, pick=lambda x: x.take_along_dim(columns, dim=1))
            hidden[site] = stack.enter_context(picked)
        wanted = [o for o in self._active.values() if o.reference or not reference]
        mask = batch.target_mask[rows]
        if not any(o.logits for o in wanted):
            mask = torch.zeros_like(mask)
        with _logits_at(layout.unembedding, mask.nonzero()[:, 0], side.predicting[mask]):
            output = model(
                input_ids=side.input_ids,
                attention_mask=side.attention_mask,
                position_ids=side.position_ids,
                use_cache=False,
            )
        # Copied, because recomputing a checkpointed block records again.
        recorded = {place: values for found in hidden.values() for place, values in found.items()}
        return _Pass(rows, mask, output.logits[0], recorded)

    def _sites(self, layout: Layout, *, reference: bool) -> dict[str, list[int]]:
        """Choose the layers to record, by site."""
        sites: dict[str, set[int]] = {}
        if self._active.keys() & _ON_STATES:
            sites["resid_post"] = set(self._layers(layout))
        if "direction_penalty" in self._active and not reference:
            for direction in self.directions:
                sites.setdefault(direction.site, set()).add(direction.layer)
        return {site: sorted(layers) for site, layers in sites.items()}

    def _layers(self, layout: Layout) -> Sequence[int]:
        return range(layout.n_layers) if self.layers is None else self.layers

    # -- single objectives ---------------------------------------------------------------------------------------------

    def _value(self, name: str, batch: Batch, student: _Pass, base: _Pass | None) -> Float[Tensor, " applicable"]:
        rows = batch.rows_of(self._active[name].kinds)
        if not len(rows):
            return torch.zeros(0, device=rows.device)
        if name in _ON_TOKENS:
            own = batch.target_mask[rows]
            return negative_log_likelihood(student.logits_of(rows), batch.targets[rows][own], own)
        mask = batch.suffix_mask[rows]
        if name == "direction_penalty":
            return torch.stack([self._penalty(direction, student, rows, mask) for direction in self.directions]).mean(0)
        if base is None:
            raise AssertionError(f"objective {name!r}: the batch was collated without references")
        if name in _ON_STATES:
            places = sorted(place for place in base.hidden if place[0] == "resid_post")
            distances = [
                activation_distance(student.hidden_of(place, rows), base.hidden_of(place, rows), mask)
                for place in places
            ]
            return torch.stack(distances).mean(0)
        return divergence(base.logits_of(rows), student.logits_of(rows), batch.target_mask[rows], self.divergence)

    def _penalty(self, direction: Direction, student: _Pass, rows: Tensor, mask: Tensor) -> Tensor:
        return squared_projection(
            student.hidden_of((direction.site, direction.layer), rows),
            direction.vector,
            mask,
            set_point=direction.projections.get("control", 0.0) if self.set_point == "control" else 0.0,
            scale=direction.stream_norm,
        )


@contextmanager
def _logits_at(unembedding: nn.Module, rows: Int[Tensor, " tokens"], columns: Int[Tensor, " tokens"]) -> Iterator[None]:
    """Compute logits at these places only, of shape (1, tokens, vocab).

    Logits are the largest tensors of a step. The models' own ``logits_to_keep`` would compute those of padding too, and
    hand a sliced input to the matrix product, which then copies the unembedding once for every row.
    """

    handle = on_input(unembedding, lambda hidden: hidden[rows, columns][None])
    try:
        yield
    finally:
        handle.remove()


@dataclass(frozen=True, eq=False)
class _Pass:
    """What one run of the model left: its rows, logits that predict their completions, hidden states of suffixes.

    `mask` says where completions are; logits stand one after the other in its order.
    """

    rows: Int[Tensor, " own"]
    mask: Bool[Tensor, "own completion"]
    logits: Float[Tensor, "tokens vocab"]
    hidden: Mapping[tuple[str, int], Float[Tensor, "own suffix d_model"]]

    def logits_of(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "chosen vocab"]:
        """Give the logits of some rows of the batch."""
        if len(rows) == len(self.rows):  # all of them: a copy is saved
            return self.logits
        chosen = torch.isin(self.rows, rows)
        return self.logits[chosen[self.mask.nonzero()[:, 0]]]

    def hidden_of(self, place: tuple[str, int], rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows suffix d_model"]:
        """Give the hidden states of some rows of the batch at (site, layer)."""
        return self.hidden[place][torch.searchsorted(self.rows, rows)]
