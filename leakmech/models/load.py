"""Load a causal language model and its tokenizer from wherever they are, or say in one line why not.

Names, in the order in which they are tried: ``embedded:<name>`` (comes as a package), a local folder, a hub id. Every
name is first turned into a folder, so that there is one way in. A folder holds a model or a PEFT adapter, whose
base is loaded in the same manner.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from leakmech.core.errors import LeakmechError, ModelError
from leakmech.core.store import read_json
from leakmech.models.adapters import base_of, is_peft
from leakmech.models.device import resolve_device, resolve_dtype
from leakmech.models.embedded import PREFIX, embedded_path
from leakmech.models.hub import ADAPTER_CONFIG, CONFIG, TOKENIZER_FILES, fetch
from leakmech.models.kept import keeper
from leakmech.models.loaded import LoadedModel, given_name
from leakmech.models.names import model_folder
from leakmech.models.reading import (
    attach_adapter,
    read_model,
    read_tokenizer,
    refuse_dependent_adapters,
    require_config,
)

if TYPE_CHECKING:
    from peft import PeftModel

    AnyModel: TypeAlias = PreTrainedModel | PeftModel

__all__ = ["LoadedModel", "given_name", "load_adapter", "load_model", "load_tokenizer"]


def load_model(
    source: str | Path | AnyModel | LoadedModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a causal language model and its tokenizer.

    Parameters
    ----------
    source
        ``embedded:<name>``, a local folder, a hub id (each may hold a PEFT adapter), or a model in memory. The
        latter is not copied: it is put into eval mode, and moved only where `device` or `dtype` ask for it. What this
        function returned may be given as well.
    tokenizer
        A tokenizer to use instead of the one beside the weights. For a model in memory the default is that of the name
        or folder that the model was loaded from.
    device
        ``"cuda"``, ``"cuda:1"``, ``"mps"``, ``"cpu"``; None and ``"auto"`` take the best that there is.
    dtype
        ``"float32"``, ``"bfloat16"``, ``"float16"``; None and ``"auto"`` take bfloat16 where the device multiplies it
        in hardware, else float32 (see :mod:`leakmech.models.device`).
    revision
        Branch, tag or commit of a hub id.
    trust_remote_code
        Whether Python code that comes with the weights may be run.

    Returns
    -------
    LoadedModel
        Model and tokenizer, in eval mode.

    Raises
    ------
    ModelError
        The model is not found or cannot be downloaded, is damaged, is not a causal language model, has no tokenizer, or
        does not fit on the device; or device or dtype are unknown.
    StorageError
        The copy of an embedded model cannot be written into the cache.
    """
    if isinstance(source, LoadedModel):
        if tokenizer is None and device in (None, "auto") and dtype in (None, "auto"):
            return source
        own = tokenizer or source.tokenizer
        found = _from_memory(source.model, tokenizer=own, device=device, dtype=dtype)
        return replace(found, name=source.name, revision=source.revision, adapter=source.adapter)
    if not isinstance(source, str | Path):
        return _from_memory(source, tokenizer=tokenizer, device=device, dtype=dtype)
    name = str(source)
    placement = resolve_device(device)
    number_format = resolve_dtype(dtype, device=placement)
    folder = locate(name, revision=revision, needs_tokenizer=tokenizer is None)
    if is_adapter_folder(folder):
        base, own = _adapter_base(folder), tokenizer
        if own is None and any((folder / file).is_file() for file in TOKENIZER_FILES):
            own = read_tokenizer(folder, trust_remote_code=trust_remote_code)
        with _for_adapter(folder, base):
            locate(base, revision=None, needs_tokenizer=own is None)
        loaded = load_model(
            base, tokenizer=own, device=placement, dtype=number_format, trust_remote_code=trust_remote_code
        )
        return replace(loaded, model=attach_adapter(loaded.model, folder), name=name, adapter=str(folder))

    if tokenizer is None:
        require_config(folder)
        tokenizer = read_tokenizer(folder, trust_remote_code=trust_remote_code)
    model = read_model(folder, dtype=number_format, trust_remote_code=trust_remote_code)
    # What is saved from this model (an adapter, say) then names its base as the user did, not a folder of this machine.
    model.config._name_or_path = model.name_or_path = name
    commit = folder.name if folder.parent.name == "snapshots" else None
    return replace(_loaded(_place(model, placement), tokenizer, name=name, revision=commit), folder=str(folder))


def load_adapter(loaded: LoadedModel, path: str | Path, *, in_place: bool = False) -> LoadedModel:
    """`loaded` with a PEFT adapter on top; `loaded` itself stays as it is, unless the adapter is put on `in_place`.

    The model is copied first, which takes its memory a second time; in place it is not, and `loaded` must not be used
    any more. The tokenizer is kept, so that base and adapted model read the same prompts.
    """
    if is_peft(loaded.model):
        raise ModelError(f"{loaded.name}: has an adapter already; merge it before adding {path}")
    folder = locate(str(path), revision=None, needs_tokenizer=False)
    if not is_adapter_folder(folder):
        raise ModelError(f"{folder}: is not a PEFT adapter (it has no {ADAPTER_CONFIG})")
    adapted = attach_adapter(loaded.model if in_place else copy.deepcopy(loaded.model), folder)
    if in_place and (keeps := keeper()) is not None:
        keeps.adapted(adapted)
    return replace(loaded, model=adapted, adapter=str(folder))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of ``embedded:<name>``, a local folder or a hub id, without its model."""
    return read_tokenizer(locate(name, revision=None, needs_tokenizer=True), trust_remote_code=False)


# -- names to folders ----------------------------------------------------------------------------------------------


def locate(name: str, *, revision: str | None, needs_tokenizer: bool) -> Path:
    """The folder of what a name means; ModelError if there is none."""
    folder = model_folder(name, revision=revision)
    if folder is not None:
        return folder
    if name.startswith(PREFIX):
        return embedded_path(name.removeprefix(PREFIX))
    return fetch(name, revision=revision, tokenizer=needs_tokenizer)


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model; the base's configuration may lie beside an adapter."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return False
    has_adapter, has_model = (
        any(next(folder.glob(f"{name}{end}"), None) for name in names for end in ("*.safetensors", "*.bin"))
        for names in (("adapter_model",), ("model", "pytorch_model"))
    )
    return not has_model and (has_adapter or not (folder / CONFIG).is_file())


@contextmanager
def _for_adapter(folder: Path, base: str) -> Iterator[None]:
    """Say whose base is missing, and how another one is named."""
    try:
        yield
    except ModelError as error:
        raise ModelError(
            f"{folder}: is an adapter for {base!r}, which cannot be loaded ({error}); if the base lies elsewhere, name "
            "it and add the adapter: --model BASE --adapter ADAPTER (merge-lora: --base BASE)"
        ) from error


def _adapter_base(folder: Path) -> str:
    try:
        base = read_json(folder / ADAPTER_CONFIG)["base_model_name_or_path"]
    except (LeakmechError, KeyError, TypeError) as error:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: damaged, or does not name its base model") from error
    if not isinstance(base, str) or not base:
        raise ModelError(f"{folder / ADAPTER_CONFIG}: names no base model; load the base and add the adapter to it")
    return base


# -- in memory ---------------------------------------------------------------------------------------------------------


def _place(model: Any, device: torch.device) -> Any:
    if getattr(model, "hf_quantizer", None) is not None:  # quantised weights are placed while they are read
        return model
    try:
        return model.to(device)
    except torch.OutOfMemoryError as error:
        name = base_of(model).name_or_path
        raise ModelError(f"{name}: does not fit on {device}; use a smaller model or device='cpu'") from error


def _loaded(
    model: AnyModel, tokenizer: PreTrainedTokenizerBase, *, name: str, revision: str | None = None
) -> LoadedModel:
    model.eval()
    base = base_of(model)
    embedding: Any = base.get_input_embeddings()
    rows: int = embedding.weight.shape[0]
    if tokenizer.vocab_size > rows:
        raise ModelError(f"{name}: the tokenizer has {tokenizer.vocab_size} tokens, but the model embeds only {rows}")
    return LoadedModel(
        model=model,
        tokenizer=_with_pad_token(tokenizer, base, rows=rows),
        name=name,
        device=base.device,
        dtype=base.dtype,
        revision=revision,
    )


def _with_pad_token(
    tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, *, rows: int
) -> PreTrainedTokenizerBase:
    """`tokenizer`, or a copy of it that pads with an existing token where its own is missing or not embedded."""
    if _embedded(tokenizer.pad_token_id, rows):
        return tokenizer
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    candidates = [tokenizer.eos_token_id, *ends, tokenizer.unk_token_id, 0]
    padded = copy.deepcopy(tokenizer)
    padded.pad_token = padded.convert_ids_to_tokens(next(token for token in candidates if _embedded(token, rows)))
    return padded


def _embedded(token: Any, rows: int) -> bool:
    return isinstance(token, int) and 0 <= token < rows


def _from_memory(
    model: AnyModel,
    *,
    tokenizer: PreTrainedTokenizerBase | None,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
) -> LoadedModel:
    if not (isinstance(model, PreTrainedModel) or is_peft(model)):
        raise ModelError(f"a model is a name, a folder, or a transformers or PEFT model, not {type(model).__name__}")
    refuse_dependent_adapters(model)
    base = base_of(model)
    name = base.config._name_or_path or type(base).__name__
    if base.config.is_encoder_decoder or not base.can_generate():
        raise ModelError(f"{type(base).__name__} is not a causal language model")
    if any(parameter.is_meta for parameter in base.parameters()):
        raise ModelError(f"{name}: its weights are not in memory (device 'meta')")
    if len(set(getattr(base, "hf_device_map", {}).values())) > 1:
        raise ModelError(
            f"{name}: is spread over several devices (device_map), where hooks and caches were never tried; load it on "
            "one, or draw answers with vLLM (--engine vllm)"
        )
    if tokenizer is None:
        if not base.config._name_or_path:
            raise ModelError(f"{name}: a model in memory that was not loaded by name needs tokenizer=")
        tokenizer = load_tokenizer(name)
    if device not in (None, "auto"):
        model = _place(model, resolve_device(device))
    if dtype not in (None, "auto"):
        model = model.to(resolve_dtype(dtype, device=base.device))  # pyright: ignore[reportArgumentType]
    return _loaded(model, tokenizer, name=name)
