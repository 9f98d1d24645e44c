"""What a benchmark may keep of the generations that it finds in its directory, and of those that it made itself."""

from __future__ import annotations

import warnings
from collections.abc import Set

from leakmech.core.errors import LeakmechWarning, ModelError, RunDirectoryError
from leakmech.core.store import write_jsonl
from leakmech.models.load import LoadedModel
from leakmech.runs.directory import RunDirectory
from leakmech.studies.benchmark.prompts import RunPrompts

Keys = Set[tuple[str, int]]
"""Prompt id and number of generations."""


def whole_rows(files: RunDirectory) -> set[tuple[str, int]]:
    """The generations on disk; lines that are damaged or there twice are named and taken out."""
    damaged: list[str] = []
    found = {(row["prompt_id"], row["generation"]) for row in files.generations(on_damage=damaged.append)}
    if damaged:
        told = f"{damaged[0]}; lines taken out: {len(damaged)}; the other {len(found)} generations stay"
        warnings.warn(told, LeakmechWarning, stacklevel=2)
        _keep_only(files, found)
    return found


def keep_if_unchanged(files: RunDirectory, loaded: LoadedModel, before: Keys) -> None:
    """Let the model be the one that was loaded, or keep only the generations from `before`."""
    try:
        loaded.refuse_changed()
    except ModelError as error:
        _keep_only(files, before)
        kept = f"the {len(before)} generations from before are kept, those since are dropped"
        raise ModelError(f"{files.path}: {error}; {kept}") from error


def refuse_foreign(files: RunDirectory, done: Keys, reading: RunPrompts) -> None:
    """Refuse a directory with generations that this run would not make."""
    foreign = [row for row in done if not reading.has_row(*row)]
    if foreign:
        raise RunDirectoryError(f"{files.path}: holds generations of other prompts, e.g. {min(foreign)}")


def _keep_only(files: RunDirectory, keys: Keys) -> None:
    found = files.generations(on_damage=lambda _: None)
    write_jsonl(files.shard, (row for row in found if (row["prompt_id"], row["generation"]) in keys), checksums=True)
    for shard in files.shard.parent.glob("*.jsonl"):
        if shard != files.shard:
            shard.unlink()
