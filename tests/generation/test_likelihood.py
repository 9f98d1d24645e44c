"""Log-likelihoods are as by hand, whatever the batch, and whether prompts are read once or with every text."""

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from model_variants import by_hand

from leakmech.core.errors import GenerationError, UsageError
from leakmech.generation import likelihood
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Batch, Continuation, ModelVariant
from leakmech.models.load import load_model

DEVICE = torch.device("cpu")


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


def test_prompts_that_continuations_share_are_read_once(tiny_loaded, monkeypatch):
    prompts = [tuple(range(3, 3 + n)) for n in (20, 7, 1)]
    items = [
        Continuation(f"{i}/{n}", "u", prompt, tuple(range(40, 40 + n)))
        for n in (0, 1, 5, 17)
        for i, prompt in enumerate(prompts)
    ]
    expected = log_likelihoods(ModelVariant(tiny_loaded), items, batch_size=1)
    read = []
    after = ModelVariant.logits_after_prompt

    def spy(self, rows):
        read.append((len(rows[0].prompt), [len(row.tokens) for row in rows]))
        return after(self, rows)

    monkeypatch.setattr(ModelVariant, "logits_after_prompt", spy)
    found = log_likelihoods(ModelVariant(tiny_loaded), items, share_prompts=True)
    np.testing.assert_allclose(found.log_likelihood, expected.log_likelihood, rtol=1e-4, atol=1e-4)
    assert read == [(20, [17, 5, 1]), (7, [17, 5, 1]), (1, [17, 5, 1])]
    split = log_likelihoods(ModelVariant(tiny_loaded), items[::-1], share_prompts=True, batch_size=2)
    np.testing.assert_allclose(split.log_likelihood[::-1], expected.log_likelihood, rtol=1e-4, atol=1e-4)


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


class Listener:
    """Stands for interventions in force: notes what it is told."""

    def __init__(self):
        self.told = []

    def positions(self, rows):
        self.told.append(rows)
        return nullcontext()


def test_a_change_is_told_where_prompts_end(tiny, continuations):
    listener = Listener()
    variant = ModelVariant(tiny.loaded, lambda: nullcontext(listener))
    located = [replace(c, injection=(1, 2), stem=(2, 3)) for c in continuations if len(c.prompt) >= 3]
    log_likelihoods(variant, located, batch_size=4)
    expected = sorted((len(c.prompt), len(c)) for c in located if c.tokens)
    found = [(int(n), int(t)) for rows in listener.told for n, t in zip(rows.n_prompt, rows.n_text, strict=True)]
    assert sorted(found) == expected
    for rows in listener.told:
        # Token 1 of a prompt of n tokens is n - 2 places before its last one.
        assert torch.equal(rows.spans["injection"][:, 0], 2 - rows.n_prompt)
        assert torch.equal(rows.spans["stem"][:, 0], 3 - rows.n_prompt)


def test_a_change_is_told_when_a_shared_prompt_has_been_read(tiny):
    listener = Listener()
    variant = ModelVariant(tiny.loaded, lambda: nullcontext(listener))
    items = [Continuation(f"c{n}", "u", tuple(range(5)), tuple(range(n))) for n in (3, 1, 4)]
    log_likelihoods(variant, items, share_prompts=True)
    prompt, rest = listener.told
    assert (prompt.phase, prompt.n_text.tolist()) == ("prompt", [5])
    assert (rest.phase, rest.n_text.tolist(), rest.n_prompt.tolist()) == ("generating", [8, 8, 8], [5, 5, 5])
    assert rest.mask("generated", 3).all()
    assert not rest.reach_prompt(3)
    assert rest.reach_prompt(4)


def test_bfloat16_logits_are_summed_without_losing_digits(make_tiny, chat_tokenizer):
    loaded = load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype="bfloat16", device="cpu")
    small = ModelVariant(loaded)
    long = Continuation("long", "u", (1,), tuple(range(200)))
    whole = log_likelihoods(small, [long]).log_likelihood[0]
    logits = small.logits(Batch.of([long], device=DEVICE), keep=201)
    assert logits.dtype == torch.bfloat16
    assert whole == pytest.approx(float(_picked(logits, long)), abs=1e-9)


def _picked(logits, item):
    log_p = torch.log_softmax(logits[0, :-1].double(), dim=-1)
    return log_p.gather(1, torch.tensor(item.tokens)[:, None]).sum()


def test_bad_input_is_named(tiny, hooked, continuations):
    for share in (False, True):
        with pytest.raises(GenerationError, match=r"continuation 'c\d+': the model's logits are NaN"):
            log_likelihoods(hooked(float("nan")), continuations, share_prompts=share)
    with pytest.raises(UsageError, match="'x': has no prompt token"):
        Continuation("x", "u", (), (1,))
    assert np.isnan(log_likelihoods(tiny, []).perplexity)
