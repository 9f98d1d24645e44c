"""How long a training will take, before it starts: a rough count of tokens, and the time of a pass over some."""

from __future__ import annotations

import math

from leakmech.models.cost import DECODED, seconds_per_token
from leakmech.models.load import LoadedModel
from leakmech.training.settings import LoraTrainingConfig

TRAINED = 500
"""Tokens read that an example of training costs as much as: a completion under the base model, and under the adapter
forward and back."""
_ANSWER, _PROMPTS = 20, 6
"""Tokens of an answer; prompts of a sample of either set on which an adapter is judged meanwhile."""


def estimate(c: LoraTrainingConfig, n_examples: int, loaded: LoadedModel) -> str:
    """A line that says how long training on so many examples will take on this machine, roughly."""
    seen, judged = n_examples * c.epochs, 0
    if c.tune is not None:
        a_time = c.evaluate_every or math.ceil(n_examples / c.batch_size)
        judged = (1 + math.ceil(seen / c.batch_size) // a_time) * c.tune.samples * c.tune.generations * _PROMPTS
    minutes = (seen * TRAINED + judged * _ANSWER * DECODED) * seconds_per_token(loaded) / 60
    return f"about {minutes:.0f} minutes here for {n_examples} examples, by the time of one pass"
