"""Coupled sampling: which token a row draws, given its logits and its address.

The order of operations is the one Hugging Face uses: repetition penalty, n-grams, temperature, top-k, top-p. The draw
is Gumbel-max over the candidates that are left, with noise addressed by (seed, prompt, generation, step, token)
(:mod:`leakmech.core.seeds`).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import NoRepeatNGramLogitsProcessor

from leakmech.core.noise import gumbel_noise
from leakmech.generation.decoding import Decoding


def penalise_repetition(logits: Float[Tensor, "rows vocab"], seen: Int[Tensor, "rows seen"], penalty: float) -> None:
    """Apply the repetition penalty for the token ids `seen`, in place (ids may repeat within a row)."""
    if penalty == 1.0:
        return
    scores = logits.gather(1, seen)
    logits.scatter_(1, seen, torch.where(scores < 0, scores * penalty, scores / penalty))


def forbid_repeated_ngrams(
    logits: Float[Tensor, "rows vocab"], seen: Int[Tensor, "rows seen"], lengths: Int[Tensor, " rows"], size: int
) -> None:
    """Set the logits of tokens that would end a sequence of `size` tokens a second time to -inf, in place.

    Row i has its last ``lengths[i]`` columns; what lies before is padding. The rule is that of transformers.
    """
    processor: Any = NoRepeatNGramLogitsProcessor(size)
    for row, length in enumerate(lengths.tolist()):
        logits[row] = processor(seen[row : row + 1, -length:], logits[row : row + 1])[0]


def sample_tokens(
    logits: Float[Tensor, "rows vocab"],
    seen: Int[Tensor, "rows seen"],
    *,
    keys: Int[Tensor, " rows"],
    steps: Int[Tensor, " rows"],
    decoding: Decoding,
    lengths: Int[Tensor, " rows"] | None = None,
) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Draw one token for every row, and say which rows have NaN or infinite logits, so that their token means nothing.

    `logits` (float32) are changed in place. `seen` holds the tokens of prompt and row, padded with any id of the row;
    `lengths` counts those that are no padding (None: all).
    """
    temperature = decoding.sampling_temperature
    penalise_repetition(logits, seen, decoding.repetition_penalty)
    if decoding.no_repeat_ngrams:
        own = torch.full((len(seen),), seen.shape[1]) if lengths is None else lengths
        forbid_repeated_ngrams(logits, seen, own, decoding.no_repeat_ngrams)
    n_candidates = 1 if temperature == 0 else min(decoding.top_k or logits.shape[1], logits.shape[1])
    scores, candidates = logits.topk(n_candidates, dim=1)  # NaN sorts first, so the top shows any of them
    broken = ~torch.isfinite(scores[:, 0])
    if temperature == 0:
        return candidates[:, 0], broken
    log_probabilities = torch.log_softmax(scores / temperature, dim=1)
    probabilities = log_probabilities.exp()
    mass_before = probabilities.cumsum(dim=1) - probabilities
    log_probabilities = log_probabilities.masked_fill(mass_before >= decoding.top_p, -torch.inf)
    noise = gumbel_noise(keys, steps, candidates)
    choice = (log_probabilities + noise).argmax(dim=1, keepdim=True)
    return candidates.gather(1, choice).squeeze(1), broken
