"""A model that is loaded: its modules, its tokenizer, and what identifies both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leakmech.core.errors import ModelError
from leakmech.core.shown import table_html
from leakmech.core.store import storage_errors
from leakmech.models.adapters import base_of, is_peft, merged_copy
from leakmech.models.device import dtype_name
from leakmech.models.hashes import (
    hash_base,
    hash_generation,
    hash_template,
    hash_tokenizer,
    hash_weights,
    hashes_under_adapters,
)
from leakmech.models.quiet import quiet

if TYPE_CHECKING:
    from peft import PeftModel

    AnyModel: TypeAlias = PreTrainedModel | PeftModel


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A causal language model in eval mode with its tokenizer, and what identifies both.

    The hashes are computed when they are first asked for, and then kept: later changes in place do not show.

    Attributes
    ----------
    model
        A Hugging Face model, or a PEFT model around one.
    tokenizer
        Its tokenizer, with a pad token that the model's embedding has; its vocabulary is unchanged.
    name
        The name under which it was asked for.
    device, dtype
        Device and dtype of the weights.
    revision
        The hub's commit; None for what does not come from the hub.
    adapter
        The folder of the PEFT adapter; None without one.
    folder
        The folder that holds these very weights (of an adapted model: its base's); None for those in memory only.
    """

    model: AnyModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    device: torch.device
    dtype: torch.dtype
    revision: str | None = None
    adapter: str | None = None
    folder: str | None = None

    def __repr__(self) -> str:
        adapter = f", adapter {self.adapter}" if self.adapter else ""
        size = f"{self.n_parameters / 1e6:,.0f} M parameters"
        where = f"{dtype_name(self.dtype)} on {self.device}"
        return f"LoadedModel({self.name!r}, {self.architecture}, {size}, {where}{adapter})"

    def _repr_html_(self) -> str:
        layers = getattr(base_of(self.model).config, "num_hidden_layers", None)
        rows = [
            ("architecture", self.architecture),
            ("parameters", f"{self.n_parameters:,}"),
            ("layers", "not said" if layers is None else layers),
            ("weights", f"{dtype_name(self.dtype)} on {self.device}"),
            ("adapter", self.adapter or "none"),
            ("chat template", "yes" if self.has_chat_template else "no"),
        ]
        return table_html(self.name, ("model", ""), rows)

    @cached_property
    def weights_hash(self) -> str:
        """Hash of all weights as they are loaded, and of the settings that change what they compute."""
        return hash_weights(self.model)

    @cached_property
    def base_hash(self) -> str:
        """Hash of the weights rounded to bfloat16, and of the settings; float32 and bfloat16 copies share it."""
        return hash_base(self.model)

    @cached_property
    def hashes_under_adapter(self) -> frozenset[str]:
        """`weights_hash` and `base_hash` of the model without its adapter; nothing where it has none."""
        return hashes_under_adapters(self.model) if is_peft(self.model) else frozenset()

    @cached_property
    def tokenizer_hash(self) -> str:
        """Hash of vocabulary, merges, normalisation and special tokens."""
        return hash_tokenizer(self.tokenizer)

    @cached_property
    def template_hash(self) -> str:
        """Hash of the chat template."""
        return hash_template(self.tokenizer)

    @property
    def n_parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def architecture(self) -> str:
        """Class of the underlying Hugging Face model, for example ``LlamaForCausalLM``."""
        return type(base_of(self.model)).__name__

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer can render a conversation."""
        return bool(self.tokenizer.chat_template)

    @cached_property
    def generation_hash(self) -> str:
        """Hash of the generation config, whose end tokens end answers."""
        return hash_generation(self.model)

    def holding(self, model: PreTrainedModel, *, name: str) -> LoadedModel:
        """Another model in memory, without adapter, under the same tokenizer."""
        return LoadedModel(model, self.tokenizer, name, self.device, self.dtype)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write model and tokenizer into a folder, which :func:`leakmech.load_model` and ``--model`` take by its path.

        Of an adapted model the adapter is merged into the weights first.

        Raises
        ------
        StorageError
            The file system refuses, or `folder` is a file.
        """
        folder = Path(folder)
        with storage_errors(folder), quiet():
            folder.mkdir(parents=True, exist_ok=True)
            whole: Any = merged_copy(self.model) if is_peft(self.model) else self.model
            whole.save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
        return folder

    def fingerprint(self) -> dict[str, str]:
        """The hashes of weights, tokenizer and template, and the dtype: a run is continued only if they agree."""
        _ = self.generation_hash  # to be compared at the end of a run; runs of older versions do not have it
        return {
            "weights": self.weights_hash,
            "tokenizer": self.tokenizer_hash,
            "template": self.template_hash,
            "dtype": dtype_name(self.dtype),
        }

    def refuse_changed(self) -> None:
        """Raise ModelError if weights, settings, tokenizer, template or generation config changed since."""
        now = {
            "weights": hash_weights(self.model),
            "tokenizer": hash_tokenizer(self.tokenizer),
            "template": hash_template(self.tokenizer),
            "generation config": hash_generation(self.model),
        }
        before = self.fingerprint() | {"generation config": self.generation_hash}
        changed = [name for name, value in now.items() if value != before[name]]
        if changed:
            raise ModelError(f"{self.name}: {', '.join(changed)} changed while the model was in use")

    def info(self) -> dict[str, Any]:
        """Name, origin, sizes and hashes of the model, JSON-ready."""
        return {
            "name": self.name,
            "revision": self.revision,
            "adapter": self.adapter,
            "architecture": self.architecture,
            "n_parameters": self.n_parameters,
            "device": str(self.device),
            "dtype": dtype_name(self.dtype),
            "has_chat_template": self.has_chat_template,
            "weights_hash": self.weights_hash,
            "base_hash": self.base_hash,
            "tokenizer_hash": self.tokenizer_hash,
            "template_hash": self.template_hash,
        }


def given_name(model: Any) -> str:
    """What settings call a model that is given as an object."""
    return model.name if isinstance(model, LoadedModel) else type(model).__name__
