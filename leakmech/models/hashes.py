"""What identifies a model: hashes of its weights and settings, of its tokenizer, of its chat template.

The weights' hash covers every byte. Tensors are hashed with SHA-256 on several threads (1 to 2 GB/s on each, most CPUs
have instructions for it), so that a model is read about as fast as it was loaded, whatever its device, and no change
of a weight, however small, goes unseen. Settings belong to it because they change the output without changing
a weight: the base of the rotary embedding, the window of attention, the scale of an adapter.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from leakmech.core.errors import ModelError
from leakmech.core.store import content_hash
from leakmech.models.adapters import base_of

# Where the model came from and how it is run, but not what it computes.
_PROVENANCE = frozenset(
    {
        "transformers_version",
        "architectures",
        "dtype",
        "torch_dtype",
        "use_cache",
        "auto_map",
        "base_model_name_or_path",
    }
    | {"revision", "inference_mode", "output_attentions", "output_hidden_states", "return_dict", "auto_mapping"}
)
_CALL_STATE = frozenset({"padding", "truncation"})


def hash_weights(model: torch.nn.Module) -> str:
    """Hash of names, shapes, dtypes and bytes of all weights of `model`, and of its settings and adapters.

    It does not depend on the device, the name or the folder that the model was loaded from. A copy in another dtype has
    another hash.
    """
    return _hash_model(model, None)


def hashes_under_adapters(model: torch.nn.Module) -> frozenset[str]:
    """What :func:`hash_weights` and :func:`hash_base` give for the base of a PEFT model before it had its adapters."""
    state = _state_under_adapters(base_of(model))
    return frozenset(
        _hash_state(model, state, _settings(model) | {"adapters": {}}, to) for to in (None, torch.bfloat16)
    )


def _state_under_adapters(base: torch.nn.Module) -> dict[str, Tensor]:
    """The state of a model under the names that it has without adapters: PEFT puts layers of its own around others."""
    inner = {}
    for path, module in base.named_modules():
        for name in ("base_layer", "original_module", "token_adapter"):
            if name in module._modules:
                inner[f"{path}."] = f"{path}.{name}."
    state = {}
    for full, value in base.state_dict().items():
        name = full
        for outside in sorted((path for path in inner if full.startswith(path)), key=len, reverse=True):
            if not full.startswith(inner[outside]):
                break  # an adapter's own
            name = name.replace(inner[outside], outside, 1)
        else:
            state[name] = value
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _hash_model(model: torch.nn.Module, dtype: torch.dtype | None) -> str:
    """Hash of all weights, rounded to `dtype` where they are floats."""
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    return _hash_state(model, state, _settings(model), dtype)


def _hash_state(
    model: torch.nn.Module, state: Mapping[str, Tensor], settings: Mapping[str, Any], dtype: torch.dtype | None
) -> str:
    absent = [name for name, tensor in state.items() if tensor.is_meta]
    if absent:
        raise ModelError(f"{type(model).__name__}: weights are not in memory (for example {absent[0]!r})")
    # Tied weights have two names for one tensor, which is hashed once.
    tensors = {_storage(tensor): tensor for tensor in state.values()}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashed = pool.map(partial(hash_tensor, dtype=dtype), tensors.values())
        digests = dict(zip(tensors, hashed, strict=True))
    weights = (f"{name}={digests[_storage(tensor)]}" for name, tensor in sorted(state.items()))
    return content_hash(json.dumps(settings, sort_keys=True, default=str), *weights)


def hash_base(model: torch.nn.Module) -> str:
    """Hash of a model's weights rounded to bfloat16, and of its settings: copies in float32 and bfloat16 share it.

    It is for what belongs to a model in whatever dtype that is loaded, such as an adapter. float16 rounds differently,
    so a copy in float16 has another hash.
    """
    return _hash_model(model, torch.bfloat16)


def hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of everything that turns text into ids and back, without the state that a padded call leaves behind."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        rules: Any = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    else:
        rules = {key: value for key, value in json.loads(backend.to_str()).items() if key not in _CALL_STATE}
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items()}
    return content_hash(json.dumps([rules, special], sort_keys=True, default=str))


def hash_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the chat template; that of the empty text where there is none."""
    return content_hash(json.dumps(tokenizer.chat_template or "", sort_keys=True))


def hash_generation(model: Any) -> str:
    """Hash of the generation config of a model; that of nothing where it has none."""
    config = getattr(model, "generation_config", None)
    settings = {} if config is None else _without_provenance(config.to_dict())
    return content_hash(json.dumps(settings, sort_keys=True, default=str))


def _storage(tensor: Tensor) -> tuple[Any, ...]:
    return (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def hash_tensor(tensor: Tensor, *, dtype: torch.dtype | None = None) -> str:
    """SHA-256 of dtype, shape and bytes, of a float tensor rounded to `dtype`."""
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.detach().to(dtype)
    values = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
    digest.update(values.numpy().data)
    return digest.hexdigest()


def _settings(model: Any) -> dict[str, Any]:
    """The class, configuration and adapters of a model, without names of files, versions and people."""
    base = base_of(model)
    adapters: Mapping[str, Any] = getattr(model, "peft_config", None) or {}
    return {
        "class": type(base).__name__,
        "config": _without_provenance(base.config.to_dict()),
        "adapters": {name: _without_provenance(config.to_dict()) for name, config in adapters.items()},
    }


def _without_provenance(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in settings.items() if key not in _PROVENANCE and not key.startswith("_")}
    return {key: sorted(value) if isinstance(value, set) else value for key, value in kept.items()}
