"""What a model can read: ids that have embeddings, and as many tokens as it has positions.

Learned positions (GPT-2, OPT) end: a longer text is an index error. Positions that are computed (rotary, ALiBi, none)
go on: a text may be longer than those of training, and the model reads it badly.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from leakmech.core.errors import LeakmechWarning, ModelError
from leakmech.models.adapters import base_of

_LEARNED = ("wpe", "embed_positions", "position_embeddings", "position_embedding")
"""Names of modules that hold one vector a position."""


class BeyondTraining(LeakmechWarning):
    """A text is longer than those that a model was trained on."""


def n_positions(model: nn.Module) -> int | None:
    """Positions that a model has, or was trained with; None if its configuration does not say."""
    config: Any = base_of(model).config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def has_learned_positions(model: nn.Module) -> bool:
    """Whether a model has one vector a position, and none beyond them."""
    return any(
        isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _LEARNED
        for name, module in base_of(model).named_modules()
    )


def refuse_beyond_learned(
    model: nn.Module, prompts: Iterable[tuple[str, Sequence[int]]], *, new_tokens: int = 0
) -> None:
    """:func:`refuse_unreadable` for a model with learned positions; others read on, badly."""
    if has_learned_positions(model):
        refuse_unreadable(model, prompts, new_tokens=new_tokens)


def refuse_unreadable(model: nn.Module, prompts: Iterable[tuple[str, Sequence[int]]], *, new_tokens: int = 0) -> int:
    """Refuse prompts (id, token ids) that a model cannot read, with `new_tokens` to come; warn beyond its training.

    Returns the number of tokens of the longest one.

    Raises
    ------
    ModelError
        A token has no embedding, or a prompt is longer than the positions that the model has.
    """
    rows = base_of(model).get_input_embeddings().weight.shape[0]
    limit = n_positions(model)
    longest, beyond = ("", 0), 0
    for name, tokens in prompts:
        if len(tokens) and (largest := max(tokens)) >= rows:
            raise ModelError(
                f"prompt {name!r}: token {largest} has no embedding, the model has {rows}; use the model's own "
                "tokenizer, or resize the embeddings (resize_token_embeddings) and save the model"
            )
        if len(tokens) > longest[1]:
            longest = name, len(tokens)
        beyond += limit is not None and len(tokens) + new_tokens > limit
    name, length = longest
    if limit is None or not beyond:
        return length
    told = f"prompt {name!r}: has {length} tokens" + (f" and up to {new_tokens} are to come" if new_tokens else "")
    if has_learned_positions(model):
        way = "shorten it, or lower --max-new-tokens" if new_tokens else "shorten it"
        raise ModelError(f"{told}; the model reads at most {limit}; {way}")
    warnings.warn(
        f"{told}; the model was trained on {limit} positions ({beyond} prompts go past them)",
        BeyondTraining,
        stacklevel=2,
    )
    return length
