"""Attribution patching: the effect of patching every head and every neuron at once, to first order.

Patching component a of a run with its value in the other run changes the target m by about

    effect(a) = (a_clean - a_corrupt) . dm/da,                                  (Nanda 2023; Syed et al. 2023)

summed over the tokens that both prompts share, where the derivative is taken in the corrupt run (*denoising*) or in the
clean one (*noising*). Two forward passes and one backward pass give all components of all layers. Two methods mend what
the linear approximation gets wrong:

    graddrop              1/(L-1) sum_l |effect with dm/da cut at the sublayers of layer l|   (Kramar et al. 2024, AtP*)
    integrated_gradients  the derivative averaged over m inputs between corrupt and clean      (Hanna et al. 2024)

The first is for direct and indirect effects that cancel: it takes one backward pass a layer and has no sign. The second
is for saturation (softmax, norms): it interpolates the inputs of the first block, so it equalises the lengths of the
prompts first (:mod:`leakmech.mechanism.attribution.pairs`).

Effects are weighted and summed over the pairs of a sample; scores divide by the shift of the target, so that a score is
the share of the shift that a component restores: 1 is all of it, a negative one works against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.mechanism.attribution.paired_run import PairedRun, Side
from leakmech.mechanism.attribution.pairs import (
    CONTRASTS,
    TILT_CONTRASTS,
    Continuations,
    Contrast,
    Endings,
    Pair,
    make_pairs,
    polar_endings,
)
from leakmech.mechanism.attribution.scores import Attribution, EffectSums
from leakmech.mechanism.attribution.targets import ContinuationTarget, DirectionTarget, Target
from leakmech.mechanism.behaviour import sample_behaviour
from leakmech.mechanism.completions import sample_completions, tilt_endings
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.batching import frozen, in_batches
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Recorded, Site, at_site, recording
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.expression import load_estimator

Method = Literal["attribution_patching", "graddrop", "integrated_gradients"]
METHODS: tuple[Method, ...] = get_args(Method)


def sites_of(layout: Layout) -> tuple[Site, ...]:
    """The sites of heads, neurons and sublayers; a mixture of experts has no neurons."""
    return ("attn_out", "mlp_out", "z", *(("mlp_post",) if layout.d_mlp else ()))


Effects = dict[Site, Float[Tensor, "row layer component"]]


def attribute(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    target: Direction | Literal["behaviour", "tilt"] = "behaviour",
    method: Method = "attribution_patching",
    side: Side = "corrupt",
    contrasts: dict[Contrast, float] | None = None,
    continuations: Continuations | None = None,
    endings: Endings | None = None,
    steps: int = 8,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    seed: int = 0,
    progress: Shown = None,
) -> Attribution:
    """Measure how much of the affect shift every head, neuron and sublayer carries.

    ``attribute(model, "hexl", target=direction).heads_frame()`` ranks the heads.

    Parameters
    ----------
    model
        A model as :func:`leakmech.load_model` returns it.
    dataset
        Samples, or the name or file of a data set.
    target
        A direction; ``tilt``: odds of glad and sad completions; ``behaviour``: of its answers after the injections.
    method
        ``attribution_patching``, ``graddrop`` or ``integrated_gradients``; see the head of this module.
    side
        ``corrupt`` (denoising) or ``clean`` (noising): the run in which derivatives are taken.
    contrasts
        Pairs of clean and corrupt condition with weights; None: as :mod:`leakmech.mechanism.attribution.pairs` says.
    continuations, seed
        Token ids of continuations for ``behaviour``, by sample and polarity; None samples them, with the seed.
    endings
        Weighted completions for ``tilt`` (:func:`leakmech.mechanism.completions.tilt_endings`); None samples them.
    steps
        Number of inputs between corrupt and clean, for integrated gradients.
    prompting, progress
        How samples become prompts; what receives the progress (:mod:`leakmech.core.progress`).
    batch_size
        Pairs at a time; ``auto`` chooses by the device. The number is halved whenever memory runs out.

    Returns
    -------
    Attribution
        Effects in units of the target, and the scores and rankings that they give.

    Raises
    ------
    ConfigError
        A method, target or condition does not exist, or no sample has continuations of both polarities.
    DirectionError
        The direction was fitted on another model, or is not one of ``resid_pre`` or ``resid_post`` at ``last_prompt``.
    ModelError
        The architecture is not known, or positions cannot be found in the rendered prompts.
    GenerationError
        No sampled text can be used.
    ActivationError
        Memory does not suffice for one pair, or the target does not differ between the conditions.
    """
    _check_method(method, side, steps)
    samples, renderer = load_dataset(dataset), Renderer(model.tokenizer, prompting)
    wanted, progress = parse_target(target, model), shown_progress(progress)
    if endings is None:
        endings = scored_endings(
            wanted, continuations, model=model, samples=samples, renderer=renderer, seed=seed, progress=progress
        )
    pairs = make_pairs(
        samples,
        renderer,
        contrasts=contrasts or (TILT_CONTRASTS if wanted.name == "tilt" else CONTRASTS),
        endings=endings,
        equalised=method == "integrated_gradients",
    )
    return attribute_pairs(
        model, pairs, wanted, method=method, side=side, steps=steps, batch_size=batch_size, progress=progress
    )


def _check_method(method: str, side: str, steps: int) -> None:
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}{nearest(method, METHODS)}")
    if side not in get_args(Side):
        raise ConfigError(f"unknown side {side!r}{nearest(side, get_args(Side))}")
    if steps < 1:
        raise ConfigError(f"steps must be at least 1, found {steps}")


def scored_endings(
    target: Target,
    given: Continuations | None,
    *,
    model: LoadedModel,
    samples: PromptSet,
    renderer: Renderer,
    seed: int,
    progress: Progress,
) -> Endings | None:
    """Give the endings that the target scores: of the continuations given, else of sampled ones; None for a direction.

    The embedded estimator says how glad the sampled completions of ``tilt`` are.
    """
    how: Any = {"renderer": renderer, "seed": seed, "progress": progress}
    if target.name == "tilt":
        return tilt_endings(sample_completions(model, samples, judge=load_estimator("embedded"), **how))
    if target.name != "behaviour":
        return None
    return polar_endings(sample_behaviour(model, samples, **how) if given is None else given)


def parse_target(target: Direction | str | Target, model: LoadedModel) -> Target:
    """Make a target of a direction or a name; a finished target stays as it is."""
    if isinstance(target, Direction):
        return DirectionTarget.of(target, model)
    if isinstance(target, str):
        if target not in ("behaviour", "tilt"):
            raise ConfigError(f"unknown target {target!r}; give a direction, 'tilt' or 'behaviour'")
        return ContinuationTarget.of(model, target)
    return target


def attribute_pairs(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    *,
    method: Method = "attribution_patching",
    side: Side = "corrupt",
    steps: int = 8,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Attribution:
    """Run :func:`attribute` on finished pairs and a finished target."""
    sums = EffectSums(layout_of(model.model), pairs)

    def work(batch: Sequence[Pair]) -> tuple[Effects, Tensor]:
        integrated = method == "integrated_gradients"
        replayed: tuple[Side, ...] = ("corrupt", "clean") if integrated else (side,)
        start = partial(PairedRun, model, batch, target, sites=sites_of(layout_of(model.model)), replayed=replayed)
        if integrated:
            run = start(whole=True)
            effects = _integrated(run, steps)
        elif method == "graddrop":
            with _gates(layout_of(model.model), target.layer + 1) as close:
                run = start(taped=side)
                effects = _graddrop(run, side, close)
        else:
            run = start(taped=side)
            effects = _weighted(run, _effects(run, _gradients(run.side(side).activations, run.side(side).taped_values)))
        return {site: values.cpu() for site, values in effects.items()}, run.shifts.cpu()

    with frozen(model.model):
        for batch, (effects, shifts) in in_batches(
            pairs,
            work,
            batch_size=batch_size,
            device=model.device,
            label=method.replace("_", " "),
            progress=progress,
        ):
            sums.add(batch, effects, shifts)
    return sums.finish(method=method, target=target.name, side=side)


# -- methods -----------------------------------------------------------------------------------------------------------


def _graddrop(run: PairedRun, side: Side, close: Callable[[int], None]) -> Effects:
    """Take one backward pass for each layer whose sublayers pass no gradient on; the forward pass is shared."""
    total: Effects = {}
    taped = run.side(side)
    for layer in range(run.stop):
        close(layer)
        gradients = _gradients(taped.activations, taped.taped_values, keep=layer < run.stop - 1)
        for site, values in _effects(run, gradients).items():
            total[site] = total[site] + values.abs() if layer else values.abs()
    return {site: values * run.weights.abs()[:, None, None] / max(1, run.stop - 1) for site, values in total.items()}


def _integrated(run: PairedRun, steps: int) -> Effects:
    start, step = run.corrupt.replay.streams[0], run.clean.replay.streams[0] - run.corrupt.replay.streams[0]
    total: dict[tuple[Site, int], Tensor] = {}
    for number in range(steps):
        leaf = (start + (number + 0.5) / steps * step).detach().requires_grad_()  # the midpoint rule
        with (
            torch.enable_grad(),
            recording(
                run.layout, sites=sites_of(run.layout), layers=range(run.stop), pick=lambda values: values
            ) as recorded,
        ):
            values = run.value(run.corrupt.replay.run(leaf, stop=run.stop), run.corrupt)
        for key, gradient in _gradients(recorded, values).items():
            total[key] = total[key] + gradient / steps if number else gradient / steps
    return _weighted(run, _effects(run, total))


def _gradients(recorded: Recorded, values: Tensor, *, keep: bool = False) -> dict[tuple[Site, int], Tensor]:
    """Differentiate the target by every recorded activation; `keep` allows another backward pass.

    Rows do not touch each other, so the derivative of their sum serves all.
    """
    keys = list(recorded)
    found = torch.autograd.grad(values.sum(), [recorded[key] for key in keys], retain_graph=keep)
    return dict(zip(keys, found, strict=True))


def _effects(run: PairedRun, gradients: dict[tuple[Site, int], Tensor]) -> Effects:
    """Compute (clean - corrupt) . gradient, summed over tokens and over the width of each component."""
    effects: Effects = {}
    for site in sites_of(run.layout):
        layers = []
        for layer in range(run.stop):
            products = run.difference(site, layer).mul_(gradients[site, layer])
            if site == "z":
                layers.append(reduce(products, "row pos (head width) -> row head", "sum", head=run.layout.n_heads))
            else:
                layers.append(products.sum(dim=1 if site == "mlp_post" else (1, 2)).reshape(len(run.pairs), -1))
        effects[site] = torch.stack(layers, dim=1)
    return effects


def _weighted(run: PairedRun, effects: Effects) -> Effects:
    return {site: values * run.weights[:, None, None] for site, values in effects.items()}


@contextmanager
def _gates(layout: Layout, n_layers: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that makes one layer's sublayers, and no other's, pass no gradient on to the stream."""
    closed: list[int] = []

    def gate(layer: int) -> Callable[[Tensor], None]:
        def see(written: Tensor) -> None:
            if written.requires_grad:  # not in passes without a tape
                written.register_hook(lambda gradient: torch.zeros_like(gradient) if layer in closed else gradient)

        return see

    def close(layer: int) -> None:
        closed[:] = [layer]

    with ExitStack() as hooks:
        for layer, site in product(range(n_layers), ("attn_out", "mlp_out")):
            hooks.enter_context(at_site(layout.block(layer), site, gate(layer)))
        yield close
