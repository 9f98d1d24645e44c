"""What a run was made from, told without loading it: a finished run whose sources are as they were is only read.

The stamp of a file or folder is made of names, sizes and times of change; that of a hub id, of its copy in the cache.
It says less than the fingerprint of a run (hashes of all weights and texts): where a stamp is another one or is not
there, the fingerprint decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leakmech.core.provenance import package_version
from leakmech.core.store import files_stamp
from leakmech.runs.directory import RunDirectory, RunRecord
from leakmech.runs.settings import Settings

SOURCES = "sources"
"""Fact of a run that holds the stamps of its sources."""
_PACKAGES = ("leakmech", "torch", "transformers", "sentence-transformers")


def source_stamps(settings: Settings, *more: str) -> dict[str, str]:
    """The stamp of everything on this machine that the settings, or `more`, name; and of the packages that read it."""
    found = {package: version for package in _PACKAGES if (version := package_version(package))}
    for name in sorted({*_names(settings.model_dump(mode="json")), *more}):
        stamp = _stamp(name)
        if stamp is not None:
            found[name] = stamp
    return found


def is_as_it_was(path: Path, stamps: Mapping[str, str]) -> bool:
    """Whether the run in `path` is finished, not damaged, and was made from sources with these stamps."""
    record, files = RunRecord.find(path), RunDirectory(path)
    made_so = record is not None and files.is_complete() and record.fact(SOURCES) == stamps
    return made_so and files.damaged() is None


def changed_sources(paths: Iterable[Path]) -> dict[str, int]:
    """Files and folders that are others now than when runs in `paths` were made from them, each with how many runs.

    What is not there any more is not among them: it may have been moved.
    """
    now, found = dict[str, str | None](), Counter[str]()
    for path in paths:
        record = RunRecord.find(path)
        stamps = record.fact(SOURCES) if record is not None else None
        for name, stamp in (stamps or {}).items():
            if name not in now:
                now[name] = None if name in _PACKAGES else _stamp(name)
            found[name] += now[name] not in (None, stamp)
    return {name: n for name, n in found.items() if n}


def _names(value: Any) -> Iterator[str]:
    """Every text in nested settings, and the parts of lists that are written as one."""
    if isinstance(value, str):
        yield value
        yield from value.split(",")
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _names(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _names(part)


def _stamp(name: str) -> str | None:
    """Of a file, a folder or a hub id; None for what is none of them, such as a name of leakmech's own."""
    try:
        path = Path(name).expanduser()
        if not name or not path.exists():
            found = _cached(name)
            if found is None:
                return None
            path = found
        # Weights and their settings lie in a folder or right below it; a text may happen to name a whole disk.
        files = [path] if path.is_file() else sorted(file for depth in ("*", "*/*") for file in path.glob(depth))
        return files_stamp(file for file in files if file.is_file())
    except OSError:  # too long for a path, or not ours to read
        return None


def _cached(name: str) -> Path | None:
    """The folder of a hub id in the cache of this machine."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if name.count("/") != 1:
        return None
    try:
        files = [try_to_load_from_cache(name, file) for file in ("config.json", "modules.json")]
    except HFValidationError:
        return None
    return next((Path(file).parent for file in files if isinstance(file, str)), None)
