"""Fixtures for likelihoods: a tiny model as it is, with noise, and under a hook; and continuations to score."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model


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
        def change():
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


def by_hand(model, item):
    """Log-probabilities of all tokens at the places that predict `item.tokens`: one row, no padding, all logits."""
    ids = torch.tensor([[*item.prompt, *item.tokens]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(item.prompt) - 1 : -1].double()
    return torch.log_softmax(logits, dim=-1)
