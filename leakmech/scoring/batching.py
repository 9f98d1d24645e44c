"""What classifiers of texts share: the order of the labels, batches of like length, equal rows for equal texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase

LABELS = ("negative", "neutral", "positive")

# Small batches keep a CPU's caches warm (measured: 16 is a third faster than 64), large ones an accelerator busy.
_BATCH_SIZES = {"cpu": 16}
_BATCH_SIZE_ELSEWHERE = 128


def once_each(texts: Sequence[str], score: Callable[[list[str]], Float[np.ndarray, "u 3"]]) -> Float[np.ndarray, "n 3"]:
    """Score equal texts once, so that their rows are equal to the last bit."""
    unique = list(dict.fromkeys(texts))
    if not unique:
        return np.zeros((0, len(LABELS)))
    position = {text: index for index, text in enumerate(unique)}
    return score(unique)[[position[text] for text in texts]]


def softmax(logits: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Probabilities of the logits, row by row."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def batch_size(device: str | torch.device) -> int:
    """Texts in a batch on that device."""
    return _BATCH_SIZES.get(torch.device(device).type, _BATCH_SIZE_ELSEWHERE)


@torch.inference_mode()
def in_batches(
    texts: Sequence[str],
    *,
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    size: int,
    forward: Callable[[BatchEncoding], Float[Tensor, "batch d"]],
) -> Float[np.ndarray, "n d"]:
    """Rows of `forward` for at least one text, in float64 and in the order of `texts`; the longest run first.

    `size` is the number of texts in a batch (:func:`batch_size`). Texts of more than `max_tokens` tokens are cut there.
    """
    token_ids = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    longest_first = sorted(range(len(texts)), key=lambda index: -len(token_ids[index]))
    rows = [
        forward(tokenizer.pad({"input_ids": [token_ids[index] for index in batch]}, return_tensors="pt"))
        for batch in (longest_first[start : start + size] for start in range(0, len(texts), size))
    ]
    ordered = np.empty((len(texts), rows[0].shape[1]))
    ordered[longest_first] = torch.cat(rows).double().cpu().numpy()
    return ordered
