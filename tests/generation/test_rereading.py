"""Models with a state instead of keys and values are decoded right, if slowly, and what needs batches is refused."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCABULARY, build_tiny, build_tokenizer
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    JambaConfig,
    JambaForCausalLM,
    Lfm2Config,
    Lfm2ForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

import leakmech
from leakmech.core.errors import ModelError
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.rereading import keeps_a_state
from leakmech.models.load import load_model

SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 256, "eos_token_id": 256,
         "pad_token_id": 256, "initializer_range": 0.2}  # fmt: skip
HEADS = {"intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
MAMBA = {
    "head_dim": 8,
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
}
BUILDERS = {
    "mamba": lambda: MambaForCausalLM(MambaConfig(**SHAPE, state_size=8, use_mambapy=False)),
    "mamba2": lambda: Mamba2ForCausalLM(
        Mamba2Config(**SHAPE, num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=8)
    ),
    "jamba": lambda: JambaForCausalLM(
        JambaConfig(**SHAPE, **HEADS, attn_layer_period=2, attn_layer_offset=1, num_experts=2, mamba_d_state=8)
    ),
    "lfm2": lambda: Lfm2ForCausalLM(Lfm2Config(**SHAPE, **HEADS, layer_types=["conv", "full_attention"])),
    "falcon_h1": lambda: FalconH1ForCausalLM(FalconH1Config(**SHAPE, **HEADS, **MAMBA)),
    "rwkv": lambda: RwkvForCausalLM(
        RwkvConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, attention_hidden_size=32)
    ),
}
TOKENIZER = build_tokenizer(chat=False)
GREEDY = Decoding(max_new_tokens=6, temperature=0, repetition_penalty=1)


@pytest.fixture(scope="module", params=BUILDERS)
def model(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]().float().eval()


def alone(model, tokens):
    """Greedy tokens of one prompt, read anew at every step."""
    ids = list(tokens)
    with torch.inference_mode():
        for _ in range(GREEDY.max_new_tokens):
            ids.append(int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return tuple(ids[len(tokens) :])


@pytest.mark.fault(
    "X201", "models", "Mamba, Jamba, LFM2, Falcon-H1, RWKV: states instead of keys and values", "right, slow"
)
def test_rows_of_different_length_are_as_each_alone(model):
    """With places that are taken over by other rows."""
    assert keeps_a_state(model)
    prompts = [tuple(TOKENIZER("ab " * n + "is")["input_ids"]) for n in (1, 4, 2)]
    rows = [Row(str(n), k, tokens) for n, tokens in enumerate(prompts) for k in range(2)]
    decoder = Decoder(model, TOKENIZER, decoding=GREEDY)
    vars(decoder.vocabulary).update(ends=frozenset())
    found = {(g.prompt_id, g.generation): g.tokens for part in decoder.stream(rows, batch_size=3) for g in part}
    for n, tokens in enumerate(prompts):
        assert found[str(n), 0] == found[str(n), 1] == alone(model, tokens)


def test_models_of_keys_and_values_are_not_read_again():
    assert not any(keeps_a_state(build_tiny(name)) for name in ("llama-gqa", "gemma3", "gpt2", "gpt-neox"))


@pytest.mark.fault("X202", "models", "tilt of a model that keeps a state", "refused in a line; bench without it works")
def test_a_run_works_and_what_needs_likelihoods_is_refused(tmp_path):
    torch.manual_seed(0)
    loaded = load_model(BUILDERS["mamba"]().float().eval(), tokenizer=TOKENIZER)
    settings = {"limit": 1, "generations": 1, "estimator": "vader", "bootstrap_draws": 100}
    decoding = {"max_new_tokens": 5}
    assert (
        len(
            leakmech.bench(
                loaded.model, tokenizer=TOKENIZER, out=tmp_path / "run", decoding=decoding, **settings
            ).scores
        )
        == 5
    )
    with pytest.raises(ModelError, match="MambaForCausalLM: keeps a state"):
        leakmech.bench(
            loaded.model, tokenizer=TOKENIZER, tilt=True, out=tmp_path / "tilt", decoding=decoding, **settings
        )
