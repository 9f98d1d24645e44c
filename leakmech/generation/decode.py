"""The decoding loop: rows step together, and where a row ends the next one begins.

A row is one (prompt, generation index). Every distinct prompt among the rows that enter together is prefilled once and
its cache expanded to them. A row ends at an end-of-text token, when the stop rule says that what will be scored is
complete, or at ``max_new_tokens``; it then leaves, and when half the places are free the next rows move in, so that the
model always has a full batch to work on. What a row draws depends on its own address only (:mod:`leakmech.seeds`),
never on its neighbours.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import DynamicCache

from leakmech.errors import GenerationError
from leakmech.generation.cache import growing_cache, growing_layers
from leakmech.generation.sampler import Decoding, sample_tokens
from leakmech.interventions.hooks import Applied
from leakmech.interventions.positions import PromptSpans, RowPositions
from leakmech.seeds import row_keys, stable_hash

FinishReason = Literal["stop", "sentence", "length"]
StopRule = Callable[[str, str], bool]
"""``stop(prompt_id, text so far) -> True`` when the text that will be scored can no longer change."""

_TERMINATORS = frozenset(".!?…。！？\n")
_STEPS_TO_LOOK = 3  # a sentence end is confirmed by what follows it, within a few tokens
_REFILL_SHARE = (
    0.5  # new rows move in when no more than this share of the places is taken: prefill comes in large parts
)


@dataclass(frozen=True)
class Row:
    """One generation to make: its address, the token ids of its prompt, and where its parts stand if need be."""

    prompt_id: str
    generation: int
    prompt_tokens: tuple[int, ...] = field(repr=False)
    spans: PromptSpans | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Generation:
    """One finished generation; `text` is decoded without special tokens."""

    prompt_id: str
    generation: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


@dataclass
class Clock:
    """Seconds spent inside the model's forward pass, and in the loop as a whole; row-steps taken."""

    forward: float = 0.0
    total: float = 0.0
    row_steps: int = 0

    def reset(self) -> None:
        """Start counting anew."""
        self.forward = self.total = 0.0
        self.row_steps = 0

    @property
    def share_outside(self) -> float:
        """Share of the loop's time that is not the model's forward pass."""
        return 1 - self.forward / self.total if self.total else 0.0


class Decoder:
    """Decodes rows with one model; holds what is the same for all of them.

    Parameters
    ----------
    model, tokenizer
        A Hugging Face causal LM in eval mode and its tokenizer.
    decoding
        Sampling settings.
    seed
        Seed of the coupled sampling.
    stop
        Rule that ends a row early; None lets every row run to its end-of-text token.
    applied
        The interventions that `model` runs under (see :func:`leakmech.interventions.hooks.apply`), to be told where
        the rows stand; rows then carry ``spans`` if an intervention acts on injection or stem.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        decoding: Decoding,
        seed: int = 0,
        stop: StopRule | None = None,
        applied: Applied | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.seed = seed
        self.stop = stop
        self.applied = applied if applied is not None and applied.needs_positions else None
        self.clock = Clock()
        self.device = model.get_input_embeddings().weight.device

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation: the model's own list and the tokenizer's end-of-text token."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @cached_property
    def _may_end_sentence(self) -> list[bool]:
        """For every token id: does its text hold a character that can end a sentence?"""
        size = max(self.model.get_output_embeddings().weight.shape[0], len(self.tokenizer))
        pieces = self.tokenizer.batch_decode([[i] for i in range(min(size, len(self.tokenizer)))])
        flags = [not _TERMINATORS.isdisjoint(piece) for piece in pieces]
        return flags + [False] * (size - len(flags))

    def decode(self, rows: Sequence[Row]) -> list[Generation]:
        """Generate all `rows` as one batch, in their order. See :meth:`stream`."""
        finished = {(g.prompt_id, g.generation): g for part in self.stream(rows, batch_size=len(rows)) for g in part}
        return [finished[row.prompt_id, row.generation] for row in rows]

    def stream(self, rows: Sequence[Row], *, batch_size: int) -> Iterator[list[Generation]]:
        """Generate `rows`, at most `batch_size` at a time, and yield them as they end.

        Parameters
        ----------
        rows
            What to generate, in the order in which to begin; rows of one prompt that enter together share its prefill.
        batch_size
            Number of places.

        Yields
        ------
        list of Generation
            Rows that have ended, in any order.

        Raises
        ------
        GenerationError
            The model's logits are NaN or infinite; the message names the prompt.
        """
        waiting = deque(rows)
        batch = _Batch(self)
        while waiting or batch.live:
            started = time.perf_counter()
            with torch.inference_mode():
                if waiting and batch.has_room(batch_size, longest=len(waiting[0].prompt_tokens)):
                    batch.admit([waiting.popleft() for _ in range(min(len(waiting), batch_size - len(batch.live)))])
                ended = batch.step()
            self.clock.total += time.perf_counter() - started
            if ended:
                yield ended

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens as they are: no special tokens, no tidying of spaces."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@dataclass
class _LiveRow:
    """A row that is being generated."""

    row: Row
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    looks: int = 0  # how many more steps to look for the end of a sentence


class _Batch:
    """The rows that step together: Python state in `live`, tensors with one entry a row, all in cache order.

    Columns are right-aligned token positions: ``seen[i, :n_columns]`` are row i's tokens behind ``mask``, padded on the
    left with a token of its own.
    """

    cache: DynamicCache
    logits: Tensor
    keys: Tensor
    steps: Tensor
    lengths: Tensor
    mask: Tensor
    seen: Tensor

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.live: list[_LiveRow] = []
        self.where: RowPositions | None = None  # what interventions must know of the rows

    def has_room(self, batch_size: int, *, longest: int) -> bool:
        """Is it worth while, and possible, to let rows in whose longest prompt has `longest` tokens?"""
        if not self.live:
            return True
        fits = growing_layers(self.cache) is not None and longest <= self.n_columns
        return fits and len(self.live) <= batch_size * _REFILL_SHARE

    def admit(self, rows: Sequence[Row]) -> None:
        """Prefill the prompts of `rows` and let the rows in."""
        device = self.decoder.device
        number_of = {prompt: i for i, prompt in enumerate(dict.fromkeys(_prompt(row) for row in rows))}
        expand = torch.tensor([number_of[_prompt(row)] for row in rows], device=device)
        prompts = [tokens for tokens, _ in number_of]
        ids, mask = _left_pad(prompts, max(map(len, prompts)), device)
        where = self._located(list(number_of))
        cache = growing_cache(self.decoder.model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(ids, cache=cache, attention_mask=mask, position_ids=positions, where=where)
        if where is not None:
            where = where.select(expand)
        cache.batch_select_indices(expand)
        entering = {
            "logits": logits[expand],
            "keys": row_keys(self.decoder.seed, [r.prompt_id for r in rows], [r.generation for r in rows]).to(device),
            "steps": torch.zeros(len(rows), dtype=torch.long, device=device),
            "lengths": mask.sum(1)[expand],
            "mask": mask[expand],
            # Padding is a token of the row's own, which the repetition penalty counts anyway.
            "seen": ids.where(mask.bool(), ids[:, -1:])[expand],
        }
        if self.live:
            self._merge(cache, entering)
            self.where = None if self.where is None or where is None else self.where.joined(where)
        else:
            self.cache, self.where = cache, where
            for name, value in entering.items():
                setattr(self, name, value)
        self.live += [_LiveRow(row) for row in rows]

    def _located(self, prompts: Sequence[_Prompt]) -> RowPositions | None:
        """Where the parts of prompts stand, if an intervention must know it."""
        if self.decoder.applied is None:
            return None
        spans = [replace(spans or PromptSpans(len(tokens)), key=stable_hash(*tokens)) for tokens, spans in prompts]
        return RowPositions.of(spans, device=self.decoder.device)

    def _merge(self, cache: DynamicCache, entering: dict[str, Tensor]) -> None:
        """Put rows with a cache of their own behind the present ones, right-aligned."""
        unused = int(self.mask.argmax(dim=1).min())  # columns in which no present row has a token
        surplus = min(unused, self.n_columns - entering["mask"].shape[1])
        if surplus > 0:
            self.mask, self.seen = self.mask[:, surplus:], self.seen[:, surplus:]
        layers, new_layers = growing_layers(self.cache), growing_layers(cache)
        for layer, new in zip(layers or (), new_layers or (), strict=True):
            if surplus > 0:
                layer.drop_positions(surplus)
            layer.append_rows(new)
        width = self.n_columns - entering["mask"].shape[1]
        entering["mask"] = torch.nn.functional.pad(entering["mask"], (width, 0))
        padding = entering["seen"][:, :1].expand(-1, width)
        entering["seen"] = torch.cat([padding, entering["seen"]], dim=1)
        for name, value in entering.items():
            setattr(self, name, torch.cat([getattr(self, name), value]))

    @property
    def n_columns(self) -> int:
        return self.mask.shape[1]

    def _forward(
        self,
        ids: Tensor,
        *,
        cache: DynamicCache,
        attention_mask: Tensor,
        position_ids: Tensor,
        where: RowPositions | None,
    ) -> Tensor:
        """Run the model on new tokens; logits of the last position, float32 ``[rows, vocab]``."""
        clock, applied = self.decoder.clock, self.decoder.applied
        started = time.perf_counter()
        with nullcontext() if applied is None or where is None else applied.positions(where):
            output = self.decoder.model(
                input_ids=ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        if ids.device.type != "cpu":
            torch.accelerator.synchronize()
        clock.forward += time.perf_counter() - started
        clock.row_steps += ids.shape[0]
        return output.logits[:, -1].float()

    def step(self) -> list[Generation]:
        """Draw one token for every row, let go of the rows that end, and run the model on the others."""
        tokens, broken = sample_tokens(
            self.logits, self.seen, keys=self.keys, steps=self.steps, decoding=self.decoder.decoding
        )
        drawn, bad = torch.stack([tokens, broken.long()]).tolist()
        for live, token, is_bad in zip(self.live, drawn, bad, strict=True):
            if is_bad:
                raise GenerationError(
                    f"prompt {live.row.prompt_id!r}: the model's logits are NaN or infinite at token "
                    f"{len(live.tokens) + 1}; try --dtype float32, or check the intervention or adapter in use"
                )
            self._append(live, token)
        self.seen = torch.cat([self.seen, tokens[:, None]], dim=1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.live), 1)], dim=1)
        ended = self._retire()
        if self.live:
            self.where = None if self.where is None else self.where.advanced()
            self.logits = self._forward(
                self.seen[:, -1:],
                cache=self.cache,
                attention_mask=self.mask,
                position_ids=self.lengths[:, None],
                where=self.where,
            )
            self.lengths += 1
            self.steps += 1
        return ended

    def _append(self, live: _LiveRow, token: int) -> None:
        """Note a drawn token and decide whether the row ends with it."""
        decoder = self.decoder
        if token in decoder.end_tokens:
            live.finish = "stop"
            return
        live.tokens.append(token)
        if len(live.tokens) == decoder.decoding.max_new_tokens:
            live.finish = "length"
        elif decoder.stop and (live.looks > 0 or decoder._may_end_sentence[token]):
            live.looks = _STEPS_TO_LOOK if decoder._may_end_sentence[token] else live.looks - 1
            # Half of a multi-byte character decodes to U+FFFD; it is not text yet.
            if decoder.stop(live.row.prompt_id, decoder.text(live.tokens).rstrip("\ufffd")):
                live.finish = "sentence"

    def _retire(self) -> list[Generation]:
        """Take ended rows out: their places are filled with live rows from the end."""
        ended = [live.finish is not None for live in self.live]
        if not any(ended):
            return []
        finished = [self._generation(live) for live in self.live if live.finish is not None]
        n_left = len(self.live) - len(finished)
        fillers = iter(place for place in range(n_left, len(ended)) if not ended[place])
        order = [next(fillers) if ended[place] else place for place in range(n_left)]
        self.live = [self.live[place] for place in order]
        if self.live:
            index = torch.tensor(order, device=self.decoder.device)
            self.cache.batch_select_indices(index)
            self.where = None if self.where is None else self.where.select(index)
            for name in ("keys", "steps", "lengths", "mask", "seen"):
                setattr(self, name, getattr(self, name)[index])
        return finished

    def _generation(self, live: _LiveRow) -> Generation:
        if live.finish is None:
            raise AssertionError("the row is still live")
        text = self.decoder.text(live.tokens)
        return Generation(live.row.prompt_id, live.row.generation, text, tuple(live.tokens), live.finish)


_Prompt = tuple[tuple[int, ...], PromptSpans | None]


def _prompt(row: Row) -> _Prompt:
    """What decides the prefill of a row."""
    return row.prompt_tokens, row.spans


def _left_pad(prompts: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[prompts, width]``; padding repeats the prompt's first token and is masked."""
    ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask
