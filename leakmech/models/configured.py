"""The model that a configuration names."""

from __future__ import annotations

from typing import Any, Protocol

from leakmech.models.load import LoadedModel, load_model


class ModelSettings(Protocol):
    """Settings that say which model is meant and where it runs; ``auto`` leaves device or dtype to the machine."""

    @property
    def model(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def trust_remote_code(self) -> bool: ...


def load_configured(config: ModelSettings, model: Any = None, tokenizer: Any = None) -> LoadedModel:
    """The model of a configuration, or a model object in its place; raises as :func:`leakmech.load_model`."""
    return load_model(
        config.model if model is None else model,
        tokenizer=tokenizer,
        device=config.device,
        dtype=config.dtype,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
