"""Tiny models with a change, an encoder that counts words, and answers that are made up."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from leakmech.core.text import normalised_words
from leakmech.datasets.samples import CONDITIONS
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model
from leakmech.side_effects.answers import Answers
from leakmech.side_effects.variants import Continuation, ModelVariant


@pytest.fixture(scope="session")
def tiny(make_tiny, chat_tokenizer):
    """A tiny Llama as it is."""
    return ModelVariant(load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="float32", device="cpu"))


@pytest.fixture(scope="session")
def noisy(make_tiny, chat_tokenizer):
    """The same model with noise in its weights."""
    model = make_tiny("llama-gqa")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return ModelVariant(load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu"))


@pytest.fixture
def hooked(tiny):
    """``hooked(scale)``: the tiny model's own module, its second block's output scaled by a hook."""

    def make(scale):
        block = layout_of(tiny.loaded.model).blocks[1].block

        @contextmanager
        def change(batch):
            def hook(module, args, output):
                return (output[0] * scale, *output[1:]) if isinstance(output, tuple) else output * scale

            handle = block.register_forward_hook(hook)
            try:
                yield
            finally:
                handle.remove()

        return ModelVariant(tiny.loaded, change)

    return make


@pytest.fixture(scope="session")
def continuations():
    """Twelve random continuations of unlike length, in four units; one is empty."""
    generator = np.random.default_rng(0)
    found = []
    for i in range(12):
        prompt, tokens = generator.integers(3, 40), generator.integers(1, 30) if i else 0
        ids = [tuple(int(t) for t in generator.integers(0, 250, size=n)) for n in (prompt, tokens)]
        found.append(Continuation(f"c{i}", f"u{i % 4}", *ids))
    return found


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
