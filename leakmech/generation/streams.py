"""What the model has read and said of it, for the rows of a batch: tokens, cache and the logits that follow.

Columns are right-aligned token positions: ``seen[i, :n_columns]`` are row i's tokens where ``mask`` is 1, padded
on the left with a token of its own. A batch has one stream, or several whose rows read different prompts and write the
same tokens (:mod:`leakmech.generation.contrast`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig

from leakmech.core.seeds import stable_hash
from leakmech.generation.cache import growing_cache, growing_layers
from leakmech.interventions.positions import PromptSpans, RowPositions

Forward = Callable[..., Float[Tensor, "rows vocab"]]
"""Runs the model on new tokens (``ids, cache=, attention_mask=, position_ids=, where=``); float32 logits of the last
one."""

Read = tuple[tuple[int, ...], PromptSpans | None]
"""Token ids of a prompt, and where its parts stand, if that is known."""


class Stream:
    """One prompt per row, followed by what the row has drawn so far."""

    logits: Float[Tensor, "rows vocab"]
    """Logits of the next token, float32."""
    seen: Int[Tensor, "rows columns"]
    mask: Int[Tensor, "rows columns"]
    """1 where `seen` holds a token of the row, 0 where it holds padding."""
    lengths: Int[Tensor, " rows"]
    """Number of tokens that the model has read of each row."""
    cache: DynamicCache
    where: RowPositions | None
    """What interventions must know of the rows; None if they need nothing."""

    def __init__(
        self,
        prompts: Sequence[Read],
        *,
        forward: Forward,
        config: PreTrainedConfig,
        device: torch.device,
        located: bool = False,
    ) -> None:
        """Prefill every distinct prompt of `prompts` (one a row) once; hooks are told where rows stand if `located`."""
        distinct = list(dict.fromkeys(prompts))
        place_of = {prompt: i for i, prompt in enumerate(distinct)}
        expand = torch.tensor([place_of[prompt] for prompt in prompts], device=device)
        tokens = [tokens for tokens, _ in distinct]
        ids, mask = left_pad(tokens, max(map(len, tokens)), device)
        where = _positions(distinct, device) if located else None
        self._forward = forward
        self.cache = growing_cache(config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = forward(ids, cache=self.cache, attention_mask=mask, position_ids=positions, where=where)
        self.where = None if where is None else where.select(expand)
        self.cache.batch_select_indices(expand)
        self.logits = logits[expand]
        self.lengths = mask.sum(1)[expand]
        self.mask = mask[expand]
        # Padding is a token of the row's own, which the repetition penalty counts anyway.
        self.seen = ids.where(mask.bool(), ids[:, -1:])[expand]

    @property
    def n_columns(self) -> int:
        return self.mask.shape[1]

    def takes(self, longest: int) -> bool:
        """Can rows join whose longest prompt has `longest` tokens?"""
        return growing_layers(self.cache) is not None and longest <= self.n_columns

    def join(self, other: Stream) -> None:
        """Put the rows of `other` after the present ones, right-aligned."""
        unused = int(self.mask.argmax(dim=1).min())  # columns in which no present row has a token
        surplus = min(unused, self.n_columns - other.n_columns)
        if surplus > 0:
            self.mask, self.seen = self.mask[:, surplus:], self.seen[:, surplus:]
        layers, new_layers = growing_layers(self.cache), growing_layers(other.cache)
        for layer, new in zip(layers or (), new_layers or (), strict=True):
            if surplus > 0:
                layer.drop_positions(surplus)
            layer.append_rows(new)
        width = self.n_columns - other.n_columns
        padding = other.seen[:, :1].expand(-1, width)
        self.mask = torch.cat([self.mask, torch.nn.functional.pad(other.mask, (width, 0))])
        self.seen = torch.cat([self.seen, torch.cat([padding, other.seen], dim=1)])
        self.logits = torch.cat([self.logits, other.logits])
        self.lengths = torch.cat([self.lengths, other.lengths])
        self.where = None if self.where is None or other.where is None else self.where.joined(other.where)

    def append(self, tokens: Int[Tensor, " rows"]) -> None:
        """Note the token that every row has drawn."""
        self.seen = torch.cat([self.seen, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)

    def keep(self, index: Int[Tensor, " kept"]) -> None:
        """Keep the rows `index`, in that order; their logits are those of the next :meth:`advance`."""
        self.cache.batch_select_indices(index)
        self.lengths, self.mask, self.seen = self.lengths[index], self.mask[index], self.seen[index]
        self.where = None if self.where is None else self.where.select(index)

    def advance(self) -> None:
        """Let the model read the newest token of every row."""
        self.where = None if self.where is None else self.where.advanced()
        self.logits = self._forward(
            self.seen[:, -1:],
            cache=self.cache,
            attention_mask=self.mask,
            position_ids=self.lengths[:, None],
            where=self.where,
        )
        self.lengths += 1


def _positions(prompts: Sequence[Read], device: torch.device) -> RowPositions:
    """Where the parts of prompts stand; what is drawn for a prompt goes by its tokens."""
    spans = [replace(spans or PromptSpans(len(tokens)), key=stable_hash(*tokens)) for tokens, spans in prompts]
    return RowPositions.of(spans, device=device)


def left_pad(prompts: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[prompts, width]``; padding repeats the prompt's first token and is masked."""
    ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask
