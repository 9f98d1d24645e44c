"""Tensors on disk with a description: two files that belong together.

    <name>.json          format version, everything but the tensors, and a hash of the other file; written last
    <name>.safetensors   the tensors

A reader gets both or an error that names the file: one is missing or damaged, of another version or kind, or the
tensors are not those that the description was written for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
from torch import Tensor

from leakmech.core.errors import LeakmechError
from leakmech.core.store import atomic_path, content_hash, parsed_json, write_json


@dataclass(frozen=True)
class TensorFormat:
    """How one kind of value is stored."""

    what: str
    """What such files describe, for messages: ``a direction``."""
    version: int
    error: type[LeakmechError]
    """Raised for files that cannot be used."""
    kind: str | None = None
    """The value of ``kind`` in the description; None: it is not compared."""
    hash_key: str = "tensors_hash"
    """The key under which the description holds the hash of the tensors."""
    metadata: Mapping[str, str] | None = None
    """Metadata of the safetensors file."""

    @property
    def head(self) -> dict[str, Any]:
        """The first entries of a description."""
        return {"format_version": self.version} | ({} if self.kind is None else {"kind": self.kind})

    def write(self, path: Path, description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write the tensors beside `path`, and then `path` itself (``.json``)."""
        own = {name: tensor.clone() for name, tensor in tensors.items()}  # safetensors refuses those that share memory
        data = save(own, metadata=None if self.metadata is None else dict(self.metadata))
        with atomic_path(tensor_files(path)[1]) as temporary:
            temporary.write_bytes(data)
        write_json(path, {**self.head, **description, self.hash_key: content_hash(data)})

    def read(self, path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The description in `path` and the tensors beside it."""
        description = self.read_description(path)
        return description, self._read_tensors(path, description.get(self.hash_key))

    def read_description(self, path: Path) -> dict[str, Any]:
        """The description in `path`; one of another version or kind is refused."""
        try:
            description = parsed_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise self.error(f"{path}: no such file; expected {self.what} as leakmech saves it") from error
        except (OSError, ValueError) as error:
            raise self.error(f"{path}: cannot be read ({error})") from error
        if not isinstance(description, dict) or "format_version" not in description:
            raise self.error(f"{path}: does not describe {self.what} (it has no format_version)")
        if self.kind is not None and description.get("kind") != self.kind:
            raise self.error(f"{path}: does not describe {self.what} (its kind is {description.get('kind')!r})")
        if description["format_version"] != self.version:
            raise self.error(
                f"{path}: has format version {description['format_version']}; this leakmech reads {self.version}"
            )
        return description

    def _read_tensors(self, description: Path, expected: Any) -> dict[str, Tensor]:
        path = tensor_files(description)[1]
        try:
            data = path.read_bytes()
            tensors = load(data)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self.error(f"{path}: is missing or damaged ({reason}); it belongs beside the .json file") from error
        if content_hash(data) != expected:
            raise self.error(f"{path}: does not belong to {description.name}: it holds other tensors")
        return tensors


def tensor_files(description: Path) -> tuple[Path, Path]:
    """Both files of what was written with this description."""
    return description, description.with_name(f"{description.stem}.safetensors")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write one safetensors file, atomically."""
    with atomic_path(path) as temporary:
        save_file(dict(tensors), temporary, metadata=None if metadata is None else dict(metadata))
