"""Prompts with an injection, and where its tokens stand in a batch of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.core.errors import DatasetError, ModelError
from leakmech.datasets.samples import INJECTIONS, Condition, PromptSet
from leakmech.mechanism.attribution.pairs import located_by_sample
from leakmech.prompts.locate import LocatedPrompt
from leakmech.prompts.render import Renderer


def injected_prompts(samples: PromptSet, renderer: Renderer, conditions: Sequence[Condition]) -> list[LocatedPrompt]:
    """Tokenise the prompts of all samples, in conditions that have an injection."""
    if not conditions or len(set(conditions)) < len(conditions) or not set(conditions) <= set(INJECTIONS):
        raise DatasetError(f"conditions: name some of {', '.join(INJECTIONS)}, each once, found {list(conditions)}")
    located = located_by_sample(samples, renderer, conditions)
    prompts = [prompt for by_condition in located.values() for prompt in by_condition.values()]
    for prompt in prompts:
        refuse_without_injection(prompt)
    return prompts


def refuse_without_injection(prompt: LocatedPrompt) -> None:
    """Refuse a prompt without tokens of an injection, or without tokens after it."""
    start, stop = prompt.spans["injection"]
    if start == stop:
        raise DatasetError(f"prompt {prompt.id!r}: has no injection; give the sample a sentence for it")
    if prompt.spans["stem"][0] == prompt.spans["stem"][1] or stop >= len(prompt):
        raise DatasetError(f"prompt {prompt.id!r}: has no token after its injection; give the sample a longer stem")


def part_mask(batch: Sequence[LocatedPrompt], part: str, *, width: int) -> Bool[Tensor, "row column"]:
    """Mark the columns of a batch, padded on the left to `width`, that belong to a part of their prompt."""
    inside = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, prompt in enumerate(batch):
        offset = width - len(prompt)
        start, stop = prompt.spans[part]
        inside[row, offset + start : offset + stop] = True
    return inside


def refuse_other_width(weights: Float[Tensor, "row head query key"], width: int) -> None:
    """Refuse a model that reads tokens of its own: attention has more keys than there are tokens."""
    if weights.shape[-1] != width:
        raise ModelError(
            f"the model reads {weights.shape[-1]} positions for {width} tokens (an adapter with tokens of its own?), "
            "so the injection cannot be found in them"
        )
