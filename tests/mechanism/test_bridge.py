"""The bridge to TransformerLens computes what the Hugging Face model computes, and leaves it as it is."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from leakmech.core.errors import ModelError
from leakmech.mechanism.bridge import bridge
from leakmech.models.layout import layout_of
from leakmech.models.load import load_model


@pytest.fixture
def batch():
    """Two rows of token ids, the first with five padding tokens on the left."""
    ids = torch.randint(1, 250, (2, 20), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    ids[0, :5], mask[0, :5] = 256, 0
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return {"attention_mask": mask, "position_ids": positions}, ids


def test_logits_are_those_of_the_hugging_face_model(tiny_model, chat_tokenizer, batch):
    options, ids = batch
    loaded = load_model(tiny_model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with torch.inference_mode():
        expected = tiny_model(ids, **options).logits
        found = bridge(loaded)(ids, **options)
        again = tiny_model(ids, **options).logits
    kept = options["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-4)
    assert torch.equal(again, expected)  # wrapping has left the model alone


def test_heads_are_those_of_the_layout(tiny_model, chat_tokenizer, batch):
    options, ids = batch
    wrapped = bridge(load_model(tiny_model, tokenizer=chat_tokenizer, dtype="float32", device="cpu"))
    layout, seen = layout_of(tiny_model), {}
    handle = layout.block(1).heads_out.register_forward_hook(lambda _, inputs, __: seen.update(z=inputs[0]))
    with torch.inference_mode():
        tiny_model(ids, **options)
        _, cache = wrapped.run_with_cache(ids, names_filter="blocks.1.attn.hook_z", **options)
    handle.remove()
    z = cache["blocks.1.attn.hook_z"].flatten(start_dim=2)
    kept = options["attention_mask"].bool()
    torch.testing.assert_close(z[kept], seen["z"][kept], rtol=0, atol=1e-4)


def test_adapters_are_merged_into_the_copy(make_tiny, chat_tokenizer, batch):
    options, ids = batch
    adapted = get_peft_model(
        make_tiny("llama-gqa"), LoraConfig(target_modules=["o_proj"], r=2, init_lora_weights=False)
    )
    loaded = load_model(adapted, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    with torch.inference_mode():
        expected = loaded.model(ids, **options).logits
        plain = loaded.model.get_base_model()
        found = bridge(loaded)(ids, **options)
    kept = options["attention_mask"].bool()
    torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-4)
    assert hasattr(layout_of(plain).block(0).heads_out, "lora_A")  # the adapter itself is still there


def test_an_architecture_that_transformer_lens_does_not_know_is_named(make_tiny, chat_tokenizer):
    model = make_tiny("llama-gqa")
    loaded = load_model(model, tokenizer=chat_tokenizer, dtype="float32", device="cpu")
    model.__class__ = type("AcmeForCausalLM", (type(model),), {})
    with pytest.raises(ModelError, match=r"does not know AcmeForCausalLM; it knows .*LlamaForCausalLM"):
        bridge(loaded)
