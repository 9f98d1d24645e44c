"""Sentences that have nothing to do with the request, by similarity of meaning: a text-only baseline of mitigations.

Let s_1 … s_n be the sentences of a text, of which the last is the request, and e(s) their embeddings. Kept are

    { s_i : i < n, cos(e(s_i), e(s_n)) >= threshold }  and s_n.

Nothing is known of the text but that its last sentence is the request. Where that is not so (the request stands first)
the rule can drop the request: the rewrite then counts as failed (:mod:`leakmech.generation.rewriting`). A text of one
sentence, or of none, has nothing to drop and stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from leakmech.core.text import split_sentences

Encode = Callable[[Sequence[str]], Float[np.ndarray, "n d"]]
"""Embeds texts; rows have length 1."""


def without_unrelated(texts: Sequence[str], *, threshold: float, encode: Encode) -> list[str]:
    """The texts without the sentences whose cosine to the last one is below `threshold`.

    A text from which nothing is dropped stays as it is, to the letter.
    """
    split = [split_sentences(text) for text in texts]
    unique = list(dict.fromkeys(sentence for sentences in split if len(sentences) > 1 for sentence in sentences))
    if not unique:
        return list(texts)
    rows = dict(zip(unique, encode(unique), strict=True))

    def kept(text: str, sentences: Sequence[str]) -> str:
        if len(sentences) < 2:
            return text
        *before, last = sentences
        related = [sentence for sentence in before if float(rows[sentence] @ rows[last]) >= threshold]
        return text if len(related) == len(before) else " ".join([*related, last])

    return [kept(text, sentences) for text, sentences in zip(texts, split, strict=True)]
