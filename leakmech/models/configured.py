"""The model that a configuration names."""

from __future__ import annotations

from typing import Any, Protocol

from leakmech.models.kept import keeper
from leakmech.models.load import is_adapter_folder, load_model, locate
from leakmech.models.loaded import LoadedModel


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
    """The model of a configuration, or a model object in its place; raises as :func:`leakmech.load_model`.

    A process that keeps models gives the one out that is loaded already (:mod:`leakmech.models.kept`).
    """

    def read() -> LoadedModel:
        return load_model(
            config.model if model is None else model,
            tokenizer=tokenizer,
            device=config.device,
            dtype=config.dtype,
            revision=config.revision,
            trust_remote_code=config.trust_remote_code,
        )

    keeps = keeper()
    if keeps is None or model is not None or tokenizer is not None:
        return read()
    folder = locate(config.model, revision=config.revision, needs_tokenizer=True)
    if is_adapter_folder(folder):  # its base may lie anywhere
        return read()
    asked = (config.model, config.revision, config.device, config.dtype, config.trust_remote_code)
    return keeps.take(asked, folder, read)
