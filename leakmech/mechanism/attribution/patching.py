"""Activation patching: one component's activations of the other run are put into a run, and the target is read again.

    denoising   effect = m(corrupt run with a_clean)  - m(corrupt run)       what the component alone restores
    noising     effect = m(clean run) - m(clean run with a_corrupt)          what is lost without it

(Heimersheim & Nanda 2024). Activations are exchanged at the tokens that both prompts share, from the stem on, so heads
that bring affect from the injection to the stem are seen there. Effects are weighted and summed over the pairs of a
sample and divided by the shift, as in :mod:`leakmech.mechanism.attribution.gradients`, whose exact counterpart this is:
one forward pass per component, from the patched layer on and over the shared tokens only
(:mod:`leakmech.mechanism.attribution.replay`).

The residual stream is patched by named regions of the prompt: ``injection``, ``turn`` (in prefill form: the stem in
the user's turn, and the turn's change), ``stem``, ``tail`` (the chat template's, in chat form), ``last`` (the last
token of the prompt, also part of the tail, or of the stem where there is no tail) and ``ending`` (the text that is
scored after the prompt). That is done on equalised prompts, where every token has its partner.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.core.errors import ActivationError, ConfigError
from leakmech.core.progress import Progress, no_progress
from leakmech.mechanism.attribution.paired_run import PairedRun, Side
from leakmech.mechanism.attribution.pairs import Pair
from leakmech.mechanism.attribution.replay import Patch, patched
from leakmech.mechanism.attribution.scores import ranked_frame
from leakmech.mechanism.attribution.targets import Target
from leakmech.mechanism.sums import KeyedSums
from leakmech.models.batching import in_batches
from leakmech.models.components import Component, ComponentKind
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site
from leakmech.prompts.locate import REGIONS, LocatedPrompt

_SUBLAYERS: tuple[ComponentKind, ...] = ("attn", "mlp")


@dataclass(frozen=True, eq=False)
class Patching:
    """Effects of patching, in units of the target."""

    side: Side
    target: str
    samples: tuple[str, ...]
    labels: tuple[tuple[int, int | str], ...]
    """Layer, and number or name, of what each patch changes."""
    effects: Float[np.ndarray, "sample patch"]
    shifts: Float[np.ndarray, " sample"]
    """The target of the clean run minus that of the corrupt one."""

    @property
    def method(self) -> str:
        """Give the method's name: ``denoising`` or ``noising``."""
        return "denoising" if self.side == "corrupt" else "noising"

    def scores(self) -> Float[np.ndarray, " patch"]:
        """Compute the share of the shift that each patch restores (denoising) or takes away (noising)."""
        return self.effects.sum(axis=0) / self.shifts.sum()

    def grid(self) -> Float[np.ndarray, "layer component"]:
        """Arrange scores by layer and component, where the same components of every layer were patched."""
        n_layers = len({layer for layer, _ in self.labels})
        return self.scores().reshape(n_layers, -1)

    def to_frame(self, *, column: str = "head") -> pd.DataFrame:
        """Make one row per patch, by descending size of the score: layer, `column`, method, target, score, rank."""
        scores = self.scores()
        order = ranked_frame(scores[None], column="patch", method=self.method, target=self.target)
        labels = [self.labels[index] for index in order["patch"]]
        frame = order.drop(columns=["layer", "patch"])
        frame.insert(0, "layer", [layer for layer, _ in labels])
        frame.insert(1, column, [name for _, name in labels])
        return frame


def patch_heads(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    *,
    side: Side = "corrupt",
    layers: Sequence[int] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Patching:
    """Patch every head alone, in the named layers or (None) in all."""
    layout = layout_of(model.model)
    chosen = _chosen(layers, layout)
    patches = [((layer, head), [Component(layer, "head", head)]) for layer in chosen for head in range(layout.n_heads)]
    return patch_components(model, pairs, target, patches, side=side, batch_size=batch_size, progress=progress)


def patch_sublayers(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    *,
    side: Side = "corrupt",
    layers: Sequence[int] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Patching:
    """Patch every attention layer (``attn``) and every MLP (``mlp``) alone."""
    chosen = _chosen(layers, layout_of(model.model))
    patches = [((layer, kind), [Component(layer, kind)]) for layer in chosen for kind in _SUBLAYERS]
    return patch_components(model, pairs, target, patches, side=side, batch_size=batch_size, progress=progress)


def patch_components(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    patches: Sequence[tuple[tuple[int, int | str], Sequence[Component]]],
    *,
    side: Side = "corrupt",
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Patching:
    """Patch groups of components, each a label and the components that are patched together."""
    if not patches:
        raise ConfigError("patches: name at least one group of components")
    sites = sorted({component.site for _, group in patches for component in group})

    def work(batch: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        run = PairedRun(model, batch, target, sites=sites)
        columns = [_patched_value(run, side, component_patches(run, group, side)) for _, group in patches]
        return _signed(run, side, torch.stack(columns, dim=1)), run.shifts

    labels = tuple(label for label, _ in patches)
    return _collect(model, pairs, target, work, side=side, labels=labels, batch_size=batch_size, progress=progress)


def patch_stream(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    *,
    side: Side = "corrupt",
    layers: Sequence[int] | None = None,
    regions: Sequence[str] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Patching:
    """Patch the residual stream of equalised pairs before each layer, in `regions` of the prompt; None: all it has."""
    unequal = next((pair for pair in pairs if len(pair.clean) != len(pair.corrupt)), None)
    if unequal is not None:
        raise ConfigError(f"prompts {unequal.clean.id!r} and {unequal.corrupt.id!r} differ in length; equalise them")
    chosen, places = _chosen(layers, layout_of(model.model)), _regions(pairs, regions)

    def work(batch: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        run = PairedRun(model, batch, target, sites=["resid_pre"], whole=True)
        other = run.side("clean" if side == "corrupt" else "corrupt")
        columns = []
        for layer in chosen:
            for region in places:
                where = _region(run, region)
                below = layer < run.stop  # streams above the target are not kept: they cannot change it
                patches = [Patch("resid_pre", layer, other.replay.streams[layer], where)] if below else []
                columns.append(_patched_value(run, side, patches))
        return _signed(run, side, torch.stack(columns, dim=1)), run.shifts

    labels = tuple((layer, region) for layer in chosen for region in places)
    return _collect(model, pairs, target, work, side=side, labels=labels, batch_size=batch_size, progress=progress)


def patch_directions(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    vectors: Float[Tensor, "vector d_model"],
    *,
    layer: int,
    side: Side = "corrupt",
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Patching:
    """Patch the projection on each unit vector alone, in the stream after `layer`: x + ((x_other - x) . v) v."""
    layout_of(model.model).block(layer)

    def work(batch: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        run = PairedRun(model, batch, target, sites=["resid_post"])
        other = run.side("clean" if side == "corrupt" else "corrupt")
        own, given = (which.activations["resid_post", layer].float() for which in (run.side(side), other))
        columns = []
        for vector in vectors.to(own):
            values = own + ((given - own) @ vector)[..., None] * vector
            columns.append(_patched_value(run, side, [Patch("resid_post", layer, values, run.shared)]))
        return _signed(run, side, torch.stack(columns, dim=1)), run.shifts

    labels = tuple((layer, f"vector {number}") for number in range(len(vectors)))
    return _collect(model, pairs, target, work, side=side, labels=labels, batch_size=batch_size, progress=progress)


# -- one batch ---------------------------------------------------------------------------------------------------------


def component_patches(run: PairedRun, components: Sequence[Component], side: Side) -> list[Patch]:
    """Make the patches that put the other side's activations of `components` into `side`, at the shared tokens."""
    other = run.side("clean" if side == "corrupt" else "corrupt")
    masks: dict[tuple[Site, int], Tensor] = {}
    for component in components:
        key = (component.site, component.layer)
        values = other.activations[key]
        if key not in masks:
            masks[key] = torch.zeros(values.shape[-1], dtype=torch.bool, device=values.device)
        masks[key][component.features(run.layout)] = True
    return [
        Patch(site, layer, other.activations[site, layer], run.shared & mask) for (site, layer), mask in masks.items()
    ]


@torch.no_grad()
def _patched_value(run: PairedRun, side: Side, patches: Sequence[Patch]) -> Float[Tensor, " row"]:
    """Compute the target under the patches; what lies above the target cannot change it."""
    inside = [patch for patch in patches if patch.layer < run.stop]
    changed = run.side(side)
    if not inside:
        return changed.values
    start = min(patch.layer for patch in inside)
    with patched(run.layout, inside):
        return run.value(changed.replay.run(start=start, stop=run.stop), changed)


def _signed(run: PairedRun, side: Side, values: Float[Tensor, "row patch"]) -> Float[Tensor, "row patch"]:
    change = values - rearrange(run.side(side).values, "row -> row 1")
    return (change if side == "corrupt" else -change) * rearrange(run.weights, "row -> row 1")


def _regions(pairs: Sequence[Pair], asked: Sequence[str] | None) -> list[str]:
    """The regions that are asked for, by default those that prompts have."""

    def is_there(region: str) -> bool:
        spans = (_region_span(pair.corrupt, region) for pair in pairs)
        return any(start < stop for start, stop in spans)

    missing = [region for region in asked or () if not is_there(region)]
    if missing:
        raise ConfigError(f"region {missing[0]!r}: no prompt has it")
    return [region for region in asked or REGIONS if is_there(region)]


def _region(run: PairedRun, region: str) -> Bool[Tensor, "row pos 1"]:
    where = torch.zeros(len(run.pairs), run.n_suffix, 1, dtype=torch.bool)
    for row, pair in enumerate(run.pairs):
        start, stop = _region_span(pair.corrupt, region)
        shift = run.n_suffix - len(pair.corrupt)
        where[row, start + shift : stop + shift] = True
    return where.to(run.loaded.device)


def _region_span(prompt: LocatedPrompt, region: str) -> tuple[int, int]:
    (stem, _), stop = prompt.spans["stem"], prompt.spans["prompt"][1]
    spans = {
        "injection": prompt.spans["injection"],
        "turn": (prompt.spans.get("asked", (stem, stem))[0], stem),
        "stem": prompt.spans["stem"],
        "tail": (prompt.spans["stem"][1], stop),
        "last": (stop - 1, stop),
        "ending": (stop, len(prompt)),
    }
    if region not in spans:
        raise ConfigError(f"unknown region {region!r}; there are {', '.join(spans)}")
    return spans[region]


# -- all batches -------------------------------------------------------------------------------------------------------


def _collect(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    work: Callable[[Sequence[Pair]], tuple[Tensor, Tensor]],
    *,
    side: Side,
    labels: tuple[tuple[int, int | str], ...],
    batch_size: int | str,
    progress: Progress,
) -> Patching:
    """Sum the effects and shifts that `work` finds in each batch, by sample."""
    samples = tuple(dict.fromkeys(pair.sample for pair in pairs))
    effects, shifts = KeyedSums(samples, len(labels)), KeyedSums(samples)
    for batch, (found, shift) in in_batches(
        pairs,
        work,
        batch_size=batch_size,
        device=model.device,
        label="patching",
        progress=progress,
    ):
        of_batch = [pair.sample for pair in batch]
        effects.add(of_batch, found)
        shifts.add(of_batch, shift)
    if float(shifts.sums.sum()) == 0:
        raise ActivationError("patching: the target does not differ between the conditions, so there is no shift")
    return Patching(side, target.name, samples, labels, effects.numpy(), shifts.numpy())


def _chosen(layers: Sequence[int] | None, layout: Layout) -> list[int]:
    chosen = list(range(layout.n_layers)) if layers is None else list(layers)
    for layer in chosen:
        layout.block(layer)
    return chosen
