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
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from leakmech.core.errors import GenerationError
from leakmech.core.noise import row_keys
from leakmech.generation.decoding import Decoding
from leakmech.generation.ending import Ending, FinishReason, LiveRow, StopRule
from leakmech.generation.rereading import RereadingStream, keeps_a_state
from leakmech.generation.sampler import sample_tokens
from leakmech.generation.streams import Read, Stream
from leakmech.generation.vocabulary import Vocabulary
from leakmech.interventions.applied import Applied
from leakmech.interventions.positions import PromptSpans, RowPositions
from leakmech.models.adapters import base_of
from leakmech.models.hooks import whole_unembedding

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


def generation_of(live: LiveRow, ending: Ending) -> Generation:
    """What a row that has ended has become."""
    if live.finish is None:
        raise AssertionError("the row is still live")
    return Generation(live.prompt_id, live.generation, ending.text(live), tuple(live.tokens), live.finish)


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

    @cached_property
    def ending(self) -> Ending:
        """When rows end."""
        return Ending(self.vocabulary, self.decoding, self.stop)

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


class _Batch:
    """The rows that step together: Python state in `live`, tensors with one entry a row, all in the order of `live`.

    The first of `streams` reads the prompts, the others the references.
    """

    streams: list[Stream]
    keys: Tensor
    steps: Tensor

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.live: list[LiveRow] = []

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
        self.live += decoder.ending.begin((row.prompt_id, row.generation, row.prompt_tokens) for row in rows)

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
                    f"prompt {live.prompt_id!r}: the model's logits are NaN or infinite at token "
                    f"{len(live.tokens) + 1}; try --dtype float32, or check the intervention or adapter in use"
                )
            self.decoder.ending.append(live, token)
        for stream in self.streams:
            stream.append(tokens)
        ended = self._retire()
        if self.live:
            for stream in self.streams:
                stream.advance()
            self.steps += 1
        return ended

    def _retire(self) -> list[Generation]:
        """Take ended rows out: their places are filled with live rows from the end."""
        ended = [live.finish is not None for live in self.live]
        if not any(ended):
            return []
        finished = [generation_of(live, self.decoder.ending) for live in self.live if live.finish is not None]
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
