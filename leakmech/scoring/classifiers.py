"""What classifiers of texts share: the order of the labels, batches of like length, equal rows for equal texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.progress import no_progress
from leakmech.models.batching import in_batches
from leakmech.scoring.leakage import LABELS

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

_NOTHING = np.zeros((0, len(LABELS)))


def once_each(
    texts: Sequence[str],
    score: Callable[[list[str]], Float[np.ndarray, "u d"]],
    *,
    nothing: Float[np.ndarray, "0 d"] = _NOTHING,
) -> Float[np.ndarray, "n d"]:
    """Score equal texts once, so that their rows are equal to the last bit; `nothing` is returned for no texts."""
    unique = list(dict.fromkeys(texts))
    if not unique:
        return nothing.copy()
    position = {text: index for index, text in enumerate(unique)}
    return score(unique)[[position[text] for text in texts]]


def softmax(logits: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Probabilities of the logits, row by row."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


@torch.inference_mode()
def in_text_batches(
    texts: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    device: torch.device,
    forward: Callable[[BatchEncoding], Float[Tensor, "batch d"]],
) -> Float[np.ndarray, "n d"]:
    """Rows of `forward` for at least one text, in float64 and in the order of `texts`; the longest run first.

    Texts of more than `max_tokens` tokens are cut there.
    """
    token_ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    batches = in_batches(
        range(len(texts)),
        lambda batch: forward(tokenizer.pad({"input_ids": [token_ids[i] for i in batch]}, return_tensors="pt")),
        batch_size="auto",
        device=device,
        label="texts",
        progress=no_progress,
        order=lambda index: len(token_ids[index]),
        name=lambda index: f"text {texts[index][:40]!r}",
    )
    numbers, rows = zip(*batches, strict=True)
    together = torch.cat(rows).double().cpu().numpy()
    ordered = np.empty_like(together)
    ordered[np.concatenate(numbers)] = together
    return ordered
