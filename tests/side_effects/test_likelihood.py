"""Log-likelihoods, perplexity ratios and KL: as by hand, whatever the batch, and exact for an unchanged model."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from leakmech.core.errors import GenerationError, ModelError, UsageError
from leakmech.models.load import load_model
from leakmech.side_effects import likelihood
from leakmech.side_effects.likelihood import compare_likelihoods, log_likelihoods
from leakmech.side_effects.variants import Batch, Continuation, ModelVariant

DEVICE = torch.device("cpu")


def by_hand(model, item):
    """Log-probabilities of all tokens at the places that predict `item.tokens`: one row, no padding, all logits."""
    ids = torch.tensor([[*item.prompt, *item.tokens]])
    with torch.inference_mode():
        logits = model(ids).logits[0, len(item.prompt) - 1 : -1].double()
    return torch.log_softmax(logits, dim=-1)


def test_log_likelihoods_are_those_of_the_plain_forward_pass(tiny_loaded, continuations):
    variant = ModelVariant(tiny_loaded)
    found = log_likelihoods(variant, continuations, batch_size=5)
    for item, value, n in zip(continuations, found.log_likelihood, found.n_tokens, strict=True):
        expected = 0.0
        if item.tokens:
            expected = float(by_hand(tiny_loaded.model, item).gather(1, torch.tensor(item.tokens)[:, None]).sum())
        assert value == pytest.approx(expected, abs=2e-3)
        assert n == len(item.tokens)
    assert found.perplexity == pytest.approx(np.exp(-found.log_likelihood.sum() / found.n_tokens.sum()))


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
    again = ModelVariant(tiny.loaded, lambda batch: nullcontext())
    found = compare_likelihoods(tiny, again, continuations)
    assert not found.kl.any()
    ratio, kl = found.perplexity_ratio(), found.kl_per_token()
    assert (ratio.value, ratio.low, ratio.high) == (1, 1, 1)
    assert (kl.value, kl.low, kl.high) == (0, 0, 0)


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


def test_prompts_that_continuations_share_are_read_once(tiny_loaded, monkeypatch):
    prompts = [tuple(range(3, 3 + n)) for n in (20, 7, 1)]
    items = [
        Continuation(f"{i}/{n}", "u", prompt, tuple(range(40, 40 + n)))
        for n in (0, 1, 5, 17)
        for i, prompt in enumerate(prompts)
    ]
    expected = log_likelihoods(ModelVariant(tiny_loaded), items, batch_size=1)
    read = []
    after = ModelVariant.logits_after
    monkeypatch.setattr(
        ModelVariant,
        "logits_after",
        lambda self, prompt, rows: read.append((len(prompt), [len(row) for row in rows])) or after(self, prompt, rows),
    )
    found = log_likelihoods(ModelVariant(tiny_loaded), items, share_prompts=True)
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-4, atol=1e-4)
    assert read == [(20, [17, 5, 1]), (7, [17, 5, 1]), (1, [17, 5, 1])]
    split = log_likelihoods(ModelVariant(tiny_loaded), items[::-1], share_prompts=True, batch_size=2)
    np.testing.assert_allclose(split.log_likelihood[::-1], expected.log_likelihood, rtol=1e-4, atol=1e-4)


def test_a_changed_model_reads_every_prompt_whole(tiny, continuations):
    changed = ModelVariant(tiny.loaded, lambda batch: nullcontext())
    with pytest.raises(UsageError, match="only where no change is in force"):
        log_likelihoods(changed, continuations, share_prompts=True)


def test_rows_of_a_pass_are_limited_by_the_size_of_the_vocabulary(tiny, continuations, monkeypatch):
    sizes = []
    logits = ModelVariant.logits

    def spy(self, batch, *, keep):
        sizes.append(len(batch.rows) * keep * self.vocabulary)
        return logits(self, batch, keep=keep)

    monkeypatch.setattr(ModelVariant, "logits", spy)
    monkeypatch.setattr(likelihood, "_LOGITS", {"cpu": 264 * 64})
    log_likelihoods(tiny, continuations)
    assert len(sizes) > 4
    assert max(sizes) <= 264 * 64


def test_equal_continuations_are_run_once(tiny, continuations, monkeypatch):
    rows = []
    logits = ModelVariant.logits
    monkeypatch.setattr(
        ModelVariant, "logits", lambda self, batch, keep: rows.extend(batch.rows) or logits(self, batch, keep=keep)
    )
    found = log_likelihoods(tiny, continuations * 3)
    assert len(rows) == 11  # and the empty one not at all
    np.testing.assert_array_equal(found.log_likelihood[:12], found.log_likelihood[12:24])


def test_base_and_hooked_model_may_share_one_module(tiny, hooked, continuations):
    before = log_likelihoods(tiny, continuations).log_likelihood
    found = compare_likelihoods(tiny, hooked(0.5), continuations)
    assert found.kl.sum() > 1
    np.testing.assert_allclose(found.base.log_likelihood, before, rtol=1e-6)
    assert not compare_likelihoods(tiny, hooked(1.0), continuations).kl.any()
    np.testing.assert_array_equal(log_likelihoods(tiny, continuations).log_likelihood, before)  # no hook is left behind


def test_a_change_is_told_where_prompts_end(tiny, continuations):
    seen = []
    variant = ModelVariant(tiny.loaded, lambda batch: seen.append(batch) or nullcontext())
    log_likelihoods(variant, continuations, batch_size=4)
    for batch in seen:
        width = batch.ids.shape[1]
        for i, row in enumerate(batch.rows):
            assert batch.ids[i, width - len(row) :].tolist() == [*row.prompt, *row.tokens]
            assert int(batch.mask[i].sum()) == len(row)
            assert batch.positions[i, width - len(row) :].tolist() == list(range(len(row)))


def test_bfloat16_logits_are_summed_without_losing_digits(make_tiny, chat_tokenizer, tiny, continuations):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="bfloat16", device="cpu")
    small = ModelVariant(loaded)
    assert not compare_likelihoods(small, small, continuations).kl.any()
    long = Continuation("long", "u", (1,), tuple(range(200)))
    whole = log_likelihoods(small, [long]).log_likelihood[0]
    logits = small.logits(Batch.of([long], device=DEVICE), keep=201)
    assert logits.dtype == torch.bfloat16
    assert whole == pytest.approx(float(_picked(logits, long)), abs=1e-9)


def _picked(logits, item):
    log_p = torch.log_softmax(logits[0, :-1].double(), dim=-1)
    return log_p.gather(1, torch.tensor(item.tokens)[:, None]).sum()


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
        log_likelihoods(hooked(float("nan")), continuations)
    with pytest.raises(UsageError, match="'x': has no prompt token"):
        Continuation("x", "u", (), (1,))
    model = make_tiny("llama-gqa")
    model.resize_token_embeddings(300)
    other = ModelVariant(load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu"))
    with pytest.raises(ModelError, match="264 and 300 logits"):
        compare_likelihoods(tiny, other, continuations)
    assert np.isnan(log_likelihoods(tiny, []).perplexity)
