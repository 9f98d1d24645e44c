"""Files by the name of a built-in set, or by their path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from leakmech.core.errors import DatasetError, nearest


def data_file(*parts: str) -> Path:
    """A file of ``data/``."""
    return Path(str(resources.files("leakmech.datasets"))).joinpath("data", *parts)


def named_file(name_or_path: str | Path, builtin: Mapping[str, Path], *, what: str) -> Path:
    """The file of a built-in set, or a path of the user; `what` it holds begins the error if there is neither."""
    name = str(name_or_path)
    if name in builtin:
        return builtin[name]
    path = Path(name_or_path)
    if not path.exists():
        raise DatasetError(f"{what} {name!r}: no such file or built-in set{nearest(name, builtin)}")
    return path
