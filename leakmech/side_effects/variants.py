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
    """Token ids of a prompt (at least one), which are given, and of what follows (perhaps none), which are scored."""

    id: str
    unit: str
    """What is resampled for intervals: the id of a sample, a document, a question."""
    prompt: tuple[int, ...] = field(repr=False)
    tokens: tuple[int, ...] = field(repr=False)
    injection: tuple[int, int] = (0, 0)
    """First token of this part of the prompt and the one after the last; equal where there is no such part."""
    stem: tuple[int, int] = (0, 0)
    """As `injection`; changes that act at a part find it by these."""

    def __post_init__(self) -> None:
        if not self.prompt:
            raise UsageError(f"continuation {self.id!r}: has no prompt token, so its first token cannot be predicted")

    def __len__(self) -> int:
        return len(self.prompt) + len(self.tokens)


@dataclass(frozen=True, eq=False)
class Batch:
    """Continuations side by side, padded on the left: token t of a row of n tokens is in column ``width - n + t``."""

    rows: tuple[Continuation, ...]
    ids: Int[Tensor, "row pos"]
    mask: Int[Tensor, "row pos"]
    positions: Int[Tensor, "row pos"]

    @classmethod
    def of(cls, rows: Sequence[Continuation], *, device: torch.device) -> Batch:
        """Pad continuations and stack them."""
        inputs = padded_left([torch.tensor([*row.prompt, *row.tokens]) for row in rows], device)
        return cls(tuple(rows), inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"])


Change = Callable[[Batch], AbstractContextManager[object]]
"""``change(batch)``: a context manager in which the module runs changed; it may look at where prompts end."""


@dataclass(frozen=True, eq=False)
class ModelVariant:
    """A model (an adapter on it is part of it) with a change, or without one.

    The change is entered around every forward pass and told the batch, so that one that acts at some positions only can
    find them. For the base of an adapted model it is ``lambda batch: loaded.model.disable_adapter()``.
    """

    loaded: LoadedModel
    change: Change | None = None

    @property
    def device(self) -> torch.device:
        """Give the device to which inputs belong."""
        embedding: Any = self.loaded.model.get_input_embeddings()
        return embedding.weight.device

    @property
    def vocabulary(self) -> int:
        """Give the number of logits a token."""
        unembedding: Any = self.loaded.model.get_output_embeddings()
        return unembedding.weight.shape[0]

    def logits(self, batch: Batch, *, keep: int) -> Float[Tensor, "row keep vocab"]:
        """Compute the logits of the last `keep` columns, in the model's own number format."""
        with torch.inference_mode(), self.change(batch) if self.change else nullcontext():
            return self.loaded.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=keep,
            ).logits

    def logits_after(self, prompt: Sequence[int], rows: Sequence[Sequence[int]]) -> Float[Tensor, "row longest vocab"]:
        """Compute logits of continuations of one prompt, which is read once: column t predicts token t of a row.

        Columns after the end of a row mean nothing; a model with a change is refused.
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
