"""Models that keep a state instead of keys and values (Mamba, RWKV, hybrids): each step reads the whole text again.

A state cannot be padded, and rows cannot be taken out of and put into it in the ways of a key-value cache. So rows are
read without padding, those of one length together, and nothing is kept. It is right and slow: a row of n tokens costs
n(n + 1)/2 of them.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from leakmech.core.errors import GenerationError
from leakmech.generation.streams import Read, Stream, left_pad

Reread = Callable[[Int[Tensor, "rows tokens"]], Float[Tensor, "rows vocab"]]
"""Logits after whole texts of equal length."""


def keeps_a_state(model: Any) -> bool:
    """Whether a model keeps something else than keys and values of every token, in any of its layers."""
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        return not hasattr(model, "get_base_model")  # PEFT hands everything on
    layers = DynamicCache(config=model.config).layers
    return any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


class RereadingStream(Stream):
    """One prompt per row, followed by what the row has drawn so far, read from the beginning at every step."""

    def __init__(self, prompts: Sequence[Read], *, reread: Reread, device: torch.device, located: bool = False) -> None:
        if located:
            raise GenerationError(
                "interventions at positions of the prompt: not for models that keep a state instead of keys and values"
            )
        self._reread = reread
        self.where = None
        rows = [tokens for tokens, _ in prompts]
        ids, self.mask = left_pad(rows, max(map(len, rows)), device)
        self.seen = ids.where(self.mask.bool(), ids[:, -1:])
        self.lengths = self.mask.sum(1)
        self._read()

    def takes(self, longest: int) -> bool:
        """Rows join when all present ones have ended."""
        del longest
        return False

    def keep(self, index: Int[Tensor, " kept"]) -> None:
        """Keep the rows `index`, in that order."""
        self.lengths, self.mask, self.seen = self.lengths[index], self.mask[index], self.seen[index]

    def advance(self) -> None:
        """Read every row again, with its newest token."""
        self.lengths = self.lengths + 1
        self._read()

    def _read(self) -> None:
        by_length: dict[int, list[int]] = defaultdict(list)
        for row, length in enumerate(self.lengths.tolist()):
            by_length[length].append(row)
        parts, order = [], []
        for length, rows in by_length.items():
            parts.append(self._reread(self.seen[rows, -length:]))
            order += rows
        self.logits = torch.cat(parts)[torch.tensor(order, device=self.seen.device).argsort()]
