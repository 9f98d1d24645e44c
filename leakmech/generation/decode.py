"""The batched decoding loop.

A batch is a list of rows; a row is one (prompt, generation index). Every distinct prompt of a batch is prefilled once,
its cache is expanded to its rows, and all rows then step together. A row ends at an end-of-text token, when the stop
rule says that what will be scored is complete, or at ``max_new_tokens``; ended rows leave the batch, so a step costs
what its live rows cost. What a row draws depends on its own address only (:mod:`leakmech.seeds`), never on its
neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from leakmech.errors import GenerationError
from leakmech.generation.cache import growing_cache
from leakmech.generation.sampler import Decoding, sample_tokens
from leakmech.seeds import row_keys

FinishReason = Literal["stop", "sentence", "length"]
StopRule = Callable[[str, str], bool]
"""``stop(prompt_id, text so far) -> True`` when the text that will be scored can no longer change."""

_TERMINATORS = frozenset(".!?…。！？\n")
_STEPS_TO_LOOK = 4  # a sentence end is confirmed by what follows it, within a few tokens


@dataclass(frozen=True)
class Row:
    """One generation to make: its address and the token ids of its prompt."""

    prompt_id: str
    generation: int
    prompt_tokens: tuple[int, ...] = field(repr=False)


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
    """Decodes batches of rows with one model; holds what is the same for every batch.

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
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, decoding: Decoding, seed: int = 0, stop: StopRule | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.decoding = decoding
        self.seed = seed
        self.stop = stop
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

    def decode(self, rows: Sequence[Row], *, on_finished: Callable[[int], None] | None = None) -> list[Generation]:
        """Generate all `rows` as one batch.

        Parameters
        ----------
        rows
            What to generate; rows of one prompt share its prefill.
        on_finished
            Called with the number of rows that ended in a step, for progress bars.

        Returns
        -------
        list of Generation
            In the order of `rows`.

        Raises
        ------
        GenerationError
            The model's logits are NaN or infinite; the message names the prompt.
        """
        started = time.perf_counter()
        with torch.inference_mode():
            batch = _Batch(self, rows)
            while batch.live:
                n_live = len(batch.live)
                batch.step()
                if on_finished and len(batch.live) < n_live:
                    on_finished(n_live - len(batch.live))
        self.clock.total += time.perf_counter() - started
        return batch.results()

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens as they are: no special tokens, no tidying of spaces."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


class _Batch:
    """The state of one batch: which rows are live, in cache order, and what they have said."""

    def __init__(self, decoder: Decoder, rows: Sequence[Row]) -> None:
        self.decoder = decoder
        self.rows = rows
        self.tokens: list[list[int]] = [[] for _ in rows]
        self.finish: list[FinishReason | None] = [None] * len(rows)
        self.looks = [0] * len(rows)  # how many more steps to look for the end of a sentence
        self.live = list(range(len(rows)))  # row numbers in cache order
        self.n_steps = 0
        device, budget = decoder.device, decoder.decoding.max_new_tokens
        self.keys = row_keys(decoder.seed, [r.prompt_id for r in rows], [r.generation for r in rows]).to(device)

        prompts = list(dict.fromkeys(row.prompt_tokens for row in rows))
        prompt_of = {prompt: i for i, prompt in enumerate(prompts)}
        expand = torch.tensor([prompt_of[row.prompt_tokens] for row in rows], device=device)
        self.width = max(map(len, prompts))
        ids, mask = _left_pad(prompts, self.width, device)
        self.cache = growing_cache(decoder.model.config)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = self._forward(ids, attention_mask=mask, position_ids=positions)
        if len(rows) > len(prompts) or any(row.prompt_tokens != p for row, p in zip(rows, prompts, strict=False)):
            self.cache.batch_select_indices(expand)
        self.logits = logits[expand]
        self.lengths = mask.sum(1)[expand]  # tokens a live row has seen
        self.mask = torch.cat([mask[expand], mask.new_ones((len(rows), budget))], dim=1)
        # Padding is replaced by the row's own last token, which the repetition penalty counts anyway.
        self.seen = torch.cat([ids.where(mask.bool(), ids[:, -1:])[expand], ids.new_zeros((len(rows), budget))], dim=1)

    def _forward(self, ids: Tensor, *, attention_mask: Tensor, position_ids: Tensor) -> Tensor:
        """Run the model on new tokens; logits of the last position, float32 ``[rows, vocab]``."""
        clock = self.decoder.clock
        started = time.perf_counter()
        output = self.decoder.model(
            input_ids=ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if ids.device.type != "cpu":
            torch.cuda.synchronize() if ids.device.type == "cuda" else torch.mps.synchronize()
        clock.forward += time.perf_counter() - started
        clock.row_steps += ids.shape[0]
        return output.logits[:, -1].float()

    def step(self) -> None:
        """Draw one token for every live row, retire the rows that end, and run the model on the others."""
        tokens, broken = sample_tokens(
            self.logits,
            self.seen[:, : self.width + self.n_steps],
            keys=self.keys,
            steps=torch.full_like(self.keys, self.n_steps),
            decoding=self.decoder.decoding,
        )
        self.seen[:, self.width + self.n_steps] = tokens
        self.n_steps += 1
        drawn, bad = torch.stack([tokens, broken.long()]).tolist()
        self._refuse_broken(bad)
        for row, token in zip(self.live, drawn, strict=True):
            self._append(row, token)
        self._stop_complete()
        self._retire()
        if self.live:
            self.logits = self._forward(
                self.seen[:, self.width + self.n_steps - 1, None],
                attention_mask=self.mask[:, : self.width + self.n_steps],
                position_ids=self.lengths[:, None],
            )
            self.lengths += 1

    def _refuse_broken(self, bad: list[int]) -> None:
        for row, is_bad in zip(self.live, bad, strict=True):
            if is_bad:
                name = self.rows[row].prompt_id
                raise GenerationError(
                    f"prompt {name!r}: the model's logits are NaN or infinite at token {self.n_steps}; "
                    "try --dtype float32, or check the intervention or adapter in use"
                )

    def _append(self, row: int, token: int) -> None:
        """Note a drawn token; decide whether it ends the row by itself."""
        if token in self.decoder.end_tokens:
            self.finish[row] = "stop"
            return
        self.tokens[row].append(token)
        if self.decoder.stop and self.decoder._may_end_sentence[token]:
            self.looks[row] = _STEPS_TO_LOOK
        if len(self.tokens[row]) == self.decoder.decoding.max_new_tokens:
            self.finish[row] = "length"

    def _stop_complete(self) -> None:
        """End the rows whose scored text is complete."""
        if not self.decoder.stop:
            return
        for row in self.live:
            if self.finish[row] is None and self.looks[row] > 0:
                self.looks[row] -= 1
                # Half of a multi-byte character decodes to U+FFFD; it is not text yet.
                text = self.decoder.text(self.tokens[row]).rstrip("\ufffd")
                if self.decoder.stop(self.rows[row].prompt_id, text):
                    self.finish[row] = "sentence"

    def _retire(self) -> None:
        """Take ended rows out of the batch: their places are filled with live rows from the end."""
        ended = [self.finish[row] is not None for row in self.live]
        if not any(ended):
            return
        n_left = len(self.live) - sum(ended)
        holes = [place for place in range(n_left) if ended[place]]
        fillers = [place for place in range(n_left, len(self.live)) if not ended[place]]
        order = list(range(n_left))
        for hole, filler in zip(holes, fillers, strict=True):
            order[hole] = filler
        self.live = [self.live[place] for place in order]
        if not self.live:
            return
        index = torch.tensor(order, device=self.decoder.device)
        self.cache.batch_select_indices(index)
        for name in ("keys", "lengths", "mask", "seen"):
            setattr(self, name, getattr(self, name)[index])

    def results(self) -> list[Generation]:
        """The finished generations in the order of the rows."""
        finished = []
        for row, tokens, finish in zip(self.rows, self.tokens, self.finish, strict=True):
            if finish is None:
                raise AssertionError("a row is still live")
            text = self.decoder.text(tokens)
            finished.append(Generation(row.prompt_id, row.generation, text, tuple(tokens), finish))
        return finished


def _left_pad(prompts: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask ``[prompts, width]``; padding repeats the prompt's first token and is masked."""
    ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask
