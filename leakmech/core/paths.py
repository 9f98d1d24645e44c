"""Places on this machine of what leakmech does not carry itself: the user's cache and installed packages."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path


def cache_root() -> Path:
    """The folder for what leakmech can fetch or build again: ``$LEAKMECH_CACHE``, else ``~/.cache/leakmech``."""
    return Path(os.environ.get("LEAKMECH_CACHE") or "~/.cache/leakmech").expanduser()


def package_folder(package: str) -> Path | None:
    """The folder of an installed package, found without importing it (its imports may not be installed), or None."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))
