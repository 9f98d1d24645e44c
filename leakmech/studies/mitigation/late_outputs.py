"""What attention heads write at the last token of control prompts and in the answers to them.

Whatever a head has taken from an earlier sentence reaches the answer through the prompt's last token and the generated
ones. To set a head there to what it does without an injection needs no knowledge of where anything stands in a prompt:
only where the prompt ends. Per class of positions p (``last_prompt``, ``generated``), with tokens t of the control
prompts and of one sampled answer to each,

    draws_p = {z_h(t)},    mean_p = mean of draws_p.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from leakmech.datasets.samples import Condition, PromptSet, spread_out
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.behaviour import sample_continuations
from leakmech.models.components import Component
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site

LATE: tuple[Literal["last_prompt", "generated"], ...] = ("last_prompt", "generated")
"""The prompt's last token, and what comes after it."""
_SAMPLES = 50
"""Control prompts that are read; activations of all heads are held in memory."""
_DRAWS = 64
"""Draws that an intervention holds of each class of positions."""


@dataclass(frozen=True, eq=False)
class LateOutputs:
    """Outputs z of all heads of a model at the last prompt token and after, without injections."""

    values: Mapping[str, Float[Tensor, "token layer head d_head"]]
    """By class of positions."""

    def means(self, heads: Sequence[Component]) -> dict[str, Float[Tensor, "head d_head"]]:
        """Mean of each head, by class of positions."""
        return {name: self._of(name, heads).mean(0) for name in LATE}

    def draws(self, heads: Sequence[Component]) -> dict[str, Float[Tensor, "draw head d_head"]]:
        """Outputs at single tokens, at even distances: all heads of a draw are of one token."""
        found = {}
        for name in LATE:
            values = self._of(name, heads)
            found[name] = values[list(spread_out(range(len(values)), _DRAWS))]
        return found

    def _of(self, name: str, heads: Sequence[Component]) -> Float[Tensor, "token head d_head"]:
        return self.values[name][:, [head.layer for head in heads], [head.index or 0 for head in heads]]


def late_outputs(loaded: LoadedModel, samples: PromptSet, *, seed: int = 0, **reading: Any) -> LateOutputs:
    """Read the control prompts of `samples` and one sampled answer to each; `reading` is prompting and progress."""
    return LateOutputs(
        late_values(loaded, samples.spread(_SAMPLES), site="z", condition="control", seed=seed, **reading)
    )


def late_values(
    loaded: LoadedModel,
    samples: PromptSet,
    *,
    site: Site,
    condition: Condition,
    layers: Sequence[int] | None = None,
    seed: int = 0,
    **reading: Any,
) -> dict[str, Float[Tensor, "token layer *width"]]:
    """Activations at the last token of the prompts of a condition and in one sampled answer to each, by class."""
    answers = sample_continuations(loaded, samples, conditions=(condition,), seed=seed, **reading)
    found = cache_activations(
        loaded, samples, sites=(site,), layers=layers, positions=LATE, conditions=(condition,),
        continuations=answers, **reading,
    )[site]  # fmt: skip
    selected = {name: found.select(positions=name) for name in LATE}
    return {name: own.values[own.present].float() for name, own in selected.items()}
