"""Edits that are told nothing: they read and change the prompt's last token and what comes after it.

``heads-late-*``     the heads that the diagnosis ranks first, at their mean over control prompts from the last prompt
                     token on, whatever stands before: the price of not knowing whether it is relevant
``*-if-unrelated``   the same only where a probe, read at the prompt's last token, says that the prompt ends with
                     something that is not about what stands before
``null-space``       what irrelevant affect changes in the attention of upper layers, undone by linear maps that leave
                     alone what control prompts, relevant affect and facts need (strength: the share of the energy of
                     these that the maps may read); no gate, and it can be folded
``focus``            the queries of the first 20 heads mapped so that they attend less to what is not about the request,
                     and as before to everything else (strength: nats of the score); no gate, and it can be folded
``residual-direction``   what irrelevant affect moves and relevant affect does not, taken back to what it is after a
                     neutral sentence (strength: share of the way)

A gate is read ahead (:class:`leakmech.interventions.base.Probe`), so that heads in all layers can be set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from leakmech.interventions.base import Intervention, Probe
from leakmech.interventions.types import AblateDirection, AblateHeads
from leakmech.models.components import Component
from leakmech.studies.mitigation.late_outputs import LATE
from leakmech.studies.mitigation.parts import FittedParts

GATED_HEADS = 60
"""Heads that are set where a gate decides; the strength is what the gate catches."""


def late_heads(
    parts: FittedParts,
    number: float,
    *,
    method: Literal["mean", "resample"] = "mean",
    condition: Probe | None = None,
) -> list[Intervention]:
    """The first heads, set to what they do without an injection from the prompt's last token on."""
    return heads_set_late(parts, parts.top_heads(int(number)), method=method, condition=condition)


def heads_set_late(
    parts: FittedParts,
    heads: Sequence[Component],
    *,
    method: Literal["mean", "resample"] = "mean",
    condition: Probe | None = None,
) -> list[Intervention]:
    """Any heads, set to what they do without an injection from the prompt's last token on."""
    values = parts.late_outputs.means(heads) if method == "mean" else parts.late_outputs.draws(heads)
    return [
        AblateHeads(
            heads,
            method=method,
            values={position: values[position]},
            positions=position,
            condition=condition,
            model_hash=parts.loaded.base_hash,
        )
        for position in LATE
    ]


def late_heads_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    """The first 60 heads at their means where the gate fires."""
    return late_heads(parts, GATED_HEADS, condition=parts.relation_gate.probe(caught))


def resampled_heads_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    """The first 60 heads at values of control prompts where the gate fires."""
    return late_heads(parts, GATED_HEADS, method="resample", condition=parts.relation_gate.probe(caught))


def null_space(parts: FittedParts, share: float) -> list[Intervention]:
    """Maps of what attention adds in the upper layers."""
    return [parts.unrelated_maps.intervention(share)]


def focus(parts: FittedParts, strength: float) -> list[Intervention]:
    """Maps of the queries of the first heads."""
    return [parts.focus.intervention(strength)]


def residual_direction(parts: FittedParts, strength: float, *, condition: Probe | None = None) -> list[Intervention]:
    """The leak directions without relevant affect, from the prompt's last token on."""
    found = parts.residual_directions
    vectors = found.vectors(found.chosen)
    return [
        AblateDirection(
            vectors,
            layers=found.layers,
            strength=strength,
            set_point=parts.late_streams.along(vectors, position),
            positions=position,
            condition=condition,
            model_hash=parts.loaded.base_hash,
        )
        for position in LATE
    ]


def residual_direction_if_unrelated(parts: FittedParts, caught: float) -> list[Intervention]:
    """The same, all the way, where the gate fires."""
    return residual_direction(parts, 1.0, condition=parts.relation_gate.probe(caught))
