"""Perplexity ratios and KL: as by hand, whatever the batch, and exact for an unchanged model."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from model_variants import by_hand

from leakmech.core.errors import GenerationError, ModelError, UsageError
from leakmech.generation import likelihood
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.models.load import load_model
from leakmech.side_effects.likelihood import compare_likelihoods


def test_kl_and_ratio_are_those_computed_by_hand(tiny, noisy, continuations):
    found = compare_likelihoods(tiny, noisy, continuations, batch_size=4)
    kl, lost, n = 0.0, 0.0, 0
    for item, value in zip(continuations, found.kl, strict=True):
        if not item.tokens:
            assert value == 0
            continue
        p, q = by_hand(tiny.loaded.model, item), by_hand(noisy.loaded.model, item)
        own = float((p.exp() * (p - q)).sum())
        assert value == pytest.approx(own, rel=1e-4)
        tokens = torch.tensor(item.tokens)[:, None]
        kl, lost, n = kl + own, lost + float((p - q).gather(1, tokens).sum()), n + len(item.tokens)
    assert found.kl_per_token(draws=200).value == pytest.approx(kl / n, rel=1e-5)
    assert found.perplexity_ratio(draws=200).value == pytest.approx(np.exp(lost / n), rel=1e-5)
    assert found.changed.perplexity / found.base.perplexity == pytest.approx(np.exp(lost / n), rel=1e-5)


def test_an_unchanged_model_has_kl_zero_and_ratio_one_exactly(tiny, continuations):
    again = ModelVariant(tiny.loaded, lambda: nullcontext())
    found = compare_likelihoods(tiny, again, continuations)
    assert not found.kl.any()
    ratio, kl = found.perplexity_ratio(), found.kl_per_token()
    assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)
    assert (kl.value, kl.low, kl.high) == (0, 0, 0)


def test_an_unchanged_model_has_kl_zero_in_bfloat16(make_tiny, chat_tokenizer, continuations):
    small = ModelVariant(load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="bfloat16", device="cpu"))
    assert not compare_likelihoods(small, small, continuations).kl.any()


def test_a_broken_model_is_noticed_with_its_whole_interval(tiny, noisy, continuations):
    # What a model is likely to write loses when the model is broken: continuations are its own, greedy.
    own = []
    for item in continuations:
        ids = list(item.prompt)
        for _ in range(12):
            with torch.inference_mode():
                ids.append(int(tiny.loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        own.append(Continuation(item.id, item.unit, item.prompt, tuple(ids[len(item.prompt) :])))
    found = compare_likelihoods(tiny, noisy, own)
    assert found.perplexity_ratio(draws=500).low > 1.05
    assert found.kl_per_token(draws=500).low > 0.05


def test_batch_size_padding_and_chunks_change_nothing(tiny, noisy, continuations, monkeypatch):
    expected = compare_likelihoods(tiny, noisy, continuations, batch_size=1).to_frame()
    together = compare_likelihoods(tiny, noisy, continuations, batch_size=12).to_frame()
    monkeypatch.setattr(likelihood, "_CHUNK", 264 * 3)
    chunked = compare_likelihoods(tiny, noisy, continuations[::-1], batch_size=5).to_frame()[::-1]
    for column in ("base_log_likelihood", "changed_log_likelihood", "kl"):
        np.testing.assert_allclose(together[column], expected[column], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(chunked[column], expected[column], rtol=1e-4, atol=1e-4)
    assert list(chunked["id"]) == list(expected["id"])


def test_base_and_hooked_model_may_share_one_module(tiny, hooked, continuations):
    before = log_likelihoods(tiny, continuations).log_likelihood
    found = compare_likelihoods(tiny, hooked(0.5), continuations)
    assert found.kl.sum() > 1
    np.testing.assert_allclose(found.base.log_likelihood, before, rtol=1e-6)
    assert not compare_likelihoods(tiny, hooked(1.0), continuations).kl.any()
    np.testing.assert_array_equal(log_likelihoods(tiny, continuations).log_likelihood, before)  # no hook is left behind


def test_the_changed_model_may_read_another_prompt(tiny, continuations):
    items = continuations[1:5]
    others = {c.id: Continuation(c.id, c.unit, (7, 8, 9), c.tokens) for c in items}
    found = compare_likelihoods(tiny, tiny, items, changed_prompts=others)
    expected = log_likelihoods(tiny, list(others.values()))
    np.testing.assert_allclose(found.changed.log_likelihood, expected.log_likelihood, rtol=1e-5)
    assert (found.kl > 0).all()
    wrong = {items[0].id: Continuation("x", "u", (7,), (1,))}
    with pytest.raises(UsageError, match="other tokens after its prompt"):
        compare_likelihoods(tiny, tiny, items, changed_prompts=wrong)


def test_units_are_what_is_resampled(tiny, noisy, continuations):
    found = compare_likelihoods(tiny, noisy, continuations)
    assert found.kl_columns.shape == (4, 2)
    assert found.kl_columns[:, 0].sum() == pytest.approx(found.kl.sum())


def test_bad_input_is_named(tiny, make_tiny, chat_tokenizer, hooked, continuations):
    with pytest.raises(GenerationError, match=r"continuation 'c\d+': the model's logits are NaN"):
        compare_likelihoods(tiny, hooked(float("nan")), continuations)
    model = make_tiny("llama-gqa")
    model.resize_token_embeddings(300)
    other = ModelVariant(load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu"))
    with pytest.raises(ModelError, match="264 and 300 logits"):
        compare_likelihoods(tiny, other, continuations)
