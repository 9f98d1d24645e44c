"""Run a model under interventions: plain PyTorch hooks on its Hugging Face modules, gone when the block is left.

    with apply(model, [AblateDirection(v, layers=[10]), Steer(...)]) as applied:
        model.generate(...)

Every site of every layer gets one hook that runs its edits in the order of the interventions, out of place. Where an
edit acts only at some positions, the hooks must know the positions of a batch's rows:

* ``all`` needs nothing.
* ``prompt``, ``last_prompt`` and ``generated`` are inferred from the key-value cache, if the model is called with one
  (as ``model.generate`` does): the first call with an empty cache is the prompt, calls of one token are generation.
* ``injection`` and ``stem``, and any position without a cache, must be given with ``applied.positions([...])``; the
  decoder of :mod:`leakmech.generation` does so. Prompts that are given once hold for all that is generated after them.

What is not known is an error, never a guess. Hidden states that transformers itself returns are those of before the
hooks; :func:`leakmech.models.sites.recording`, entered inside, sees what the model goes on with.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from leakmech.core.errors import InterventionError
from leakmech.interventions.applied import Applied, Mask
from leakmech.interventions.base import AttentionEdit, Edit, Intervention, Probe
from leakmech.interventions.checks import as_interventions, fitting_layout
from leakmech.interventions.fields import choice
from leakmech.interventions.positions import RowPositions, call_inputs
from leakmech.models.adapters import base_of
from leakmech.models.attention_mask import AttentionCall, Bias, attention_bias, refuse_other_attention
from leakmech.models.layout import Layout
from leakmech.models.load import LoadedModel
from leakmech.models.sites import QUERIES, SITE_ORDER, SITES, at_site


@contextmanager
def apply(model: Any, interventions: Intervention | Iterable[Intervention]) -> Iterator[Applied]:
    """While this is entered, `model` runs under `interventions`.

    Parameters
    ----------
    model
        A Hugging Face or PEFT model, or a :class:`LoadedModel`; the latter is also compared with the model that the
        interventions were fitted on.
    interventions
        One or several interventions; at one site they act in this order.

    Yields
    ------
    Applied
        Takes the positions of a batch's rows, see :meth:`Applied.positions`.

    Raises
    ------
    InterventionError
        An intervention does not fit the model or another one; or, while the model runs, positions are not known or an
        intervention yields NaN.
    """
    chosen = as_interventions(interventions)
    layout = fitting_layout(chosen, model, under_adapter=True)
    if isinstance(model, LoadedModel):
        model = model.model
    applied = Applied(chosen, device=next(layout.embedding.parameters()).device)
    with ExitStack() as hooks:
        _install(model, layout, applied, hooks)
        yield applied


# -- hooks ---------------------------------------------------------------------------------------------------------


class _Step:
    """One edit, at the positions and in the rows that it is for."""

    def __init__(self, edit: Edit, intervention: Intervention, applied: Applied) -> None:
        self.edit = edit
        self.intervention = intervention
        self.applied = applied
        self.checked = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.applied.reading:
            return x
        edit = self.edit
        rows, mask = None, True
        if edit.positions != "all" or edit.condition is not None or edit.needs_rows:
            rows = self.applied.rows(x)
            mask = self.applied.where(rows, edit, x.shape[1], x.device)
            if mask is False:
                return x
        new = edit.change(x, rows)
        if isinstance(mask, Tensor):
            new = torch.where(mask[..., None], new, x)
        if not self.checked:
            self._refuse_nan(x, new)
        return new

    def _refuse_nan(self, x: Tensor, new: Tensor) -> None:
        """Check the first values only: what is too strong is so at every token."""
        self.checked = True
        if bool(new.sum(dtype=torch.float32).isfinite()):  # one pass; a sum that overflows is looked at again
            return
        if bool((x.isfinite() & ~new.isfinite()).any()):
            raise InterventionError(
                f"{self.intervention}: yields NaN or infinite values at {self.edit.site} of layer {self.edit.layer}; "
                "lower its strength"
            )


class _Read:
    """Asks a probe about the prompts when their part that it reads is in the call."""

    def __init__(self, probe: Probe, applied: Applied) -> None:
        self.probe = probe
        self.applied = applied

    def __call__(self, x: Tensor) -> Tensor:
        if self.applied.reading == self.probe.ahead:
            self._read(x, self.applied.rows(x))
        return x

    def _read(self, x: Tensor, rows: RowPositions) -> None:
        n_columns = x.shape[1]
        if not rows.reach_prompt(n_columns):
            return
        if self.probe.position != "last_prompt":
            mask = self.applied.mask(rows, self.probe.position, n_columns, x.device)
            rows.decisions[self.probe.name] = self.probe.decide(_masked_mean(x, mask))
            return
        column = n_columns - 1 - rows.places(1)[:, 0].to(x.device)
        if bool((column >= 0).all()):
            stream = x[torch.arange(len(rows), device=x.device), column]
            rows.decisions[self.probe.name] = self.probe.decide(stream)


class _AllRead(Exception):  # noqa: N818 - it ends a pass, nothing is wrong
    """The last of the probes that are read ahead has been read."""


class _Ahead:
    """Reads probes in a pass of their own, before the model sees the same prompts under the interventions."""

    def __init__(self, probes: Sequence[Probe], applied: Applied) -> None:
        self.names = {probe.name for probe in probes}
        self.applied = applied

    def end(self, x: Tensor) -> Tensor:
        """End the pass after the last probe."""
        if self.applied.reading:
            raise _AllRead
        return x

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        rows, inputs = self.applied.known_rows, call_inputs(args, kwargs)
        if rows is None or inputs is None or self.names <= rows.decisions.keys():
            return
        if not rows.reach_prompt(inputs.shape[1]):  # it is in the cache
            return
        self.applied.reading = True
        try:
            with torch.no_grad():
                model(*args, **{**kwargs, "past_key_values": None, "use_cache": False})
        except _AllRead:
            pass
        finally:
            self.applied.reading = False


def _masked_mean(x: Float[Tensor, "rows columns width"], mask: Mask) -> Float[Tensor, "rows width"]:
    """Mean over the columns of a mask; NaN where the mask has none."""
    if isinstance(mask, bool):
        return x.float().mean(dim=1) if mask else x.float()[:, 0] * torch.nan
    weights = mask[..., None].float()
    return (x.float() * weights).sum(dim=1) / weights.sum(dim=1)


@dataclass(frozen=True, eq=False)
class _Plan:
    """Steps by (site, layer) and attention edits by layer, in the order of the interventions; probes read ahead."""

    steps: Mapping[tuple[str, int], list[Callable[[Tensor], Tensor]]]
    attention: Mapping[int, list[AttentionEdit]]
    ahead: _Ahead | None

    @classmethod
    def of(cls, layout: Layout, applied: Applied) -> _Plan:
        steps: dict[tuple[str, int], list[Callable[[Tensor], Tensor]]] = defaultdict(list)
        attention: dict[int, list[AttentionEdit]] = defaultdict(list)
        probes: dict[str, Probe] = {}
        for intervention in applied.interventions:
            probe = intervention.condition
            if probe is not None and probe.name not in probes:
                probes[probe.name] = probe
                steps[probe.site, probe.layer].append(_Read(probe, applied))
            for edit in intervention.edits(layout):
                if isinstance(edit, AttentionEdit):
                    attention[edit.layer].append(edit)
                else:
                    choice(edit.site, (*SITES, QUERIES), f"{intervention}: site")
                    steps[edit.site, edit.layer].append(_Step(edit, intervention, applied))
        read_ahead = [probe for probe in probes.values() if probe.ahead]
        if not read_ahead:
            return cls(steps, attention, None)
        ahead = _Ahead(read_ahead, applied)
        last = max(read_ahead, key=lambda probe: (probe.layer, SITE_ORDER.index(probe.site)))
        steps[last.site, last.layer].append(ahead.end)
        return cls(steps, attention, ahead)


def _install(model: nn.Module, layout: Layout, applied: Applied, hooks: ExitStack) -> None:
    plan = _Plan.of(layout, applied)
    _watch_calls(model, applied, plan.ahead, hooks)
    # In the order of the forward pass: where two sites share a module, the later one sees what the earlier has changed.
    for site, layer in sorted(plan.steps, key=lambda place: SITE_ORDER.index(place[0])):
        hooks.enter_context(at_site(layout.block(layer), site, _chain(plan.steps[site, layer])))
    if plan.attention:
        refuse_other_attention(model)
        hooks.enter_context(
            attention_bias(layout, {layer: _bias(e, layout, applied) for layer, e in plan.attention.items()})
        )


def _watch_calls(model: Any, applied: Applied, ahead: _Ahead | None, hooks: ExitStack) -> None:
    """See the arguments of the model, read probes ahead, and look once whether the logits are numbers."""
    checked = False

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if applied.reading:
            return
        applied.see_call(args, kwargs)
        if ahead is not None:
            ahead(module, args, kwargs)

    def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        nonlocal checked
        if applied.reading:
            return
        applied.leave_call()
        logits = getattr(output, "logits", None)
        if checked or not isinstance(logits, Tensor):
            return
        checked = True
        if not bool(logits[:, -1].isfinite().all()):
            names = "; ".join(map(str, applied.interventions)) or "no intervention"
            raise InterventionError(f"the model's logits are NaN or infinite under {names}; lower the strength")

    # PEFT runs the forward of its base without calling it, and `generate` of its base calls the base.
    for module in {model, base_of(model)}:
        hooks.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        hooks.callback(module.register_forward_hook(after, always_call=True).remove)


def _chain(steps: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    if len(steps) == 1:
        return steps[0]

    def run(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return run


def _bias(edits: Sequence[AttentionEdit], layout: Layout, applied: Applied) -> Bias:
    """The sum of what the attention edits of one layer add to its scores."""
    chosen = []
    for edit in edits:
        heads = torch.zeros(layout.n_heads, dtype=torch.bool)
        heads[list(edit.heads)] = True
        chosen.append((edit, heads, math.log(edit.factor) if edit.factor else -math.inf))

    def bias(call: AttentionCall) -> Tensor | None:
        if applied.reading:
            return None
        rows = applied.rows(torch.empty(call.n_rows, 0, device=call.device))
        total = None
        for edit, heads, added in chosen:
            queries = applied.where(rows, edit, call.n_queries, call.device)
            keys = applied.mask(rows, edit.span, call.n_keys, call.device)
            if queries is False or keys is False:
                continue
            within = applied.mask(rows, edit.span, call.n_queries, call.device)
            queries = _without(queries, within)
            where = _outer(queries, heads.to(call.device), _tensor(keys, call))
            part = torch.zeros(where.shape, device=call.device).masked_fill(where, added)
            total = part if total is None else total + part
        return total

    return bias


def _without(mask: Mask, excluded: Mask) -> Mask:
    if isinstance(excluded, Tensor):
        return ~excluded if mask is True else mask & ~excluded
    return mask


def _tensor(mask: Mask, call: AttentionCall) -> Bool[Tensor, "rows keys"]:
    return mask if isinstance(mask, Tensor) else torch.full((call.n_rows, call.n_keys), mask, device=call.device)


def _outer(
    queries: Mask, heads: Bool[Tensor, " heads"], keys: Bool[Tensor, "rows keys"]
) -> Bool[Tensor, "rows heads queries keys"]:
    chosen = heads[None, :, None, None] & keys[:, None, None, :]
    return chosen & queries[:, None, :, None] if isinstance(queries, Tensor) else chosen
