"""A model with biases where its sublayers write, so that constants can be baked into its weights.

Whether a matrix has a bias is part of a model's configuration: a bias that the configuration does not know would be
saved and silently dropped when it is loaded. Llama has switches for it. Qwen2 and Mistral have none, but without
sliding windows they compute what a Llama with biases computes, so they become one. Biases not needed are zero.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from leakmech.core.errors import ModelError
from leakmech.models.layout import layout_of
from leakmech.models.quiet import quiet

# Configuration keys that turn on the biases of (attention, MLP); None where the architecture has no such switch.
_SWITCHES: dict[str, tuple[str | None, str | None]] = {
    "llama": ("attention_bias", "mlp_bias"),
    "gemma": ("attention_bias", None),
    "gemma2": ("attention_bias", None),
    "gemma3_text": ("attention_bias", None),
    "qwen3": ("attention_bias", None),
    "gpt_neox": ("attention_bias", None),
}
_LLAMA_ALIKE = ("qwen2", "mistral")


def with_output_biases(model: PreTrainedModel, *, attention: bool, mlp: bool) -> PreTrainedModel:
    """`model` itself if it has the wanted biases, else a new model (it may share weights) that has them."""
    blocks = layout_of(model).blocks
    lacks_attention = attention and any(b.heads_out.bias is None for b in blocks)
    lacks_mlp = mlp and any(getattr(b.neurons_out, "bias", None) is None for b in blocks)  # experts have none
    if not (lacks_attention or lacks_mlp):
        return model
    config = _config_with_biases(model.config, attention=lacks_attention, mlp=lacks_mlp)
    target: Any = LlamaForCausalLM if isinstance(config, LlamaConfig) else type(model)
    with torch.device("meta"):
        shapes = target(config).state_dict()
    state = dict(model.state_dict())
    for name in set(shapes) ^ set(state):
        if name in state or not name.endswith(".bias"):
            raise AssertionError(f"{name}: {type(model).__name__} and {target.__name__} do not hold the same weights")
    for name, tensor in shapes.items():
        if name not in state:
            state[name] = torch.zeros(tensor.shape, dtype=model.dtype, device=model.device)
    attention_name: Any = getattr(model.config, "_attn_implementation", None)
    with quiet():
        rebuilt = target.from_pretrained(
            None, config=config, state_dict=state, dtype=model.dtype, attn_implementation=attention_name
        )
    rebuilt.generation_config = copy.deepcopy(model.generation_config)
    return rebuilt.to(model.device).eval()


def _config_with_biases(config: Any, *, attention: bool, mlp: bool) -> Any:
    name = config.model_type
    if name in _LLAMA_ALIKE:
        _refuse_windows(config)
        known = set(LlamaConfig().to_dict()) - {"architectures", "model_type", "transformers_version"}
        new: Any = LlamaConfig(**{key: value for key, value in config.to_dict().items() if key in known})
        new.attention_bias = name == "qwen2"  # on its queries, keys and values anyway
        new._name_or_path = config._name_or_path
        name = "llama"
    else:
        new = copy.deepcopy(config)
    switches = _SWITCHES.get(name, (None, None))
    for needed, switch, part in zip((attention, mlp), switches, ("attention", "MLP"), strict=True):
        if needed and switch is None:
            raise ModelError(f"{config.model_type}: what its {part} adds cannot have a bias in this architecture")
        if needed and switch is not None:
            setattr(new, switch, True)
    return new


def _refuse_windows(config: Any) -> None:
    windowed = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    if windowed or (config.model_type == "mistral" and config.sliding_window is not None):
        raise ModelError(
            f"{config.model_type} with sliding windows: what it adds cannot have a bias in this architecture"
        )
