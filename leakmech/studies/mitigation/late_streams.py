"""The residual stream at the last token of prompts with a neutral sentence, and in the answers to them.

It is what an edit that acts from the prompt's last token on shall lead back to: affect goes, and the fact that a
sentence stands before stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from leakmech.datasets.samples import PromptSet
from leakmech.models.load import LoadedModel
from leakmech.studies.mitigation.late_outputs import late_values

SITE = "resid_post"
_SAMPLES = 60
"""Prompts that are read."""


@dataclass(frozen=True, eq=False)
class LateStreams:
    """Mean of the stream after neutral sentences."""

    layers: tuple[int, ...]
    means: Mapping[str, Float[Tensor, "layer d_model"]]
    """By class of positions: ``last_prompt``, ``generated``."""

    def along(self, vectors: Float[Tensor, "layer d_model"], position: str) -> list[float]:
        """Projection of the mean on a vector of each layer, in units of the stream."""
        return (self.means[position] * vectors).sum(-1).tolist()


def late_streams(
    loaded: LoadedModel, samples: PromptSet, *, layers: Sequence[int], seed: int = 0, **reading: Any
) -> LateStreams:
    """Read the neutral prompts of `samples` and one sampled answer to each; `reading` is prompting and progress."""
    values = late_values(
        loaded, samples.spread(_SAMPLES), site=SITE, condition="neutral", layers=list(layers), seed=seed, **reading
    )
    return LateStreams(tuple(layers), {name: own.mean(0) for name, own in values.items()})
