"""A model as it is run: its own Hugging Face module, and what changes it while it runs.

Everything that is measured here goes through the module's plain forward pass, so that hooks, folded weights and
adapters act exactly as they do in generation. Base and changed model may be one module: the change is a context manager
that is entered around each pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import UsageError
from leakmech.generation.cache import growing_cache
from leakmech.models.batching import padded_left
from leakmech.models.load import LoadedModel


@dataclass(frozen=True)
class Continuation:
    """Token ids of a prompt and of what follows it; the latter are scored, the former are given.

    Attributes
    ----------
    id
        For error messages.
    unit
        What is resampled for intervals: the id of a sample, a document, a question.
    prompt
        At least one token.
    tokens
        May be empty: it then has no tokens to say anything about.
    injection, stem
        First token of these parts of the prompt and the one behind the last, for changes that act there; equal where
        there is no such part.
    """

    id: str
    unit: str
    prompt: tuple[int, ...] = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)
    injection: tuple[int, int] = (0, 0)
    stem: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UsageError(f"continuation {self.id!r}: has no prompt token, so its first token cannot be predicted")

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)


@dataclass(frozen=True, eq=False)
class Batch:
    """Continuations side by side, padded on the left: every row ends in the last column.

    Attributes
    ----------
    rows
        What stands in the rows. Token t of a row of n tokens is in column ``width - n + t``.
    ids, mask, positions
        Token ids, attention mask and position ids, shape (rows, width). Padding repeats a row's first token.
    """

    rows: tuple[Continuation, ...]
    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"]
    positions: Int[Tensor, "row pos"]

    @classmethod
    def of(cls, rows: Sequence[Continuation], *, device: torch.device) -> Batch:
        """Pad and stack."""
        inputs = padded_left([torch.tensor([*row.prompt, *row.tokens]) for row in rows], device)
        return cls(tuple(rows), inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"])


Change = Callable[[Batch], AbstractContextManager[object]]
"""``change(batch)``: a context manager in which the module runs changed; it may look at where prompts end."""


@dataclass(frozen=True, eq=False)
class ModelVariant:
    """A model with a change, or without one.

    Parameters
    ----------
    loaded
        The model; an adapter on it is part of it.
    change
        Entered around every forward pass; None runs the module as it is. It is told the batch, so that a change that
        acts at some positions only can find them. For the base of an adapted model it is
        ``lambda batch: loaded.model.disable_adapter()``.
    """

    loaded: LoadedModel
    change: Change | None = None

    @property
    def device(self) -> torch.device:
        """Where inputs belong."""
        embedding: Any = self.loaded.model.get_input_embeddings()
        return embedding.weight.device

    @property
    def vocabulary(self) -> int:
        """Number of logits a token."""
        unembedding: Any = self.loaded.model.get_output_embeddings()
        return unembedding.weight.shape[0]

    def logits(self, batch: Batch, *, keep: int) -> Float[Tensor, "row keep vocab"]:
        """Logits of the last `keep` columns, in the model's own number format."""
        with torch.inference_mode(), self.change(batch) if self.change else nullcontext():
            return self.loaded.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=keep,
            ).logits

    def logits_behind(self, prompt: Sequence[int], rows: Sequence[Sequence[int]]) -> Float[Tensor, "row longest vocab"]:
        """Logits of continuations of one prompt, which is read once: column t predicts token t of a row.

        Columns behind the end of a row mean nothing.

        Raises
        ------
        UsageError
            The model runs under a change, which is entered for whole passes only.
        """
        if self.change is not None:
            raise UsageError("prompts are read once only where no change is in force")
        model, n_rows, width = self.loaded.model, len(rows), max(map(len, rows))
        start = len(prompt)
        # Padded on the right: nothing before it sees it, and columns are positions.
        ids = torch.tensor([[*row[:-1], *[prompt[0]] * (width - len(row))] for row in rows], device=self.device)
        with torch.inference_mode():
            cache = growing_cache(model.config)
            given = torch.tensor([list(prompt)], device=self.device)
            first = model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            if width == 1:
                return first.expand(n_rows, 1, -1)
            cache.batch_repeat_interleave(n_rows)
            rest = model(
                input_ids=ids,
                attention_mask=torch.ones(n_rows, start + width - 1, dtype=torch.long, device=self.device),
                position_ids=torch.arange(start, start + width - 1, device=self.device).expand(n_rows, -1),
                past_key_values=cache,
                use_cache=True,
            ).logits
            return torch.cat([first.expand(n_rows, 1, -1), rest], dim=1)
