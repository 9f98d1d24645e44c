"""What commands say before they load anything large: names that are not there, places that cannot be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from leakmech.core.errors import RunDirectoryError, StorageError


def refuse_missing(
    *,
    model: str | None = None,
    adapter: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    samples: Iterable[str | None] = (),
    out: Path | None = None,
) -> None:
    """Refuse what is not there, of a command whose options are not settings."""
    from leakmech.datasets.samples import dataset_file
    from leakmech.models.names import model_folder, refuse_unknown_device, refuse_unknown_dtype

    for name in filter(None, (model, adapter)):
        model_folder(name)
    if device is not None:
        refuse_unknown_device(device)
    if dtype is not None:
        refuse_unknown_dtype(dtype)
    for name in filter(None, samples):
        dataset_file(name)
    if out is not None:
        refuse_unwritable(out)


def refuse_run(out: Path) -> None:
    """Refuse the folder of a run: a command without a run of its own would write over its tables."""
    from leakmech.runs.directory import RunRecord

    record = RunRecord.find(out)
    if record is not None:
        raise RunDirectoryError(f"{out}: holds a run of `leakmech {record.command}`; choose another --out")


def refuse_unwritable(path: Path) -> None:
    """Refuse a file or folder that cannot be made or written; nothing is left of trying."""
    place = next(folder for folder in (path.absolute(), *path.absolute().parents) if os.path.lexists(folder))
    if place.is_file() and place == path.absolute():
        return  # a command says itself whether it wants a file
    if not place.is_dir():
        raise StorageError(f"{path}: cannot be written ({place} is not a folder)")
    try:
        with tempfile.TemporaryDirectory(prefix=".leakmech-", dir=place):
            pass
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error
