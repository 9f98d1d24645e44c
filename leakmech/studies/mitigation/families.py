"""Families of mitigations that ``leakmech mitigate`` tries: one kind of edit each, at several strengths.

Every family is built from a diagnosis (:mod:`leakmech.studies.mitigation.parts`) or from nothing at all; its strength
is chosen on ``tune`` samples. Baselines do the same with arbitrary directions and components.

``project-*``        takes per-layer directions of read affect out of the upper two thirds of the layers (share)
``set-point-*``      moves the projection to its mean over control prompts instead of to zero
``*-if-unrelated``   the same, only where a probe finds that the stem is not about the injection; the strength is the
                     share of held-out irrelevant prompts that the probe catches
``ignore-*``         takes attention to the injection away, from every token after it (strength: share)
``heads-*``, ``neurons-*``   the components that the diagnosis ranks first, at their mean over control prompts (their
                     number), or scaled (the factor)
``drop-unrelated-text``   sentences whose cosine to the last one is below the strength are dropped
``leave-one-out``  sentences are dropped from which the last one gains less likelihood than the strength (nats a token)
``heads-late``, ``late-heads-*``, ``null-space``, ``focus``, ``residual-direction*``   told nothing, gated or not
                     (:mod:`leakmech.studies.mitigation.untold`)
``angular*``   told nothing, in the plane of affect (:mod:`leakmech.studies.mitigation.angular`)
``adapter-gated``, ``adapter-teacher``   LoRA adapters that are trained for the comparison, told nothing
                     (:mod:`leakmech.studies.mitigation.adapters`)
``steer-against``    adds the direction against the sign of the affect that a probe reads (share of the stream's length)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from leakmech.core.registry import Registry
from leakmech.interventions.base import Intervention, Probe
from leakmech.interventions.types import AblateDirection, AblateHeads, AblateNeurons, DampenAttention, ScaleHeads, Steer
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.components import Component
from leakmech.prompts.render import ResolvedForm
from leakmech.studies.mitigation.adapters import trained
from leakmech.studies.mitigation.angular import angular, angular_adaptive, angular_if_unrelated
from leakmech.studies.mitigation.catalogue import OFFERS, SHUFFLED, pinned
from leakmech.studies.mitigation.family import Family, edits, fixed, rules
from leakmech.studies.mitigation.parts import FittedParts
from leakmech.studies.mitigation.prompting import (
    contrast_mitigation,
    drop_unrelated_text,
    instruction_mitigations,
    leave_one_out,
    rewrite_mitigation,
)
from leakmech.studies.mitigation.settings import MitigateConfig
from leakmech.studies.mitigation.untold import (
    focus,
    late_heads,
    late_heads_if_unrelated,
    null_space,
    resampled_heads_if_unrelated,
    residual_direction,
    residual_direction_if_unrelated,
)

# -- directions -------------------------------------------------------------------------------------------------------


def _project(
    parts: FittedParts,
    strength: float,
    *,
    directions: Sequence[Direction] | None = None,
    set_point: bool = False,
    condition: Probe | None = None,
) -> list[Intervention]:
    found = parts.directions if directions is None else directions
    used = [direction for direction in found if direction.layer in parts.upper_layers]
    return [
        AblateDirection(
            torch.stack([direction.vector for direction in used]),
            layers=[direction.layer for direction in used],
            strength=strength,
            set_point=[direction.projections["control"] if set_point else 0.0 for direction in used],
            condition=condition,
            model_hash=parts.loaded.base_hash,
        )
    ]


def _project_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    return _project(parts, 1.0, set_point=True, condition=parts.relation_probe.probe(caught))


def _project_shuffled(parts: FittedParts, strength: float) -> list[Intervention]:
    return _project(parts, strength, directions=parts.shuffled_directions)


def _steer_against(parts: FittedParts, strength: float) -> list[Intervention]:
    """Against positive and against negative affect, as the direction in the middle of the upper layers reads it."""
    layers = parts.upper_layers
    reading = parts.directions[layers[len(layers) // 2]]
    acting = [direction for direction in parts.directions if direction.layer > reading.layer]
    spread = (reading.projections["positive"] - reading.projections["negative"]) / 4
    middle = (reading.projections["positive"] + reading.projections["negative"]) / 2

    def steer(sign: float, threshold: float) -> Intervention:
        fires: Any = "above" if sign < 0 else "below"
        return Steer(
            torch.stack([direction.vector for direction in acting]),
            layers=[direction.layer for direction in acting],
            strength=sign * strength,
            stream_norm=[direction.stream_norm for direction in acting],
            condition=Probe(vector=reading.vector, layer=reading.layer, threshold=threshold, fires=fires),
            model_hash=parts.loaded.base_hash,
        )

    return [steer(-1.0, middle + spread), steer(1.0, middle - spread)]


# -- attention and components -----------------------------------------------------------------------------------------


def _ignore(parts: FittedParts, strength: float, *, condition: Probe | None = None) -> list[Intervention]:
    return [DampenAttention(parts.all_heads, factor=1 - strength, condition=condition)]


def _ignore_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    return _ignore(parts, 1.0, condition=parts.relation_probe.probe(caught))


def _ignore_top_heads(parts: FittedParts, number: float) -> list[Intervention]:
    return [DampenAttention(parts.top_heads(int(number)), factor=0.0)]


def heads_at_mean(parts: FittedParts, heads: Sequence[Component]) -> AblateHeads:
    """Heads at their mean over control prompts."""
    return AblateHeads(heads, method="mean", values=parts.means(heads), model_hash=parts.loaded.base_hash)


def _mean_heads(parts: FittedParts, number: float) -> list[Intervention]:
    return [heads_at_mean(parts, parts.top_heads(int(number)))]


def _scale_heads(parts: FittedParts, factor: float) -> list[Intervention]:
    return [ScaleHeads(parts.top_heads(20), scales=factor)]


def neurons_at_mean(parts: FittedParts, neurons: Sequence[Component]) -> AblateNeurons:
    """Neurons at their mean over control prompts."""
    means = {name: values[:, 0] for name, values in parts.means(neurons).items()}
    return AblateNeurons(neurons, method="mean", values=means, model_hash=parts.loaded.base_hash)


def _mean_neurons(parts: FittedParts, number: float) -> list[Intervention]:
    return [neurons_at_mean(parts, parts.top_neurons(int(number)))]


# -- the registry -----------------------------------------------------------------------------------------------------

FAMILIES: Registry[Family] = Registry.named(
    "mitigation",
    edits("project-affect", "affect projected out of the upper layers", _project),
    edits(
        "set-point-affect",
        "affect moved to its mean over control prompts",
        lambda parts, strength: _project(parts, strength, set_point=True),
    ),
    edits(
        "set-point-if-unrelated",
        "the same where a probe finds that the stem is not about the injection",
        _project_if_unrelated,
    ),
    edits("ignore-injection", "attention to the injection taken away from all heads", _ignore),
    edits(
        "ignore-if-unrelated",
        "attention to the injection taken away where a probe finds that the stem is not about it",
        _ignore_if_unrelated,
    ),
    edits("ignore-top-heads", "attention to the injection taken from top heads", _ignore_top_heads),
    edits("heads-mean", "top heads at their mean over control prompts", _mean_heads),
    edits("heads-late", "top heads at their mean from the last prompt token on", late_heads),
    edits(
        "late-heads-if-unrelated",
        "the first 60 heads where a probe at the last prompt token finds no relation to what stands before",
        late_heads_if_unrelated,
    ),
    edits(
        "resampled-heads-if-unrelated",
        "the same heads at values that they had at tokens of control prompts",
        resampled_heads_if_unrelated,
    ),
    edits(
        "null-space",
        "what irrelevant affect does to attention undone in directions that nothing else needs",
        null_space,
    ),
    edits("focus", "top 20 heads attend less to what is not about the request", focus),
    edits(
        "residual-direction",
        "what irrelevant affect moves and relevant affect does not, back to what it is after a neutral sentence",
        residual_direction,
    ),
    edits(
        "residual-direction-if-unrelated",
        "the same where a probe at the last prompt token finds no relation to what stands before",
        residual_direction_if_unrelated,
    ),
    edits("angular", "stream turned to its angle after a neutral sentence, in the plane of affect", angular),
    edits("angular-adaptive", "the same at tokens that are far out on either side of affect", angular_adaptive),
    edits(
        "angular-if-unrelated",
        "the same at every token where a probe at the last prompt token finds no relation to what stands before",
        angular_if_unrelated,
    ),
    edits("heads-scaled", "top 20 heads scaled", _scale_heads),
    edits("neurons-mean", "top neurons at their mean over control prompts", _mean_neurons),
    edits("steer-against", "stream steered against the affect that a probe reads", _steer_against),
    *(fixed(one) for one in instruction_mitigations() if one.name in OFFERS),
    fixed(rewrite_mitigation("self-examples")),
    rules("drop-unrelated-text", drop_unrelated_text),
    rules("leave-one-out", leave_one_out),
    trained("gated", "gated adapter, trained on pairs of a sentence with a stem that it is about and with another"),
    trained("teacher", "adapter that answers as if the sentences were not there that the last one does not need"),
    rules("contrast-toward-neutral", lambda strength: contrast_mitigation("toward-neutral", strength=strength)),
)
"""What is tried, by name, as the catalogue offers it."""

BASELINES: tuple[Family, ...] = (
    edits(SHUFFLED, "directions of shuffled labels projected out", _project_shuffled, kind="baseline"),
)
"""What every mitigation must beat, beside random edits of its size (``random_baselines``)."""


def families_of(config: MitigateConfig) -> tuple[list[Family], dict[str, str]]:
    """The families that a comparison tries, and why it leaves out others: a quick one tries one of each kind.

    Quick runs try the first strength alone.
    """
    if not config.diagnosis:
        return [], {}
    if not config.quick:
        return chosen_families(config.families), {}
    names = config.families or [offer.name for offer in OFFERS.values() if offer.quick]
    skipped = () if config.families else [offer.name for offer in OFFERS.values() if not offer.quick]
    why = "a quick run tries one of each kind; name it with --families"
    return [one.mildest() for one in chosen_families(names)], dict.fromkeys(skipped, why)


def chosen_families(names: Sequence[str] | None) -> list[Family]:
    """The families of these names; all of them for None, or none given.

    ``NAME=STRENGTH`` is one at a strength that was chosen before: nothing is chosen for it.
    """
    return [_chosen(name) for name in names or FAMILIES]


def _chosen(named: str) -> Family:
    offer, strength = pinned(named)
    family = FAMILIES[offer.name]
    return family if strength is None else replace(family, strengths=(strength,))


def fitting_families(
    families: Sequence[Family], form: ResolvedForm, *, named: bool
) -> tuple[list[Family], dict[str, str]]:
    """The families that prompts of this form can have, and for the others why not.

    Families that the user `named` are never left out, but refused (:class:`leakmech.prompts.render.Renderer`).
    """
    if form != "plain" or named:
        return list(families), {}
    why = "stands after the stem: a plain prompt would end with it, and the model would continue it"
    return [one for one in families if not one.ends_prompt], {one.name: why for one in families if one.ends_prompt}
