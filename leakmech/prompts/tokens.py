"""Token ids of texts that a model is to continue.

A tokenizer may put special tokens around a text. Those before it belong there (a model expects its beginning); one
after it, such as an end of text, would end what is to be continued, and is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def encoded(tokenizer: Any, texts: Sequence[str], *, special: bool, offsets: bool = False) -> dict[str, list[Any]]:
    """``input_ids`` of texts, and with `offsets` the characters of each token (``offset_mapping``)."""
    found = tokenizer(list(texts), add_special_tokens=special, return_offsets_mapping=offsets)
    names = ["input_ids", *(["offset_mapping"] if offsets else [])]
    after = _n_after(tokenizer) if special else 0
    return {name: [own[: len(own) - after] for own in found[name]] for name in names}


@lru_cache(maxsize=16)
def _n_after(tokenizer: Any) -> int:
    """How many special tokens a tokenizer puts after a text."""
    bare, whole = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    starts = [place for place in range(len(whole) - len(bare) + 1) if whole[place : place + len(bare)] == bare]
    return len(whole) - len(bare) - starts[0] if starts else 0
