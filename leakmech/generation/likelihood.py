"""How probable given texts are under a model, after their prompts.

For a continuation c of a prompt x, with natural logarithms,

    log q(c | x) = sum_t log q(c_t | x, c_<t).

Logits are taken as the model computes them (bfloat16 too); softmax and sums are taken in float64 (float32 on devices
without it), a few rows of the vocabulary at a time, so memory does not grow with the vocabulary or the number of
texts. Continuations of one prompt can share its pass: the prompt is read once, its keys and values are repeated, and
hooks find their positions as they do in generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress, no_progress
from leakmech.generation.variants import Batch, Continuation, ModelVariant
from leakmech.models.batching import default_batch_size, in_batches, parse_batch_size
from leakmech.models.limits import refuse_beyond_learned

# Logits that one forward pass may return (per model), and that are turned into probabilities at once.
_LOGITS = {"cpu": 1 << 26}
_LOGITS_ELSEWHERE = 1 << 29
_CHUNK = 1 << 22

Rows = Float[Tensor, "token vocab"]
Item = tuple[Continuation, ...]


@dataclass(frozen=True, eq=False)
class Likelihoods:
    """How probable continuations are under one model."""

    ids: tuple[str, ...]
    units: tuple[str, ...]
    n_tokens: Int[np.ndarray, " continuations"]
    log_likelihood: Float[np.ndarray, " continuations"]
    """Sum over tokens, in nats; 0 for an empty continuation."""

    @classmethod
    def of(cls, continuations: Sequence[Continuation], values: Float[np.ndarray, " continuations"]) -> Likelihoods:
        """Put log-likelihoods beside the continuations that they are of."""
        return cls(
            ids=tuple(c.id for c in continuations),
            units=tuple(c.unit for c in continuations),
            n_tokens=np.array([len(c.tokens) for c in continuations], dtype=np.int64),
            log_likelihood=values,
        )

    @property
    def perplexity(self) -> float:
        """Compute exp of the mean negative log-likelihood of all tokens; NaN without tokens."""
        total = self.n_tokens.sum()
        return float(np.exp(-self.log_likelihood.sum() / total)) if total else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """Make one row per continuation."""
        columns = {"id": self.ids, "unit": self.units, "n_tokens": self.n_tokens}
        return pd.DataFrame(columns | {"log_likelihood": self.log_likelihood})


def log_likelihoods(
    variant: ModelVariant,
    continuations: Sequence[Continuation],
    *,
    share_prompts: bool = False,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Likelihoods:
    """Compute the log-likelihood of every continuation given its prompt; equal ones run once.

    `share_prompts` reads a prompt once for its continuations in one batch. In bfloat16 the last digits depend on that
    and on `batch_size`.
    """

    def work(rows: Sequence[Item], keep: int) -> Float[Tensor, "row 1"]:
        batch = Batch.of([own for (own,) in rows], device=variant.device)
        logits = variant.logits(batch, keep=keep)
        return torch.stack([summed(_token_log_likelihood, row.tokens, predicting(logits, i, row))
                            for i, row in enumerate(batch.rows)])  # fmt: skip

    def work_by_prompt(rows: Sequence[Item], _keep: int) -> Float[Tensor, "row 1"]:
        found = []
        for _, group in groupby((own for (own,) in rows), key=lambda own: own.read):
            texts = list(group)
            logits = variant.logits_after_prompt(texts)
            found += [summed(_token_log_likelihood, c.tokens, logits[i, : len(c.tokens)]) for i, c in enumerate(texts)]
        return torch.stack(found)

    items = [(continuation,) for continuation in continuations]
    found = per_continuation(
        variant,
        items,
        work_by_prompt if share_prompts else work,
        1,
        label="likelihoods",
        batch_size=batch_size,
        progress=progress,
        order=_by_prompt if share_prompts else by_length,
    )
    return Likelihoods.of(continuations, found[:, 0])


# -- batches -------------------------------------------------------------------------------------------------------


def per_continuation(
    variant: ModelVariant,
    continuations: Sequence[Item],
    work: Callable[[Sequence[Item], int], Tensor],
    n_values: int,
    *,
    label: str,
    batch_size: int | str,
    progress: Progress,
    order: Callable[[Item], Any],
) -> Float[np.ndarray, "continuations values"]:
    """Compute values of every continuation: highest in `order` first, equal ones once, empty ones not at all."""
    read = ((own.id, (*own.prompt, *own.tokens)) for item in continuations for own in item)
    refuse_beyond_learned(variant.loaded.model, read)
    distinct = {_key(item): item for item in continuations if item[0].tokens}
    items = list(distinct.values())
    values: dict[tuple[tuple[int, ...], ...], np.ndarray] = {}

    if items:
        size = _rows(variant, items, batch_size)
        for batch, found in in_batches(
            items,
            lambda rows: work(rows, 1 + max(len(row[0].tokens) for row in rows)).cpu().numpy(),
            batch_size=size,
            device=variant.device,
            label=label,
            progress=progress,
            order=order,
            name=_name,
        ):
            for row, numbers in zip(batch, found, strict=True):
                if not np.isfinite(numbers).all():
                    raise GenerationError(
                        f"continuation {row[0].id!r}: the model's logits are NaN or infinite; try dtype float32, or "
                        "check the intervention or adapter in use"
                    )
                values[_key(row)] = numbers
    nothing = np.zeros(n_values)
    rows = [values[_key(item)] if item[0].tokens else nothing for item in continuations]
    return np.stack(rows) if rows else np.zeros((0, n_values))


def _key(item: Item) -> tuple[tuple[int, ...], ...]:
    """Give what makes items equal: equal ones give equal numbers and are run once."""
    return (*(part for each in item for part in each.read), item[0].tokens)


def by_length(item: Item) -> int:
    return max(map(len, item))


def _by_prompt(item: Item) -> tuple[Any, ...]:
    """Order those of one prompt together, longest prompts and, of each, longest continuations first."""
    own = item[0]
    return len(own.prompt), own.read, len(own.tokens)


def _name(item: Item) -> str:
    return item[0].id


def _rows(variant: ModelVariant, items: Sequence[Item], batch_size: int | str) -> int:
    """Choose the rows of a forward pass so that its logits stay within bounds."""
    asked = parse_batch_size(batch_size)
    if asked:
        return asked
    kind = variant.device.type
    each = variant.vocabulary * (1 + max(len(item[0].tokens) for item in items))
    return max(1, min(default_batch_size(kind), _LOGITS.get(kind, _LOGITS_ELSEWHERE) // each))


# -- from logits to numbers ----------------------------------------------------------------------------------------


def predicting(logits: Float[Tensor, "row keep vocab"], row: int, item: Continuation) -> Rows:
    """Give the logits that predict the tokens of `item`: those one column before each."""
    return logits[row, -1 - len(item.tokens) : -1]


def summed(measure: Callable[..., Tensor], tokens: Sequence[int], *logits: Rows) -> Float[Tensor, " values"]:
    """Sum a measure over tokens, a few rows of the vocabulary at a time."""
    total: Tensor | None = None
    for start, stop in _chunks(len(tokens), logits[0].shape[-1]):
        wanted = torch.tensor(tokens[start:stop], device=logits[0].device)
        part = measure(wanted, *(_log_probabilities(rows[start:stop]) for rows in logits))
        total = part if total is None else total + part
    if total is None:
        raise AssertionError("no tokens")
    return total


def _chunks(n_tokens: int, vocabulary: int) -> Iterator[tuple[int, int]]:
    step = max(1, _CHUNK // vocabulary)
    for start in range(0, n_tokens, step):
        yield start, min(n_tokens, start + step)


def _log_probabilities(logits: Rows) -> Rows:
    wide: Any = torch.float32 if logits.device.type == "mps" else torch.float64
    return torch.log_softmax(logits.to(wide), dim=-1)


def _token_log_likelihood(tokens: Int[Tensor, " token"], log_p: Rows) -> Float[Tensor, " 1"]:
    return log_p.gather(-1, tokens[:, None]).sum().reshape(1)
