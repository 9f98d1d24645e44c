"""What can be said of a model, a device and a number format by their names: before torch, which takes seconds to load.

Names of models, in the order in which they are tried: ``embedded:<name>`` (comes as a package), a local folder, a hub
id.
"""

from __future__ import annotations

from pathlib import Path

from leakmech.core.errors import ModelError, nearest
from leakmech.models.embedded import PREFIX, installed_gguf

DEVICES = ("cuda", "mps", "cpu")
DTYPES = {
    "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16", "float16": "float16",
    "fp16": "float16",
}  # fmt: skip
"""Names of number formats and what torch calls them."""


def refuse_unknown_device(name: str) -> None:
    """Refuse a device of a kind that there is not; ``auto`` is none."""
    if name.partition(":")[0] not in DEVICES and name != "auto":
        raise ModelError(f"unknown device {name!r}{nearest(name, ['auto', *DEVICES])}")


def refuse_unknown_dtype(name: str) -> None:
    """Refuse a number format that there is not."""
    if name not in DTYPES and name != "auto":
        raise ModelError(f"unknown dtype {name!r}{nearest(name, ['auto', *DTYPES])}")


def model_folder(name: str, *, revision: str | None = None) -> Path | None:
    """The local folder that a name says, if it says one; None for an embedded model and a hub id.

    Raises
    ------
    ModelError
        The folder is not there or is a file, the embedded model is unknown or not installed, or a revision is asked
        for of what has none.
    """
    path = Path(name).expanduser()
    if revision is not None and (name.startswith(PREFIX) or path.exists()):
        raise ModelError(f"{name}: only a model on the hub has revisions (asked for {revision!r})")
    if name.startswith(PREFIX):
        installed_gguf(name.removeprefix(PREFIX))
        return None
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"{name}: is a file; give the folder of the model")
    if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2:
        raise ModelError(f"{name}: no such folder")
    return None
