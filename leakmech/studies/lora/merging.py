"""Merge an adapter into its base model: one plain model, for any program that reads such."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leakmech.core.errors import ModelError, UsageError
from leakmech.core.store import give_modes, storage_errors, temporary_folder
from leakmech.models.load import load_adapter, load_model
from leakmech.models.quiet import quiet


def merge_lora(adapter: str | Path, out: str | Path, *, base: str | None = None, dtype: str = "float32") -> Path:
    """Write base model and adapter as one plain model, with its tokenizer.

    Parameters
    ----------
    adapter
        Folder or hub id of a PEFT adapter.
    out
        A new folder.
    base
        The base model; by default the one that the adapter names.
    dtype
        In which weights are added and written.

    Returns
    -------
    Path
        `out`, which ``load_model`` and transformers read.

    Raises
    ------
    UsageError
        There is no such adapter or base, they do not fit, or `out` holds something.
    StorageError
        The file system refuses.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder}: exists already; choose another --out")
    loaded = load_model(adapter, dtype=dtype, device="cpu") if base is None else None
    if loaded is None:
        loaded = load_adapter(load_model(str(base), dtype=dtype, device="cpu"), adapter)
    if loaded.adapter is None:
        raise ModelError(f"{adapter}: is a plain model, not an adapter; there is nothing to merge")
    merged: Any = loaded.model
    plain = merged.merge_and_unload(safe_merge=True)
    plain.config.__dict__.pop("quantization_config", None)
    with new_folder(folder) as temporary, quiet():
        plain.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
    return folder


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder beside `folder` that is renamed to it on success, and removed otherwise."""
    with storage_errors(folder, lost=""), temporary_folder(folder) as temporary:
        yield temporary
        give_modes(temporary)
        if folder.exists():  # empty, as was checked
            folder.rmdir()
        temporary.rename(folder)
