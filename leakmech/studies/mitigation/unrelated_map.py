"""The null-space projector of a model: what irrelevant affect does to sublayers, undone where nothing else is touched.

What shall change are the outputs of a sublayer at the stem's tokens after positive and negative injections that are not
about the stem; each shall become what it is after the same stem's *neutral* injection, counted from the right. So the
map takes affect out, and not the fact that a sentence stands before. What must stay are outputs

* at all tokens of control prompts, and of one sampled answer to each,
* at the stem's tokens after injections that are about the stem (self-reports among them), and after facts.

Each layer has a map of its own (:mod:`leakmech.mechanism.null_space`), fitted on the unchanged model. Samples are those
marked ``fit``; how much the maps change what must stay is told on samples marked ``tune`` and on other facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.datasets.facts import load_facts
from leakmech.datasets.relation import mismatched, with_exchanged
from leakmech.datasets.samples import POLARITIES, PromptSet
from leakmech.interventions.types import MapSublayer
from leakmech.mechanism.activations.arrays import Activations
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.behaviour import sample_continuations
from leakmech.mechanism.null_space import NullSpaceMap, fit_null_space_map, relative_change
from leakmech.models.load import LoadedModel

SITE = "attn_out"
_SAMPLES = 60
"""Samples of each kind: activations are held in memory."""

Vectors = Float[Tensor, "layer token d_model"]


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of one site, one row a token, by layer."""

    found: Vectors
    """After irrelevant affect."""
    wanted: Vectors
    """The same tokens after a neutral sentence."""
    kept: dict[str, Vectors]
    """What must stay, by kind."""


@dataclass(frozen=True, eq=False)
class UnrelatedMaps:
    """Outputs that maps are fitted on, and those on which they are held against."""

    layers: tuple[int, ...]
    fit: Outputs
    held_out: Outputs
    model_hash: str = ""

    def maps(self, share: float) -> list[NullSpaceMap]:
        """The maps of all layers at a share of the energy of what must stay."""
        kept = torch.cat(list(self.fit.kept.values()), dim=1)
        return [
            fit_null_space_map(*own, share=share) for own in zip(kept, self.fit.found, self.fit.wanted, strict=True)
        ]

    def intervention(self, share: float) -> MapSublayer:
        """The maps as one intervention."""
        maps = self.maps(share)
        return MapSublayer(
            torch.stack([own.writes for own in maps]),
            torch.stack([own.reads for own in maps]),
            layers=self.layers,
            site=SITE,
            model_hash=self.model_hash,
        )

    def held_out_change(self, share: float) -> dict[str, float]:
        """Mean over layers of the relative change of held-out outputs, by kind, and of what is left of the affect.

        ``left`` is |mapped - wanted| / |found - wanted|: 1 if nothing is taken away.
        """
        maps, held = self.maps(share), self.held_out
        changes = {
            name: _mean(relative_change(own, x) for own, x in zip(maps, vectors, strict=True))
            for name, vectors in held.kept.items()
        }
        rows = zip(maps, held.found, held.wanted, strict=True)
        left = _mean(float((own(x) - y).norm() / (x - y).norm()) for own, x, y in rows)
        return changes | {"left": left, "free": _mean(own.free for own in maps)}

    def to_dict(self, shares: Sequence[float]) -> dict[str, Any]:
        """What a summary says of them."""
        return {
            "site": SITE,
            "layers": list(self.layers),
            "by_share": {f"{s:g}": self.held_out_change(s) for s in shares},
        }


def unrelated_maps(
    loaded: LoadedModel,
    relevant: PromptSet,
    *,
    irrelevant_fit: PromptSet,
    irrelevant_tune: PromptSet,
    layers: Sequence[int],
    seed: int = 0,
    **reading: Any,
) -> UnrelatedMaps:
    """Read the outputs of a model; `reading` is prompting and progress."""
    facts = [fact.sample for fact in load_facts("facts-fit")]
    exchanged = mismatched(relevant, seed=seed)
    reader = _Reader(loaded, tuple(layers), seed, reading)
    outputs = {
        split: reader.outputs(
            relevant.split(split),
            with_exchanged(leaking.spread(_SAMPLES), exchanged.split(split).spread(_SAMPLES)),
            PromptSet("facts", tuple(facts[place::2])),
        )
        for place, (split, leaking) in enumerate((("fit", irrelevant_fit), ("tune", irrelevant_tune)))
    }
    return UnrelatedMaps(tuple(layers), outputs["fit"], outputs["tune"], loaded.base_hash)


@dataclass(frozen=True, eq=False)
class _Reader:
    loaded: LoadedModel
    layers: tuple[int, ...]
    seed: int
    reading: dict[str, Any]

    def outputs(self, relevant: PromptSet, irrelevant: PromptSet, facts: PromptSet) -> Outputs:
        """Outputs of one split."""
        leaking = self._read(irrelevant, ("stem",), (*POLARITIES, "neutral"))
        sides = [_paired(leaking, polarity) for polarity in POLARITIES]
        answers = sample_continuations(
            self.loaded, irrelevant.take(_SAMPLES), conditions=("control",), seed=self.seed, **self.reading
        )
        control = self._read(irrelevant.take(_SAMPLES), ("prompt", "generated"), ("control",), continuations=answers)
        found, wanted = (torch.cat(side, dim=1) for side in zip(*sides, strict=True))
        related = self._read(relevant.spread(2 * _SAMPLES), ("stem",), (*POLARITIES, "neutral"))
        kept = {
            "control": control,
            "relevant": related,
            "facts": self._read(facts.spread(_SAMPLES), ("stem",), ("neutral",)),
        }
        return Outputs(found, wanted, {name: _tokens(own) for name, own in kept.items()})

    def _read(
        self, samples: PromptSet, positions: Sequence[str], conditions: Sequence[str], **more: Any
    ) -> Activations:
        return cache_activations(
            self.loaded, samples, sites=(SITE,), layers=self.layers, positions=positions, conditions=conditions,
            **more, **self.reading,
        )[SITE]  # fmt: skip


def _tokens(own: Activations) -> Vectors:
    return own.values[own.present].float().transpose(0, 1)


def _paired(own: Activations, polarity: str) -> tuple[Vectors, Vectors]:
    """Outputs after a polarity and after the neutral sentence, at the stem's tokens that both prompts have."""
    charged, neutral = own.select(conditions=polarity), own.select(conditions="neutral")
    both = charged.present & neutral.present
    found, wanted = (side.values[both].float().transpose(0, 1) for side in (charged, neutral))
    return found, wanted


def _mean(values: Any) -> float:
    found = list(values)
    return sum(found) / len(found)
