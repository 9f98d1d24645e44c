"""How probable given texts are under a model, and how far a changed model's distribution lies from the base model's.

For continuations c of prompts x (n tokens in all), with natural logarithms throughout:

    perplexity     exp(-1/n sum_c sum_t log q(c_t | x, c_<t))
    ratio          perplexity(changed) / perplexity(base) on the same tokens; 1: nothing has changed
    KL             1/n sum_c sum_t sum_v p(v | x, c_<t) log(p(v | x, c_<t) / q(v | x, c_<t)),    in nats a token

p is the base model, q the changed one. Both read the same texts, batch by batch (after other prompts, where it is the
prompt that a mitigation changes), and only numbers per text are kept. Logits are taken as the model computes them
(bfloat16 too); softmax, differences and sums are taken in float64 (float32 on devices without it), a few rows of the
vocabulary at a time, so memory does not grow with the vocabulary or the number of texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import GenerationError, ModelError, UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.models.batching import default_batch_size, in_batches, parse_batch_size
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio, per_unit
from leakmech.side_effects.variants import Batch, Continuation, ModelVariant

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

    @property
    def perplexity(self) -> float:
        """Compute exp of the mean negative log-likelihood of all tokens; NaN without tokens."""
        total = self.n_tokens.sum()
        return float(np.exp(-self.log_likelihood.sum() / total)) if total else float("nan")

    def to_frame(self) -> pd.DataFrame:
        """Make one row per continuation."""
        columns = {"id": self.ids, "unit": self.units, "n_tokens": self.n_tokens}
        return pd.DataFrame(columns | {"log_likelihood": self.log_likelihood})


@dataclass(frozen=True, eq=False)
class LikelihoodComparison:
    """The same continuations under a base model and a changed one."""

    base: Likelihoods
    changed: Likelihoods
    kl: Float[np.ndarray, " continuations"]
    """KL(base || changed) summed over the tokens, at the places that predict them, in nats."""

    @property
    def nats_columns(self) -> tuple[Float[np.ndarray, "units 2"], Float[np.ndarray, "units 2"]]:
        """Sum negative log-likelihood and tokens per unit, for base and changed model."""
        return self._per_unit(-self.base.log_likelihood), self._per_unit(-self.changed.log_likelihood)

    @property
    def kl_columns(self) -> Float[np.ndarray, "units 2"]:
        """Sum KL and tokens per unit; the ratio of their sums is the KL in nats a token."""
        return self._per_unit(self.kl)

    def perplexity_ratio(self, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
        """Compute perplexity(changed) / perplexity(base) with its paired bootstrap interval over units."""
        lost = self.base.log_likelihood - self.changed.log_likelihood
        return estimate(self._per_unit(lost), mean_ratio, seed=seed, draws=draws).mapped(np.exp)

    def kl_per_token(self, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
        """Compute KL(base || changed) in nats a token with its bootstrap interval over units."""
        return estimate(self.kl_columns, mean_ratio, seed=seed, draws=draws)

    def to_frame(self) -> pd.DataFrame:
        """Make one row per continuation."""
        frame = self.base.to_frame().rename(columns={"log_likelihood": "base_log_likelihood"})
        return frame.assign(changed_log_likelihood=self.changed.log_likelihood, kl=self.kl)

    def _per_unit(self, values: Float[np.ndarray, " continuations"]) -> Float[np.ndarray, "units 2"]:
        return per_unit(self.base.units, np.stack([values, self.base.n_tokens], axis=1))


def log_likelihoods(
    variant: ModelVariant,
    continuations: Sequence[Continuation],
    *,
    share_prompts: bool = False,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Likelihoods:
    """Compute the log-likelihood of every continuation given its prompt; equal ones run once.

    `share_prompts` reads a prompt once for its continuations in one batch and needs a model without a change. In
    bfloat16 the last digits depend on `batch_size`.
    """

    def work(rows: Sequence[Item], keep: int) -> Float[Tensor, "row 1"]:
        batch = Batch.of([own for (own,) in rows], device=variant.device)
        logits = variant.logits(batch, keep=keep)
        return torch.stack([_summed(_token_log_likelihood, row.tokens, _predicting(logits, i, row))
                            for i, row in enumerate(batch.rows)])  # fmt: skip

    def work_by_prompt(rows: Sequence[Item], _: int) -> Float[Tensor, "row 1"]:
        found = []
        for prompt, group in groupby((own for (own,) in rows), key=lambda own: own.prompt):
            texts = [own.tokens for own in group]
            logits = variant.logits_after(prompt, texts)
            found += [_summed(_token_log_likelihood, text, logits[i, : len(text)]) for i, text in enumerate(texts)]
        return torch.stack(found)

    items = [(continuation,) for continuation in continuations]
    found = _run(
        variant,
        items,
        work_by_prompt if share_prompts else work,
        1,
        label="likelihoods",
        batch_size=batch_size,
        progress=progress,
        order=_by_prompt if share_prompts else _by_length,
    )
    return _likelihoods(continuations, found[:, 0])


def compare_likelihoods(
    base: ModelVariant,
    changed: ModelVariant,
    continuations: Sequence[Continuation],
    *,
    changed_prompts: Mapping[str, Continuation] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> LikelihoodComparison:
    """Run base and changed model on the same batches: likelihoods under both, and KL(base || changed).

    Where a mitigation changes prompts, `changed_prompts` says by id what the changed model reads in place of a
    continuation: the same tokens after another prompt.
    """
    if base.vocabulary != changed.vocabulary:
        raise ModelError(
            f"KL between models with {base.vocabulary} and {changed.vocabulary} logits: compare models with one "
            "vocabulary"
        )

    items = [(own, (changed_prompts or {}).get(own.id, own)) for own in continuations]
    for own, other in items:
        if own.tokens != other.tokens:
            raise UsageError(f"continuation {own.id!r}: what the changed model reads has other tokens after its prompt")

    def work(rows: Sequence[Item], keep: int) -> Float[Tensor, "row 3"]:
        before = base.logits(Batch.of([own for own, _ in rows], device=base.device), keep=keep)
        batch = Batch.of([other for _, other in rows], device=changed.device)
        after = changed.logits(batch, keep=keep).to(base.device)
        return torch.stack([
            _summed(_token_comparison, own.tokens, _predicting(before, i, own), _predicting(after, i, own))
            for i, (own, _) in enumerate(rows)
        ])  # fmt: skip

    found = _run(
        base, items, work, 3, label="base and changed", batch_size=batch_size, progress=progress, order=_by_length
    )
    before, after = (_likelihoods(continuations, found[:, column]) for column in (0, 1))
    return LikelihoodComparison(before, after, found[:, 2])


def _likelihoods(continuations: Sequence[Continuation], values: Float[np.ndarray, " n"]) -> Likelihoods:
    return Likelihoods(
        ids=tuple(c.id for c in continuations),
        units=tuple(c.unit for c in continuations),
        n_tokens=np.array([len(c.tokens) for c in continuations], dtype=np.int64),
        log_likelihood=values,
    )


# -- batches -------------------------------------------------------------------------------------------------------


def _run(
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
    return (*(part for each in item for part in (each.prompt, each.injection, each.stem)), item[0].tokens)


def _by_length(item: Item) -> int:
    return max(map(len, item))


def _by_prompt(item: Item) -> tuple[int, tuple[int, ...], int]:
    """Order those of one prompt together, longest prompts and, of each, longest continuations first."""
    own = item[0]
    return len(own.prompt), own.prompt, len(own.tokens)


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


def _predicting(logits: Float[Tensor, "row keep vocab"], row: int, item: Continuation) -> Rows:
    """Give the logits that predict the tokens of `item`: those one column before each."""
    return logits[row, -1 - len(item.tokens) : -1]


def _summed(measure: Callable[..., Tensor], tokens: Sequence[int], *logits: Rows) -> Float[Tensor, " values"]:
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


def _token_comparison(tokens: Int[Tensor, " token"], log_p: Rows, log_q: Rows) -> Float[Tensor, " 3"]:
    """Compute the log-likelihood under p and q, and KL(p || q)."""
    picked = [log.gather(-1, tokens[:, None]).sum() for log in (log_p, log_q)]
    p = log_p.exp()
    # A token of probability 0 contributes nothing, whatever q makes of it.
    divergence = torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum()
    return torch.stack([*picked, divergence])
