"""Read model, tokenizer and adapter from a folder; whatever third-party readers raise becomes one line.

Transformers accepts more than can be measured: an encoder with a fresh head, weights with holes that are filled at
random, a tokenizer without a vocabulary. Here these are errors.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from leakmech.core.errors import LeakmechError, ModelError
from leakmech.core.store import read_json
from leakmech.models.adapters import base_of
from leakmech.models.hashes import hash_base
from leakmech.models.hub import ADAPTER_CONFIG, CONFIG, TOKENIZER_FILES, first_line
from leakmech.models.quiet import quiet

_MOST_LAYERS = 2_000
ADAPTER_CARD = "adapter_card.json"
"""Written beside adapters that leakmech trains; names the weights they belong to."""


@contextmanager
def reading(failure: str, folder: Path) -> Iterator[None]:
    """Turn whatever third-party readers raise on a user's file into one line; ``--debug`` shows the rest."""
    try:
        with quiet():
            yield
    except LeakmechError:
        raise
    except Exception as error:
        if "trust_remote_code" in str(error):
            message = f"{folder}: runs Python code of its own; pass trust_remote_code=True if you trust its source"
            raise ModelError(message) from error
        raise ModelError(f"{folder}: {failure} ({first_line(error)})") from error


def require_config(folder: Path) -> None:
    """Refuse a folder that does not hold a model."""
    if not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: holds no model (it has no {CONFIG}) and no adapter (no {ADAPTER_CONFIG})")


def read_tokenizer(folder: Path, *, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    """The tokenizer in `folder`; one without a vocabulary is refused."""
    if not any((folder / file).is_file() for file in TOKENIZER_FILES):
        raise ModelError(f"{folder}: has no tokenizer; save one there or pass tokenizer=")
    with reading("the tokenizer cannot be read", folder):
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    # From a configuration alone transformers makes a tokenizer without a vocabulary.
    if tokenizer.vocab_size <= len(tokenizer.all_special_ids):
        raise ModelError(f"{folder}: its tokenizer has no vocabulary; save one there or pass tokenizer=")
    return tokenizer


def read_model(folder: Path, *, dtype: torch.dtype, trust_remote_code: bool) -> PreTrainedModel:
    """The model in `folder`, on the CPU; anything but a whole causal language model is refused."""
    require_config(folder)
    with reading(f"{CONFIG} cannot be read", folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        _require_causal(config, folder, trust_remote_code=trust_remote_code)
        if (
            getattr(config.get_text_config(), "num_hidden_layers", 0) > _MOST_LAYERS
        ):  # they are built before weights are looked for
            raise ModelError(f"{folder}: {CONFIG} cannot be read (it names more than {_MOST_LAYERS:,} layers)")
    with reading("the weights cannot be read", folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            disable_mmap=True,  # weights that stay mapped change, or end the process, when the file is written again
        )
        model, report = loaded
    if report["missing_keys"]:
        example = min(report["missing_keys"])
        raise ModelError(f"{folder}: its weights lack {len(report['missing_keys'])} tensors, for example {example!r}")
    return model


def _require_causal(config: Any, folder: Path, *, trust_remote_code: bool) -> None:
    """Refuse other models by what their authors saved; transformers would put a random head on an encoder."""
    saved = list(config.architectures or [])
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{folder}: {' '.join(saved) or config.model_type} is an encoder-decoder, not a causal language model"
        )
    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}) and trust_remote_code:
        return
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    known = causal.intersection(saved) if saved else config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    if not known:
        raise ModelError(f"{folder}: {' '.join(saved) or config.model_type} is not a causal language model")


def attach_adapter(model: Any, folder: Path) -> Any:
    """Put the adapter of `folder` on `model`, in place; every tensor of the adapter must find its module."""
    from peft import PeftModel, get_peft_model_state_dict

    _refuse_other_base(model, folder)
    with reading("the adapter does not fit the model", folder), warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*missing adapter keys")
        # PEFT asks for it under the name that transformers is about to change.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        adapted = PeftModel.from_pretrained(model, folder, config=_gated_config(folder))
        expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    weights = folder / "adapter_model.safetensors"
    if weights.is_file():
        with safe_open(weights, framework="pt") as file:
            left_over = sorted(key for key in file.keys() if ".lora_" in key and key not in expected)  # noqa: SIM118
        if left_over:
            raise ModelError(f"{folder}: is an adapter for another model (no place for {left_over[0]!r})")
    refuse_dependent_adapters(adapted)
    return adapted.eval()


def refuse_dependent_adapters(model: Any) -> None:
    """Refuse adapters that do other things in other calls: virtual tokens before a prompt, and activated LoRA.

    PEFT puts virtual tokens before every call, so also before each generated token where a cache is used, and no
    position in the prompt is then where it was. Activated LoRA acts after tokens that must be in the call.
    """
    for name, config in getattr(model, "peft_config", {}).items():
        if getattr(config, "is_prompt_learning", False):
            raise ModelError(
                f"adapter {name!r}: {config.peft_type.value.lower().replace('_', ' ')} puts virtual tokens before the "
                "prompt, which leakmech does not read; use LoRA or another adapter of the weights"
            )
        if getattr(config, "alora_invocation_tokens", None):
            raise ModelError(
                f"adapter {name!r}: is an activated LoRA, which looks for its invocation in every call and would "
                "be off after the first generated token; use LoRA or another adapter of the weights"
            )


def _gated_config(folder: Path) -> Any:
    """Settings of a gated adapter, which PEFT cannot read itself; None of any other."""
    from leakmech.models.gated import read_gated_config

    return read_gated_config(folder)


def _refuse_other_base(model: Any, folder: Path) -> None:
    """Refuse an adapter that leakmech trained on other weights; shapes alone would let it pass."""
    card = folder / ADAPTER_CARD
    # float16 rounds differently from what the card's hash was taken of, so that it says nothing there.
    if not card.is_file() or base_of(model).dtype not in (torch.float32, torch.bfloat16):
        return
    try:
        base = read_json(card)["base"]
        name, expected = base["name"], base["base_hash"]
    except (LeakmechError, KeyError, TypeError) as error:
        raise ModelError(f"{card}: damaged; delete it to load the adapter unchecked") from error
    if hash_base(model) != expected:
        raise ModelError(f"{folder}: is an adapter for other weights (it was trained on {name}, hash {expected})")
