"""A model that is loaded: its modules, its tokenizer, and what identifies both."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leakmech.core.errors import ModelError
from leakmech.models.adapters import base_of
from leakmech.models.device import dtype_name
from leakmech.models.hashes import hash_base, hash_generation, hash_template, hash_tokenizer, hash_weights

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

    @cached_property
    def weights_hash(self) -> str:
        """Hash of all weights as they are loaded, and of the settings that change what they compute."""
        return hash_weights(self.model)

    @cached_property
    def base_hash(self) -> str:
        """Hash of the weights rounded to bfloat16, and of the settings; float32 and bfloat16 copies share it."""
        return hash_base(self.model)

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
