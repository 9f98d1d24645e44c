"""Biases on attention scores, compared with attention computed by hand on eager models."""

from __future__ import annotations

import pytest
import torch

from leakmech.core.errors import ModelError
from leakmech.models.attention_mask import AttentionCall, attention_bias, refuse_other_attention
from leakmech.models.layout import layout_of

KNOCKED_OUT = float("-inf")
LAYER, HEAD, KEY = 1, 2, 3
BATCH = {
    "input_ids": torch.randint(0, 256, (2, 9), generator=torch.Generator().manual_seed(0)),
    "attention_mask": torch.tensor([[0, 0] + [1] * 7, [1] * 9]),
}


def inputs() -> dict[str, torch.Tensor]:
    return {**BATCH, "position_ids": (BATCH["attention_mask"].cumsum(1) - 1).clamp(min=0)}


def away_from(key: int, value: float):
    def bias(call: AttentionCall) -> torch.Tensor:
        added = torch.zeros(1, 4, call.n_queries, call.n_keys)
        added[:, HEAD, -1, key] = value
        return added

    return bias


def patterns(model, biases) -> list[torch.Tensor]:
    model.set_attn_implementation("eager")
    try:
        with attention_bias(layout_of(model), biases):
            return list(model(**inputs(), output_attentions=True).attentions)
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("factor", [0.0, 0.25])
def test_weight_of_one_head_on_one_key_is_multiplied_and_normalised_again(tiny_model, factor: float) -> None:
    bias = torch.tensor(factor).log().item()
    before = patterns(tiny_model, {})[LAYER]
    after = patterns(tiny_model, {LAYER: away_from(KEY, bias)})[LAYER]

    expected = before.clone()
    expected[:, HEAD, -1, KEY] *= factor
    expected[:, HEAD, -1] /= expected[:, HEAD, -1].sum(-1, keepdim=True)
    assert before[:, HEAD, -1, KEY].min() > 1e-6
    torch.testing.assert_close(after, expected, atol=1e-6, rtol=1e-4)


def test_eager_and_sdpa_agree_under_a_bias(tiny_model) -> None:
    logits = {}
    for implementation in ("eager", "sdpa"):
        tiny_model.set_attn_implementation(implementation)
        with attention_bias(layout_of(tiny_model), {LAYER: away_from(KEY, KNOCKED_OUT)}):
            logits[implementation] = tiny_model(**inputs()).logits[:, -1]
    torch.testing.assert_close(logits["eager"], logits["sdpa"], atol=1e-4, rtol=1e-4)


def test_bias_under_the_cache_equals_bias_without_it(tiny_model) -> None:
    everything = inputs()
    bias = {LAYER: away_from(KEY, KNOCKED_OUT)}
    with torch.no_grad():
        with attention_bias(layout_of(tiny_model), bias):
            whole = tiny_model(**everything).logits[:, -1]
        start = {name: value[:, :8] for name, value in everything.items()}
        cache = tiny_model(**start, use_cache=True).past_key_values
        step = {"input_ids": everything["input_ids"][:, 8:], "position_ids": everything["position_ids"][:, 8:]}
        with attention_bias(layout_of(tiny_model), bias):
            stepped = tiny_model(**step, attention_mask=everything["attention_mask"], past_key_values=cache)
    torch.testing.assert_close(stepped.logits[:, -1], whole, atol=1e-4, rtol=1e-4)


def test_a_single_new_token_without_padding_counts_the_cached_keys(tiny_model) -> None:
    """Attention gets no mask then, so the number of keys comes from the cache, whatever a model calls it."""
    ids, bias = BATCH["input_ids"][1:], {LAYER: away_from(KEY, KNOCKED_OUT)}
    with torch.no_grad():
        with attention_bias(layout_of(tiny_model), bias):
            whole = tiny_model(ids).logits[:, -1]
        cache = tiny_model(ids[:, :8], use_cache=True).past_key_values
        with attention_bias(layout_of(tiny_model), bias):
            stepped = tiny_model(ids[:, 8:], past_key_values=cache).logits[:, -1]
    torch.testing.assert_close(stepped, whole, atol=1e-4, rtol=1e-4)


def test_without_padding_the_mask_is_causal(tiny_model) -> None:
    """PyTorch's attention gets no mask then, and the bias has to bring causality along."""
    ids = BATCH["input_ids"][1:]
    with torch.no_grad():
        plain = tiny_model(ids).logits
        with attention_bias(layout_of(tiny_model), {LAYER: lambda call: torch.zeros(1, 1, 1, call.n_keys)}):
            biased = tiny_model(ids).logits
    torch.testing.assert_close(biased, plain, atol=1e-4, rtol=1e-4)


def test_nothing_is_left_behind_after_an_exception(tiny_model) -> None:
    with torch.no_grad():
        before = tiny_model(**inputs()).logits
        with pytest.raises(KeyError), attention_bias(layout_of(tiny_model), {LAYER: away_from(KEY, KNOCKED_OUT)}):
            raise KeyError
        assert torch.equal(tiny_model(**inputs()).logits, before)


def test_flash_attention_is_refused(make_tiny) -> None:
    model = make_tiny("llama-gqa")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ModelError, match="flash_attention_2"):
        refuse_other_attention(model)


def test_keys_are_counted_with_those_of_the_cache(tiny_model):
    seen = []
    layout = layout_of(tiny_model)
    with torch.inference_mode(), attention_bias(layout, {2: lambda call: seen.append((call.n_queries, call.n_keys))}):
        cache = tiny_model(torch.arange(7)[None], use_cache=True).past_key_values
        tiny_model(torch.tensor([[1]]), past_key_values=cache)
    assert seen == [(7, 7), (1, 8)]
