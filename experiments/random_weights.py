"""Models of a published shape with random weights, for speed and memory where the real ones are not at hand.

``--model random:llama-3.1-8b`` of the benchmarks: the tokenizer is the embedded model's, the vocabulary the shape's.
Answers are noise and end by length, so generations per second are lower bounds of those with a real model.
"""

from __future__ import annotations

import resource
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from leakmech.core.errors import ConfigError, nearest
from leakmech.models.device import resolve_device, resolve_dtype
from leakmech.models.load import LoadedModel, load_model, load_tokenizer

PREFIX = "random:"
_TOKENIZER = "embedded:smollm2-135m-instruct"
SHAPES: dict[str, dict[str, Any]] = {
    "llama-3.2-1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
                     "num_key_value_heads": 8, "tie_word_embeddings": True},
    "llama-3.2-3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28, "num_attention_heads": 24,
                     "num_key_value_heads": 8, "tie_word_embeddings": True},
    "llama-3.1-8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32,
                     "num_attention_heads": 32, "num_key_value_heads": 8},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2},
}  # fmt: skip
"""Of the models' published configurations; ``tiny`` is to try a script."""
_ROPE: Any = {"rope_type": "default", "rope_theta": 500_000.0}


def load(name: str, *, dtype: str | None, device: str | None) -> LoadedModel:
    """The model of a name of leakmech, or of a shape after ``random:``."""
    if not name.startswith(PREFIX):
        return load_model(name, dtype=dtype, device=device)
    shape = name.removeprefix(PREFIX)
    if shape not in SHAPES:
        raise ConfigError(f"{name}: no such shape{nearest(shape, SHAPES)}")
    placement = resolve_device(device)
    config = LlamaConfig(**SHAPES[shape], vocab_size=128_256, max_position_embeddings=8192, rope_parameters=_ROPE)
    before = torch.get_default_dtype()
    torch.set_default_dtype(resolve_dtype(dtype, device=placement))
    try:
        with placement:  # weights are drawn where they stay
            torch.manual_seed(0)
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.config._name_or_path = name
    return load_model(model, tokenizer=load_tokenizer(_TOKENIZER))


def peak_gib(device: torch.device) -> float:
    """Peak memory so far, in GiB: of the GPU, or of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
