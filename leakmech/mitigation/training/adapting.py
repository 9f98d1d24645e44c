"""A new adapter around a base model, for the time of a training; the base is left as it was."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from leakmech.core.errors import ModelError, TrainingError
from leakmech.core.seeds import stable_hash
from leakmech.mitigation.training.settings import LoraTrainingConfig
from leakmech.models.device import rng_devices
from leakmech.models.hashes import hash_weights
from leakmech.models.load import LoadedModel


@contextmanager
def adapted(loaded: LoadedModel, config: LoraTrainingConfig, modules: Sequence[str]) -> Iterator[Any]:
    """A PEFT model with a new LoRA adapter around `loaded`'s model, which is as it was when the context is left.

    Raises
    ------
    ModelError
        The model has an adapter already.
    TrainingError
        The base weights are not what they were.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    base: Any = loaded.model
    if isinstance(base, PeftModel):
        raise ModelError(
            f"{loaded.name}: has an adapter already; merge it (leakmech merge-lora) before training another"
        )
    before = loaded.weights_hash
    frozen = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - any number will do
        use_rslora=config.rslora,
        lora_dropout=config.dropout,
        target_modules=list(modules),
        fan_in_fan_out=type(base.get_submodule(modules[0])).__name__ == "Conv1D",
    )
    with torch.random.fork_rng(devices=rng_devices(loaded.device)), warnings.catch_warnings():
        # PEFT asks for it under the name that transformers is about to change.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(stable_hash(config.seed, "adapter"))
        model = get_peft_model(base, settings)
    try:
        yield model
    finally:
        model.unload()
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(frozen[name])
        # PEFT leaves its settings on the model that it gives back.
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            base.__dict__.pop(attribute, None)
        base.eval()
    if hash_weights(base) != before:
        raise TrainingError(f"{loaded.name}: training changed the base weights; the adapter is not to be trusted")
