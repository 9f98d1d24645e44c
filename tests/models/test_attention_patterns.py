"""Attention weights as they are shown, and a model that is as before afterwards."""

from __future__ import annotations

import pytest
import torch
from transformers import FalconConfig, FalconForCausalLM

from leakmech.core.errors import ModelError
from leakmech.models.attention_patterns import AttentionPattern, eager_attention, watching_attention
from leakmech.models.layout import layout_of

# Gemma's window of 16 tokens is shorter than these rows.
IDS = torch.randint(0, 256, (2, 24), generator=torch.Generator().manual_seed(0))
N_PADDED = 4
MASK = torch.tensor([[0] * N_PADDED + [1] * 20, [1] * 24])


def shown(model) -> list[AttentionPattern]:
    found: list[AttentionPattern] = []
    with torch.no_grad(), eager_attention(model), watching_attention(layout_of(model), found.append, layers=range(3)):
        model(IDS, attention_mask=MASK, position_ids=(MASK.cumsum(1) - 1).clamp(min=0))
    return found


def test_exactly_the_visible_tokens_have_weight(tiny_model) -> None:
    for pattern in shown(tiny_model):
        weights = pattern.weights[:, :, N_PADDED:]  # queries in the padding see nothing
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        visible = pattern.visible[:, None, N_PADDED:].expand_as(weights)
        assert not weights[~visible].any()
        assert (weights[visible] > 0).float().mean() > 0.99


def test_a_sliding_window_is_seen(make_tiny) -> None:
    counts = [int(pattern.visible[1, -1].sum()) for pattern in shown(make_tiny("gemma3"))]
    assert counts == [16, 16, 24]


def test_the_implementation_comes_back_after_an_error(make_tiny) -> None:
    model = make_tiny("llama-gqa")
    before = model.config._attn_implementation
    assert before == "sdpa"
    seen = []

    def fail(_: AttentionPattern) -> None:
        seen.append(model.config._attn_implementation)
        raise KeyError

    with pytest.raises(KeyError), eager_attention(model), watching_attention(layout_of(model), fail, layers=[0]):
        model(IDS)
    assert seen == ["eager"]
    assert model.config._attn_implementation == before
    assert not any(module._forward_hooks for module in model.modules())


def falcon(**settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 256, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    return FalconForCausalLM(FalconConfig(**sizes, **settings)).float().eval()


@pytest.mark.parametrize("settings", [{"new_decoder_architecture": True, "num_kv_heads": 2}, {"multi_query": True}])
def test_falcon_is_switched_and_computes_the_same(settings) -> None:
    model = falcon(**settings)
    inputs = {"attention_mask": MASK, "position_ids": (MASK.cumsum(1) - 1).clamp(min=0)}
    with torch.no_grad():
        fused = model(IDS, **inputs).logits
        with eager_attention(model):
            assert model.config._attn_implementation == "eager"
            torch.testing.assert_close(model(IDS, **inputs).logits[:, N_PADDED:], fused[:, N_PADDED:])
    assert model.config._attn_implementation == "sdpa"
    test_exactly_the_visible_tokens_have_weight(model)


def test_falcon_with_alibi_is_refused() -> None:
    """Eager attention of transformers adds its positions twice."""
    with pytest.raises(ModelError, match="'sdpa' cannot be switched to 'eager'"), eager_attention(falcon(alibi=True)):
        pass


def test_attention_without_weights_is_refused(make_tiny) -> None:
    model = make_tiny("llama-gqa")
    with (
        torch.no_grad(),
        watching_attention(layout_of(model), print, layers=[1]),
        pytest.raises(ModelError, match=r"layer 1.*eager"),
    ):
        model(IDS)
