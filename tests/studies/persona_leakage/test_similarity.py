"""Similarities of personas on hand-made numbers, and on a tiny model against a plain computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

import leakmech
from leakmech.core.errors import UsageError
from leakmech.generation.variants import ModelVariant
from leakmech.studies.persona_leakage.similarity import centred, cosines, js_divergence, js_similarity, shared_words


def test_centroids_are_centred_over_personas():
    h = np.array([[[1.0, 0], [3, 0], [2, 3]], [[1.0, 2], [3, 2], [2, -1]]])  # two questions, three personas
    found = centred(h)
    np.testing.assert_allclose(found, [[-1, 0], [1, 0], [0, 0]])
    np.testing.assert_allclose(cosines(found, [0]), [[1, -1, 0]])


def test_words_in_common():
    np.testing.assert_allclose(
        shared_words(["You are a cook.", "You are a sad cook!", "I sing"], [1]), [[4 / 5, 1, 0]]
    )  # fmt: skip


def test_js_divergence_is_that_of_scipy_and_lies_between_0_and_1():
    generator = np.random.default_rng(0)
    p, q = generator.dirichlet(np.ones(7), size=(2, 4))
    found = js_divergence(torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q)))
    np.testing.assert_allclose(found, jensenshannon(p, q, axis=1, base=2) ** 2, atol=1e-9)
    apart = torch.log(torch.tensor([[1.0, 1e-30], [1e-30, 1.0]]))
    assert float(js_divergence(apart[0], apart[1])) == pytest.approx(1, abs=1e-6)


def test_similarity_by_outputs_is_that_of_each_prompt_alone(make_tiny, chat_tokenizer):
    loaded = leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    prompts = [[(1, 2, 3), (9, 8), (4, 4, 4, 4), (9, 8)], [(7,), (5, 6), (3, 2, 1), (5, 6)]]
    replies = [(10, 11, 12), (20, 21)]
    found = js_similarity(ModelVariant(loaded), prompts, replies, [1, 0])
    assert found.shape == (2, 4)
    assert found[0, 1] == pytest.approx(1, abs=1e-6)
    assert found[0, 3] == pytest.approx(1, abs=1e-5)

    def alone(ids, reply):
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*ids, *reply]])).logits[0, len(ids) - 1 : -1]
        return torch.softmax(logits.double(), dim=-1).numpy()

    apart = [
        jensenshannon(alone(own[0], reply), alone(own[2], reply), axis=1, base=2) ** 2
        for own, reply in zip(prompts, replies, strict=True)
    ]
    assert found[1, 2] == pytest.approx(1 - np.concatenate(apart).mean(), abs=1e-4)
    silent = js_similarity(ModelVariant(loaded), [*prompts, prompts[0]], [*replies, ()], [1, 0])
    np.testing.assert_allclose(silent, found)
    with pytest.raises(UsageError, match="a reply to some"):
        js_similarity(ModelVariant(loaded), prompts, [(), ()], [0])
