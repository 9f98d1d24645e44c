"""How far a changed model's distribution lies from the base model's, on given texts.

For continuations c of prompts x (n tokens in all), with natural logarithms throughout:

    perplexity     exp(-1/n sum_c sum_t log q(c_t | x, c_<t)), from the log-likelihoods of
                   :mod:`leakmech.generation.likelihood`
    ratio          perplexity(changed) / perplexity(base) on the same tokens; 1: nothing has changed
    KL             1/n sum_c sum_t sum_v p(v | x, c_<t) log(p(v | x, c_<t) / q(v | x, c_<t)),    in nats a token

p is the base model, q the changed one. Both read the same texts, batch by batch (after other prompts, where it is the
prompt that a mitigation changes), and only numbers per text are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.errors import ModelError, UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.generation.likelihood import Item, Likelihoods, Rows, by_length, per_continuation, predicting, summed
from leakmech.generation.variants import Batch, Continuation, ModelVariant
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio, per_unit


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
            summed(_token_comparison, own.tokens, predicting(before, i, own), predicting(after, i, own))
            for i, (own, _) in enumerate(rows)
        ])  # fmt: skip

    found = per_continuation(
        base, items, work, 3, label="base and changed", batch_size=batch_size, progress=progress, order=by_length
    )
    before, after = (Likelihoods.of(continuations, found[:, column]) for column in (0, 1))
    return LikelihoodComparison(before, after, found[:, 2])


def _token_comparison(tokens: Int[Tensor, " token"], log_p: Rows, log_q: Rows) -> Float[Tensor, " 3"]:
    """Compute the log-likelihood under p and q, and KL(p || q)."""
    picked = [log.gather(-1, tokens[:, None]).sum() for log in (log_p, log_q)]
    p = log_p.exp()
    # A token of probability 0 contributes nothing, whatever q makes of it.
    divergence = torch.where(p > 0, p * (log_p - log_q), torch.zeros_like(p)).sum()
    return torch.stack([*picked, divergence])
