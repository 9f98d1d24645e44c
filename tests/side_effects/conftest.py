"""An encoder that counts words, and answers that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from leakmech.core.text import normalised_words
from leakmech.datasets.samples import CONDITIONS
from leakmech.side_effects.answers import Answers


def make_answers(texts, *, n_samples=None, conditions=CONDITIONS, n_tokens=None):
    """Answers of ``texts[sample][condition][generation]``, or of ``texts(sample, condition, generation)``."""
    rows = []
    for s in range(n_samples if n_samples is not None else len(texts)):
        for c, condition in enumerate(conditions):
            given = [texts(s, condition, g) for g in range(4)] if callable(texts) else texts[s][c]
            for g, text in enumerate(given):
                rows.append(
                    {
                        "sample": f"s{s}",
                        "condition": condition,
                        "generation": g,
                        "text": text,
                        "first_sentence": text,
                        "n_tokens": len(text.split()) if n_tokens is None else n_tokens,
                        "finish_reason": "stop",
                    }
                )
    return Answers.of_records(rows)


class WordEncoder:
    """Unit vectors of word counts: texts that share words are similar."""

    def __call__(self, texts):
        words = sorted({word for text in texts for word in normalised_words(text)})
        place = {word: i for i, word in enumerate(words)}
        rows = np.zeros((len(texts), len(words) + 1))
        for row, text in zip(rows, texts, strict=True):
            for word in normalised_words(text):
                row[place[word]] += 1
            row[-1] = not row.any()
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def answers_of():
    """See :func:`make_answers`."""
    return make_answers


@pytest.fixture
def encoder():
    """See :class:`WordEncoder`."""
    return WordEncoder()
