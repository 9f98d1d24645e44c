"""The leak direction of each layer, made orthogonal to relevant affect, and how much of either still lies along it.

At the prompt's last token, x the stream after a layer, the shift of a sample is x_positive - x_negative. Irrelevant
affect is that of AEXL samples and of relevant stems with exchanged sentences; relevant affect is that of the same stems
with their own sentences, and of self-reports. The leak direction is the mean shift of irrelevant affect; the mean shift
of relevant affect, and principal directions of it, are projected out (:mod:`leakmech.mechanism.directions.residual`).

How many directions k are projected out is decided on samples marked ``tune``: the fewest for which relevant affect
moves the stream along the direction at most a tenth as far as irrelevant affect does, over all layers,

    ratio(k) = sum_l |v_kl . mean relevant shift| / sum_l |v_kl . mean irrelevant shift|,

or, if there are none, those with the least ratio. Where that is far from 0, the direction cannot tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.datasets.relation import mismatched, with_exchanged
from leakmech.datasets.samples import POLARITIES, PromptSet
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.directions.residual import residual_direction
from leakmech.models.load import LoadedModel
from leakmech.studies.mitigation.late_streams import SITE

NUMBERS = (0, 1, 2, 4, 8, 16)
"""Directions of relevant affect that are projected out; 0, the leak direction itself, is told and never used."""
_ENOUGH = 0.1
_SAMPLES = 120
"""Samples of each kind that are read."""


@dataclass(frozen=True, eq=False)
class Shifts:
    """Shifts of the samples of one split."""

    irrelevant: Float[Tensor, "n layer d_model"]
    relevant: Float[Tensor, "m layer d_model"]


@dataclass(frozen=True, eq=False)
class ResidualDirections:
    """Shifts to fit directions on, and those that they are held against."""

    layers: tuple[int, ...]
    fit: Shifts
    held_out: Shifts

    def vectors(self, k: int) -> Float[Tensor, "layer d_model"]:
        """Unit vectors without `k` directions of relevant affect."""
        return self._made[k][0]

    @cached_property
    def _made(self) -> dict[int, tuple[Tensor, float]]:
        """By number of directions: vectors, and the share of the leak direction that is left, mean over layers."""
        leaks, relevant = self.fit.irrelevant.mean(0), self.fit.relevant.transpose(0, 1)
        made = {}
        for k in self._numbers:
            found = [residual_direction(leak, own, k) for leak, own in zip(leaks, relevant, strict=True)]
            made[k] = torch.stack([vector for vector, _ in found]), sum(share for _, share in found) / len(found)
        return made

    @property
    def _numbers(self) -> tuple[int, ...]:
        """Those for which there are enough shifts."""
        return tuple(k for k in NUMBERS if k < min(self.fit.relevant.shape[0], self.fit.relevant.shape[-1]))

    def along(self, k: int) -> dict[str, float]:
        """What lies along the directions on held-out samples.

        ``left``: the share of the leak direction's length that is left; ``irrelevant``, ``relevant``: the share of the
        held-out mean shift that lies along it; ``ratio``: see the head of this module.
        """
        vectors, left = self._made[k]
        moved = {}
        for name in ("irrelevant", "relevant"):
            mean = getattr(self.held_out, name).mean(0)
            moved[name] = (mean * vectors).sum(-1).abs(), mean.norm(dim=-1)
        shares = {name: float((along / length).mean()) for name, (along, length) in moved.items()}
        ratio = float(moved["relevant"][0].sum() / moved["irrelevant"][0].sum())
        return {"left": left, **shares, "ratio": ratio}

    @cached_property
    def chosen(self) -> int:
        """The number of directions of relevant affect that are projected out."""
        ratios = {k: self.along(k)["ratio"] for k in self._numbers if k}
        enough = [k for k, ratio in ratios.items() if ratio <= _ENOUGH]
        return min(enough) if enough else min(ratios, key=lambda k: ratios[k])

    def to_dict(self) -> dict[str, Any]:
        """What a summary says of them."""
        return {
            "site": SITE,
            "layers": list(self.layers),
            "chosen": self.chosen,
            "n_irrelevant": len(self.fit.irrelevant),
            "n_relevant": len(self.fit.relevant),
            "by_number": {str(k): self.along(k) for k in self._numbers},
        }


def residual_directions(
    loaded: LoadedModel,
    relevant: PromptSet,
    *,
    irrelevant_fit: PromptSet,
    irrelevant_tune: PromptSet,
    layers: Sequence[int],
    seed: int = 0,
    **reading: Any,
) -> ResidualDirections:
    """Read the shifts of a model; `reading` is prompting and progress."""
    exchanged = mismatched(relevant, seed=seed)

    def shifts(samples: PromptSet) -> Tensor:
        found = cache_activations(
            loaded, samples, sites=(SITE,), layers=list(layers), conditions=POLARITIES, **reading
        )[SITE]
        positive, negative = (found.matrix(condition=c, position="last_prompt") for c in POLARITIES)
        return torch.from_numpy(positive - negative)

    splits = {}
    for split, leaking in (("fit", irrelevant_fit), ("tune", irrelevant_tune)):
        others = with_exchanged(leaking.spread(_SAMPLES), exchanged.split(split).spread(_SAMPLES))
        splits[split] = Shifts(shifts(others), shifts(relevant.split(split).spread(2 * _SAMPLES)))
    return ResidualDirections(tuple(layers), splits["fit"], splits["tune"])
