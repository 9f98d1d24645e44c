"""A model as it is run: its own Hugging Face module, and what changes it while it runs.

Everything that is measured here goes through the module's plain forward pass, so that hooks, folded weights and
adapters act exactly as they do in generation. Base and changed model may be one module: the change is a context manager
that is entered around each pass, and interventions are told where prompts end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import ModelError, UsageError
from leakmech.core.seeds import stable_hash
from leakmech.generation.cache import growing_cache
from leakmech.generation.rereading import keeps_a_state
from leakmech.interventions.applied import Applied
from leakmech.interventions.positions import PromptSpans, RowPositions
from leakmech.models.adapters import base_of
from leakmech.models.batching import padded_left
from leakmech.models.hooks import whole_unembedding
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

    @property
    def read(self) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int]]:
        """Give what is read before the tokens: continuations that share it may share its pass."""
        return self.prompt, self.injection, self.stem

    @property
    def spans(self) -> PromptSpans:
        """Say where the parts of the prompt are; what interventions draw for it goes by its tokens."""
        return PromptSpans(len(self.prompt), self.injection, self.stem, stable_hash(*self.prompt))


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

    @property
    def where(self) -> RowPositions:
        """Say where the parts of each row stand."""
        counts = [len(row.tokens) for row in self.rows]
        return RowPositions.of([row.spans for row in self.rows], n_generated=counts, device=self.ids.device)


Change = Callable[[], AbstractContextManager[Applied | None]]
"""``change()``: a context manager in which the module runs changed; it yields the interventions in force, which are
then told where rows stand (:func:`leakmech.interventions.hooks.apply` does), or None."""


@dataclass(frozen=True, eq=False)
class ModelVariant:
    """A model (an adapter on it is part of it) with a change, or without one.

    For the base of an adapted model the change is ``lambda: loaded.model.disable_adapter()``.
    """

    loaded: LoadedModel
    change: Change | None = None

    def __post_init__(self) -> None:
        if keeps_a_state(base_of(self.loaded.model)):
            raise ModelError(
                f"{self.loaded.architecture}: keeps a state instead of keys and values, so that likelihoods of several "
                "texts at once (tilt, on task, side effects) are not computed; bench measures it without them"
            )

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

    @contextmanager
    def _running(self) -> Iterator[Callable[[RowPositions], AbstractContextManager[object]]]:
        """Let the module run changed, without gradients; what is yielded tells the change where rows stand."""
        change = self.change() if self.change else nullcontext()
        with torch.inference_mode(), whole_unembedding(self.loaded.model), change as applied:
            yield (lambda _: nullcontext()) if applied is None else applied.positions

    def logits(self, batch: Batch, *, keep: int) -> Float[Tensor, "row keep vocab"]:
        """Compute the logits of the last `keep` columns, in the model's own number format."""
        with self._running() as told, told(batch.where):
            return self.loaded.model(
                input_ids=batch.ids,
                attention_mask=batch.mask,
                position_ids=batch.positions,
                use_cache=False,
                logits_to_keep=keep,
            ).logits

    def logits_after_prompt(self, rows: Sequence[Continuation]) -> Float[Tensor, "row longest vocab"]:
        """Compute logits of continuations of one prompt, which is read once: column t predicts token t of a row.

        Columns after the end of a row mean nothing. What a change decides on the prompt holds for all rows.
        """
        model, n_rows, width = self.loaded.model, len(rows), max(len(row.tokens) for row in rows)
        prompt = rows[0].prompt
        start, n_columns = len(prompt), width - 1
        # Padded on the right: nothing before it sees it, and columns are positions.
        ids = torch.tensor(
            [[*row.tokens[:-1], *[prompt[0]] * (width - len(row.tokens))] for row in rows], device=self.device
        )
        where = RowPositions.of([rows[0].spans], device=self.device)
        with self._running() as told:
            cache = growing_cache(model.config)
            given = torch.tensor([list(prompt)], device=self.device)
            with told(where):
                first = model(input_ids=given, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
            if not n_columns:
                return first.expand(n_rows, 1, -1)
            cache.batch_repeat_interleave(n_rows)
            everywhere = where.select(torch.zeros(n_rows, dtype=torch.long, device=self.device)).advanced(n_columns)
            with told(everywhere):
                rest = model(
                    input_ids=ids,
                    attention_mask=torch.ones(n_rows, start + n_columns, dtype=torch.long, device=self.device),
                    position_ids=torch.arange(start, start + n_columns, device=self.device).expand(n_rows, -1),
                    past_key_values=cache,
                    use_cache=True,
                ).logits
            return torch.cat([first.expand(n_rows, 1, -1), rest], dim=1)
