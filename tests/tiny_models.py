"""Tiny random models of every supported architecture and a byte-level tokenizer, for tests and scripts.

The models have three layers and a vocabulary of 264 rows, of which the tokenizer uses 259 (real checkpoints pad their
embeddings too). Their weights are drawn with a large standard deviation, so that attention and next-token
distributions are far from uniform and a changed component changes the output.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

VOCABULARY = 264
EOS, IM_START, IM_END = 256, 257, 258
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SHARED = {"vocab_size": VOCABULARY, "bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": EOS}
_DECODER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    **_SHARED,
}


def _llama(n_kv_heads: int) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=n_kv_heads, tie_word_embeddings=False, **_DECODER))


def _gemma3() -> PreTrainedModel:
    # A window of 16 tokens is shorter than every prompt of the tests; the last layer sees everything.
    windows = {"sliding_window": 16, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
    heads = {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 16}
    return Gemma3ForCausalLM(Gemma3TextConfig(**_DECODER, **windows, **heads))


def _gpt2() -> PreTrainedModel:
    shape = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 1024, "initializer_range": 0.2}
    return GPT2LMHeadModel(GPT2Config(**shape, **_SHARED))


_BUILDERS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama-gqa": lambda: _llama(n_kv_heads=2),
    "llama-mha": lambda: _llama(n_kv_heads=4),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=2, tie_word_embeddings=True, **_DECODER)),
    "gemma3": _gemma3,
    "gpt2": _gpt2,
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**_DECODER)),
}
ARCHITECTURES = tuple(_BUILDERS)


def _randomize_vectors(model: PreTrainedModel, generator: torch.Generator) -> None:
    """Biases and norm weights start as constants; noise makes a forgotten one visible."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def build_tiny(name: str, seed: int = 0) -> PreTrainedModel:
    """A new random float32 model in eval mode; the same `name` and `seed` give the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _BUILDERS[name]()
    _randomize_vectors(model, torch.Generator().manual_seed(seed))
    return model.float().eval()


def build_tokenizer(*, chat: bool) -> PreTrainedTokenizerFast:
    """One token a byte and three special tokens; with `chat`, a ChatML template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={character: i for i, character in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    eos = "<|im_end|>" if chat else "<|endoftext|>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=eos, pad_token="<|endoftext|>")
    fast.chat_template = CHAT_TEMPLATE if chat else None
    return fast
