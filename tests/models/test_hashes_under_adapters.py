"""A model with an adapter still knows the hashes of its base, on which interventions were fitted."""

from __future__ import annotations

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

import leakmech
from leakmech.core.errors import InterventionError
from leakmech.interventions.types import Steer
from leakmech.models.gated import GatedLoraConfig
from leakmech.models.load import load_adapter, load_model

LLAMA = ["q_proj", "down_proj"]
ADAPTERS = {
    "lora": ("llama-gqa", LoraConfig(r=2, target_modules=LLAMA)),
    "lora, gpt2": ("gpt2", LoraConfig(r=2, target_modules=["c_attn", "wte"])),
    "lora, gemma": ("gemma3", LoraConfig(r=2, target_modules=LLAMA)),
    "dora": ("llama-gqa", LoraConfig(r=2, target_modules=LLAMA, use_dora=True)),
    "embedding": ("llama-gqa", LoraConfig(r=2, target_modules=["embed_tokens", "v_proj"])),
    "whole modules": ("llama-gqa", LoraConfig(r=2, target_modules=LLAMA, modules_to_save=["lm_head", "norm"])),
    "tokens": ("llama-gqa", LoraConfig(r=2, target_modules=LLAMA, trainable_token_indices=[3, 5])),
    "ia3": ("llama-gqa", IA3Config(target_modules=LLAMA, feedforward_modules=["down_proj"])),
    "gated": ("llama-gqa", GatedLoraConfig(r=2, target_modules=LLAMA)),
}


def changed(model):
    """The adapter's own weights at random."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


@pytest.mark.parametrize("name", ADAPTERS)
def test_hashes_under_an_adapter_are_those_of_the_base(make_tiny, plain_tokenizer, name):
    architecture, config = ADAPTERS[name]
    base = load_model(make_tiny(architecture), tokenizer=plain_tokenizer)
    expected = {base.weights_hash, base.base_hash}
    assert base.hashes_under_adapter == frozenset()
    adapted = load_model(changed(get_peft_model(make_tiny(architecture), config)), tokenizer=plain_tokenizer)
    assert adapted.hashes_under_adapter == expected
    assert not {adapted.weights_hash, adapted.base_hash} & expected
    other = make_tiny(architecture)
    next(other.parameters()).data[0] += 0.5
    other = load_model(get_peft_model(other, config), tokenizer=plain_tokenizer)
    assert not other.hashes_under_adapter & expected


def test_what_was_fitted_on_the_base_runs_under_an_adapter(save_tiny, tmp_path):
    base = load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    folder = tmp_path / "adapter"
    changed(
        get_peft_model(load_model(base.name, dtype="float32", device="cpu").model, ADAPTERS["lora"][1])
    ).save_pretrained(folder)
    vector = torch.nn.functional.one_hot(torch.tensor(3), 32).float()
    for fitted in (base.weights_hash, base.base_hash):
        step = Steer(vector, layers=[1], strength=1.0, stream_norm=2.0, model_hash=fitted)
        for adapted in (load_adapter(base, folder), load_model(folder, dtype="float32", device="cpu")):
            before = logits(adapted)
            with leakmech.apply(adapted, step):
                assert (logits(adapted) - before).abs().max() > 1e-3
    stranger = Steer(vector, layers=[1], strength=1.0, stream_norm=2.0, model_hash="1234")
    with (
        pytest.raises(InterventionError, match="not on this one"),
        leakmech.apply(load_adapter(base, folder), stranger),
    ):
        pass


def logits(loaded):
    with torch.inference_mode():
        return loaded.model(input_ids=torch.arange(24)[None]).logits
