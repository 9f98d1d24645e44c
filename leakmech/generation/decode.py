"""The decoding loop: rows step together, and where a row ends the next one begins.

A row is one (prompt, generation index). Every distinct prompt among the rows that enter together is prefilled once and
its cache expanded to them. A row ends at an end-of-text token, when the stop rule says that what will be scored is
complete, or at ``max_new_tokens``; it then leaves, and when half the places are free the next rows move in, so that the
model always has a full batch to work on. What a row draws depends on its own address only (:mod:`leakmech.core.seeds`),
never on its neighbours.

A row may have reference prompts: other prompts that the model reads beside its own, followed by the same drawn tokens.
What is then drawn from is a combination of all their logits (:class:`LogitCombination`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from leakmech.core.answers import spoken
from leakmech.core.errors import GenerationError
from leakmech.core.seeds import row_keys
from leakmech.generation.decoding import Decoding
from leakmech.generation.rereading import RereadingStream, keeps_a_state
from leakmech.generation.sampler import sample_tokens
from leakmech.generation.streams import Read, Stream
from leakmech.generation.vocabulary import START, Vocabulary
from leakmech.interventions.applied import Applied
from leakmech.interventions.positions import PromptSpans, RowPositions
from leakmech.models.adapters import base_of
from leakmech.models.hooks import whole_unembedding

FinishReason = Literal["stop", "sentence", "length"]
StopRule = Callable[[str, str], bool]
"""``stop(prompt_id, text so far) -> True`` when the text that will be scored can no longer change."""

_STEPS_TO_LOOK = 3  # a sentence end is confirmed by what follows it, within a few tokens
_REFILL_SHARE = 0.5
"""New rows move in when at most this share of the places is taken, so that prefill comes in large parts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One generation to make: its address, the token ids of its prompt, and those of its reference prompts.

    ``spans`` says where the parts of the prompt stand, if an intervention must know it. Rows of a lower ``block`` are
    generated first.
    """

    prompt_id: str
    generation: int
    prompt_tokens: tuple[int, ...] = field(repr=False)
    references: tuple[tuple[int, ...], ...] = field(default=(), repr=False, kw_only=True)
    spans: PromptSpans | None = field(default=None, repr=False, kw_only=True)
    block: int = field(default=0, repr=False, kw_only=True)

    @property
    def read(self) -> tuple[tuple[tuple[int, ...], PromptSpans | None], ...]:
        """What each stream reads: the prompt, then the references, of whose parts nothing is known."""
        return ((self.prompt_tokens, self.spans), *((tokens, None) for tokens in self.references))


@dataclass(frozen=True)
class Generation:
    """One finished generation; `text` is decoded without special tokens."""

    prompt_id: str
    generation: int
    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason


class LogitCombination(Protocol):
    """What a row draws from when it has reference prompts."""

    @property
    def n_references(self) -> int:
        """How many reference prompts every row must have."""
        ...

    def __call__(
        self, logits: Float[Tensor, "rows vocab"], references: Sequence[Float[Tensor, "rows vocab"]]
    ) -> Float[Tensor, "rows vocab"]:
        """The logits to draw from, given those after the prompt and those after each reference; inputs are kept."""
        ...


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
    """Decodes rows with one model in eval mode; holds what is the same for all of them.

    `applied` is told where the rows stand; they carry ``spans`` if an intervention acts on injection or stem.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        decoding: Decoding,
        seed: int = 0,
        stop: StopRule | None = None,
        combination: LogitCombination | None = None,
        applied: Applied | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.seed = seed
        self.stop = stop
        self.combination = combination
        self.applied = applied if applied is not None and applied.needs_positions else None
        self.clock = Clock()
        self.device = model.get_input_embeddings().weight.device

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What tokens say, and which of them end a generation."""
        return Vocabulary(self.model, self.tokenizer, self.decoding.markers)

    def decode(self, rows: Sequence[Row]) -> list[Generation]:
        """Generate all `rows` as one batch, in their order. See :meth:`stream`."""
        finished = {(g.prompt_id, g.generation): g for part in self.stream(rows, batch_size=len(rows)) for g in part}
        return [finished[row.prompt_id, row.generation] for row in rows]

    def stream(self, rows: Sequence[Row], *, batch_size: int) -> Iterator[list[Generation]]:
        """Generate `rows` in this order, at most `batch_size` at a time, and yield them as they end.

        Rows of one prompt that enter together share its prefill.
        """
        self._check_references(rows)
        waiting = deque(rows)
        batch = _Batch(self)
        while waiting or batch.live:
            started = time.perf_counter()
            with torch.inference_mode():
                if waiting and batch.has_room(batch_size):
                    entering = list(islice(waiting, batch_size - len(batch.live)))
                    if batch.takes(entering):
                        batch.admit(entering)
                        for _ in entering:
                            waiting.popleft()
                ended = batch.step()
            self.clock.total += time.perf_counter() - started
            if ended:
                yield ended

    def _check_references(self, rows: Sequence[Row]) -> None:
        wanted = self.combination.n_references if self.combination else 0
        for row in rows:
            if len(row.references) != wanted:
                raise GenerationError(
                    f"prompt {row.prompt_id!r}: has {len(row.references)} reference prompts; decoding takes {wanted}"
                )

    @cached_property
    def _rereads(self) -> bool:
        return keeps_a_state(base_of(self.model))

    def stream_of(self, prompts: Sequence[Read]) -> Stream:
        """What the model reads of one prompt a row."""
        located = self.applied is not None
        if self._rereads:
            return RereadingStream(prompts, reread=self._reread, device=self.device, located=located)
        return Stream(prompts, forward=self.forward, config=self.model.config, device=self.device, located=located)

    def _reread(self, ids: Tensor) -> Tensor:
        """Logits after whole texts of one length, from nothing."""
        started = time.perf_counter()
        logits = self.model(input_ids=ids, use_cache=False).logits[:, -1].float()
        self.clock.forward += time.perf_counter() - started
        self.clock.row_steps += ids.shape[0]
        return logits

    def forward(
        self,
        ids: Tensor,
        *,
        cache: DynamicCache,
        attention_mask: Tensor,
        position_ids: Tensor,
        where: RowPositions | None = None,
    ) -> Tensor:
        """Run the model on new tokens; logits of the last position, float32 ``[rows, vocab]``."""
        started = time.perf_counter()
        told = nullcontext() if self.applied is None or where is None else self.applied.positions(where)
        # A step of one column hands on no slice.
        with told, whole_unembedding(self.model) if ids.shape[1] > 1 else nullcontext():
            output = self.model(
                input_ids=ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        if ids.device.type != "cpu":
            torch.accelerator.synchronize()
        self.clock.forward += time.perf_counter() - started
        self.clock.row_steps += ids.shape[0]
        return output.logits[:, -1].float()


@dataclass
class _LiveRow:
    """A row that is being generated."""

    row: Row
    tokens: list[int] = field(default_factory=list)
    opening: str = ""  # the marker of reasoning with which the prompt ends
    finish: FinishReason | None = None
    looks: int = 0  # how many more steps to look for the end of a sentence
    thinking: bool = False
    answer_start: int = 0  # tokens before the answer: reasoning has a budget of its own


class _Batch:
    """The rows that step together: Python state in `live`, tensors with one entry a row, all in the order of `live`.

    The first of `streams` reads the prompts, the others the references.
    """

    streams: list[Stream]
    keys: Tensor
    steps: Tensor

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.live: list[_LiveRow] = []

    def has_room(self, batch_size: int) -> bool:
        """Is it worth letting rows in?"""
        return len(self.live) <= batch_size * _REFILL_SHARE

    def takes(self, rows: Sequence[Row]) -> bool:
        """Is it possible to let `rows` in?"""
        if not self.live:
            return True
        read = zip(*(row.read for row in rows), strict=True)
        longest = (max(len(tokens) for tokens, _ in prompts) for prompts in read)
        return all(stream.takes(width) for stream, width in zip(self.streams, longest, strict=True))

    def admit(self, rows: Sequence[Row]) -> None:
        """Prefill the prompts of `rows` and let the rows in."""
        decoder, device = self.decoder, self.decoder.device
        streams = [decoder.stream_of(prompts) for prompts in zip(*(row.read for row in rows), strict=True)]
        keys = row_keys(decoder.seed, [r.prompt_id for r in rows], [r.generation for r in rows]).to(device)
        steps = torch.zeros(len(rows), dtype=torch.long, device=device)
        if self.live:
            for stream, entering in zip(self.streams, streams, strict=True):
                stream.join(entering)
            self.keys, self.steps = torch.cat([self.keys, keys]), torch.cat([self.steps, steps])
        else:
            self.streams, self.keys, self.steps = streams, keys, steps
        distinct = {row.prompt_id: row.prompt_tokens for row in rows} if decoder.decoding.reasoning_tokens else {}
        openings = {name: decoder.vocabulary.opening(tokens) for name, tokens in distinct.items()}
        opened = [openings.get(row.prompt_id, "") for row in rows]
        self.live += [_LiveRow(row, opening=own, thinking=bool(own)) for row, own in zip(rows, opened, strict=True)]

    def _logits(self) -> Tensor:
        """What is drawn from."""
        prompt, *references = self.streams
        if self.decoder.combination is None:
            return prompt.logits
        return self.decoder.combination(prompt.logits, [reference.logits for reference in references])

    def step(self) -> list[Generation]:
        """Draw one token for every row, let go of the rows that end, and run the model on the others."""
        tokens, broken = sample_tokens(
            self._logits(),
            self.streams[0].seen,
            keys=self.keys,
            steps=self.steps,
            decoding=self.decoder.decoding,
            lengths=self.streams[0].lengths,
        )
        drawn, bad = torch.stack([tokens, broken.long()]).tolist()
        for live, token, is_bad in zip(self.live, drawn, bad, strict=True):
            if is_bad:
                raise GenerationError(
                    f"prompt {live.row.prompt_id!r}: the model's logits are NaN or infinite at token "
                    f"{len(live.tokens) + 1}; try --dtype float32, or check the intervention or adapter in use"
                )
            self._append(live, token)
        for stream in self.streams:
            stream.append(tokens)
        ended = self._retire()
        if self.live:
            for stream in self.streams:
                stream.advance()
            self.steps += 1
        return ended

    def _append(self, live: _LiveRow, token: int) -> None:
        """Note a drawn token and decide whether the row ends with it."""
        decoder = self.decoder
        if token in (decoder.vocabulary.own_ends if live.thinking else decoder.vocabulary.ends):
            live.finish = "stop"
            return
        live.tokens.append(token)
        self._think(live, token)
        if len(live.tokens) - live.answer_start >= self._most_tokens(live):
            live.finish = "length"
        elif decoder.stop and (live.looks > 0 or decoder.vocabulary.may_end_sentence[token]):
            live.looks = _STEPS_TO_LOOK if decoder.vocabulary.may_end_sentence[token] else live.looks - 1
            # Half of a multi-byte character decodes to U+FFFD; it is not text yet.
            if decoder.stop(live.row.prompt_id, self._text(live).rstrip("\ufffd")):
                live.finish = "sentence"

    def _text(self, live: _LiveRow) -> str:
        """What a row says, with the marker that its template has written for it."""
        return live.opening + self.decoder.vocabulary.text(live.tokens)

    def _most_tokens(self, live: _LiveRow) -> int:
        decoding = self.decoder.decoding
        return decoding.reasoning_tokens if live.thinking else decoding.max_new_tokens

    def _think(self, live: _LiveRow, token: int) -> None:
        """Note where reasoning begins and ends; looked at only where a token may be part of a marker."""
        if not live.thinking and (live.answer_start or len(live.tokens) > START):
            return
        if not self.decoder.decoding.reasoning_tokens or not self.decoder.vocabulary.may_mark(token):
            return
        thinking = spoken(self._text(live), self.decoder.decoding.markers).thinking
        if live.thinking and not thinking:
            live.answer_start = len(live.tokens)
        live.thinking = thinking

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
            for stream in self.streams:
                stream.keep(index)
            self.keys, self.steps = self.keys[index], self.steps[index]
        return finished

    def _generation(self, live: _LiveRow) -> Generation:
        if live.finish is None:
            raise AssertionError("the row is still live")
        text = self._text(live)
        return Generation(live.row.prompt_id, live.row.generation, text, tuple(live.tokens), live.finish)
