"""What a part of a run left behind: its value with a hash of it, and hashes of the files that it wrote.

    {…, "seal": {"value": hash of the rest, "files": {"../tables/heads.csv": hash, …}}}

A part that is damaged, or one of whose files is damaged or gone, is made again. Parts that versions before this one
wrote have no seal and are taken as they are.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import content_hash, file_hash, read_json, write_json

SEAL = "seal"


def write_sealed(path: Path, value: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
    """Write the value of a part, with what it wrote beside that, and return it as it will be read."""
    found = {Path(os.path.relpath(file, path.parent)).as_posix(): file_hash(file) for file in dict.fromkeys(files)}
    text = _text(value)
    write_json(path, {**value, SEAL: {"value": content_hash(text), "files": found}})
    return json.loads(text)


def read_sealed(path: Path) -> dict[str, Any]:
    """The value of a part; RunDirectoryError says what of it is damaged or missing."""
    value = read_json(path)
    seal = value.pop(SEAL, None)
    if seal is None:
        return value
    try:
        whole, files = seal["value"] == content_hash(_text(value)), dict(seal["files"])
    except (KeyError, TypeError, ValueError):
        whole, files = False, {}
    if not whole:
        raise RunDirectoryError(f"{path}: damaged (it was changed after it was written)")
    for name, expected in files.items():
        refuse_changed(path.parent / name, expected)
    return value


def refuse_changed(file: Path, expected: str) -> None:
    """Refuse a file that does not have this hash; RunDirectoryError."""
    try:
        changed = file_hash(file) != expected
    except OSError as error:
        raise RunDirectoryError(f"{os.path.normpath(file)}: missing or damaged ({error.strerror or error})") from error
    if changed:
        raise RunDirectoryError(f"{os.path.normpath(file)}: damaged (it was changed after it was written)")


def _text(value: Mapping[str, Any]) -> str:
    """What is hashed of a value."""
    return json.dumps(value, ensure_ascii=False)
