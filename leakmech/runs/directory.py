"""Runs on disk: where the files of a run lie, and what ``run.json`` says about it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakmech.core.errors import RunDirectoryError
from leakmech.core.memory import give_back
from leakmech.core.store import (
    ShardIndex,
    content_hash,
    file_hash,
    json_text,
    read_json,
    read_jsonl_shard,
    utf8,
    write_json,
)
from leakmech.runs.sealed import refuse_changed

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
RUN_FILE = "run.json"
CHECKSUMS = "checksums.json"
_SHAPE = {"kind": str, "command": str, "config": dict, "fingerprint": dict, "environment": dict}
_GENERATION = {"prompt_id": str, "sample": str, "condition": str, "generation": int, "text": str, "finish_reason": str}
_DERIVED = ("scores.parquet", "prompts.jsonl", "tables/**/*", "directions/**/*", "interventions/**/*")
"""Files that a run derives from others, or fits."""
SCRIPT = "script"
"""Fact of a run that no command can continue: it was made from values that only a script has."""


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run (design, section 8)."""

    path: Path

    @property
    def prompts_file(self) -> Path:
        return self.path / "prompts.jsonl"

    @property
    def rewrites_file(self) -> Path:
        return self.path / "rewrites.jsonl"

    @property
    def shard(self) -> Path:
        return self.path / "generations" / "shard-000.jsonl"

    @property
    def control_likelihoods_file(self) -> Path:
        return self.path / "control_likelihoods.jsonl"

    @property
    def tilt_drawn_file(self) -> Path:
        return self.path / "tilt" / "drawn.jsonl"

    @property
    def tilt_completions_file(self) -> Path:
        return self.path / "tilt" / "completions.jsonl"

    @property
    def tilt_likelihoods_file(self) -> Path:
        return self.path / "tilt" / "likelihoods.jsonl"

    @property
    def scores_file(self) -> Path:
        return self.path / "scores.parquet"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    def cell(self, key: str) -> Path:
        """The folder of one of many alike, in which it may keep files of its own."""
        return self.path / "cells" / key

    def is_complete(self) -> bool:
        """Is the summary there, which is written last?"""
        return self.summary_file.exists()

    def generations(self, *, on_damage: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
        """All generations on disk, each once; a torn last line of a shard is left out.

        A damaged line is told to `on_damage` and passed over; RunDirectoryError if nobody wants to hear it.
        """
        seen: set[int] = set()
        for shard in self._shards():
            for row in read_jsonl_shard(shard, on_damage=on_damage):
                wrong = [name for name, kinds in _GENERATION.items() if not isinstance(row.get(name), kinds)]
                told = f"{shard}: damaged line (its {wrong[0]!r} is missing or of another kind)" if wrong else None
                if told and on_damage is None:
                    raise RunDirectoryError(told)
                if told is None and (key := hash((row["prompt_id"], row["generation"]))) not in seen:
                    seen.add(key)
                    yield row
                elif on_damage is not None:
                    on_damage(told or f"{shard}: damaged (generation {row['generation']} of {row['prompt_id']} twice)")

    def generations_by_sample(self) -> ShardIndex:
        """Where the generations of every sample are, to be read one sample after the other."""
        return ShardIndex(self._shards(), "sample")

    def _shards(self) -> list[Path]:
        return sorted((self.path / "generations").glob("*.jsonl"))

    def scores(self, wanted: Callable[[str], bool] | None = None) -> pd.DataFrame:
        """One row per generation, see :mod:`leakmech.scoring.records`; of the columns those that are `wanted`."""
        import pandas as pd  # here, since both take long to import
        import pyarrow.parquet as pq

        with self._whole_scores() as file:
            columns = None if wanted is None else list(filter(wanted, pq.read_schema(file).names))
            # Every thread keeps memory of its own, three times what the table needs.
            found = pd.read_parquet(file, columns=columns, use_threads=False, pre_buffer=False)
        give_back()
        return found

    @contextmanager
    def _whole_scores(self) -> Iterator[Path]:
        """Yield the file of the scores; RunDirectoryError says what is wrong with them and how to make them again."""
        import pyarrow as pa  # here, since it takes long to import

        try:
            found = file_hash(self.scores_file)
            if found != self.checksums().get(self.scores_file.name, found):
                raise ValueError("its checksum is another one")
            yield self.scores_file
        except (OSError, ValueError, pa.ArrowException) as error:
            again = RunRecord.read(self.path).how_to_continue()
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise RunDirectoryError(
                f"{self.scores_file}: missing or damaged ({reason}); make it again with: {again}"
            ) from error

    def checksums(self) -> dict[str, str]:
        """Hashes of the files that are derived from others; runs of older versions have none."""
        file = self.path / CHECKSUMS
        return read_json(file) if file.exists() else {}

    def note_checksums(self, summary: Mapping[str, Any]) -> None:
        """Write the hashes of the files that are derived from others, and of the summary, which is written next."""
        found = [file for pattern in _DERIVED for file in sorted(self.path.glob(pattern)) if file.is_file()]
        hashes = {file.relative_to(self.path).as_posix(): file_hash(file) for file in found}
        hashes[self.summary_file.name] = content_hash(utf8(json_text(summary)))
        write_json(self.path / CHECKSUMS, hashes)

    def damaged(self) -> str | None:
        """What is wrong with what a complete run derived from its other files; None where all is sound."""
        import pyarrow.parquet as pq  # here, since it takes long to import

        try:
            read_json(self.summary_file)
            for name, expected in self.checksums().items():
                if name != self.scores_file.name:
                    refuse_changed(self.path / name, expected)
            if RunRecord.read(self.path).kind == "bench":
                with self._whole_scores() as file:
                    pq.read_metadata(file)
        except RunDirectoryError as error:
            return str(error)
        return None

    def refuse_damaged(self, file: Path) -> None:
        """Refuse one derived file that is not what was written; RunDirectoryError says how to make it again."""
        expected = self.checksums().get(file.relative_to(self.path).as_posix())
        if expected is None:
            return
        try:
            refuse_changed(file, expected)
        except RunDirectoryError as error:
            again = RunRecord.read(self.path).how_to_continue()
            raise RunDirectoryError(f"{error}; make it again with: {again}") from error


@dataclass(frozen=True)
class RunRecord:
    """What ``run.json`` in the run directory `path` says: how a run was made."""

    path: Path
    values: Mapping[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> RunRecord:
        """The record of the run in `path`; RunDirectoryError if there is no run."""
        found = cls.find(path)
        if found is None:
            raise RunDirectoryError(f"{path}: is not a leakmech run (it has no {RUN_FILE})")
        return found

    @classmethod
    def find(cls, path: str | Path) -> RunRecord | None:
        """The record of the run in `path`, if there is a run."""
        file = Path(path) / RUN_FILE
        return cls(Path(path), _with_shape(file, read_json(file))) if file.exists() else None

    @property
    def kind(self) -> str:
        """What its results are: bench, diagnose, mitigate, train."""
        return self.values.get("kind", "bench")

    @property
    def command(self) -> str:
        """What made it."""
        return self.values.get("command", "bench")

    @property
    def config(self) -> dict[str, Any]:
        """The settings that decide its numbers.

        Whether code that comes with a model is run is never among them: it is for the user to say, not for a file.
        """
        if "config" not in self.values:
            raise RunDirectoryError(f"{self.path / RUN_FILE}: damaged ('config' is missing)")
        return {name: value for name, value in self.values["config"].items() if name != "trust_remote_code"}

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Hashes of what the settings name."""
        return self.values.get("fingerprint", {})

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, git state and machine of its beginning."""
        return self.values.get("environment", {})

    def fact(self, name: str, default: Any = None) -> Any:
        """Anything else that was noted about it."""
        return self.values.get(name, default)

    def how_to_continue(self) -> str:
        """What a user types or does to go on with an unfinished run."""
        if self.fact(SCRIPT) or "_" in self.command:  # a function; names of commands have hyphens
            return "the same call"
        return shlex.join(["leakmech", *self.command.split(), "--out", str(self.path)])


def began(path: str | Path) -> str | None:
    """When the run in `path` began (ISO 8601), if there is one that says so."""
    record = RunRecord.find(path)
    return None if record is None else record.environment.get("date")


def _with_shape(file: Path, values: dict[str, Any]) -> dict[str, Any]:
    """What a ``run.json`` holds, if its entries are of the kinds that are written there."""
    wrong = [name for name, kind in _SHAPE.items() if not isinstance(values.get(name, kind()), kind)]
    if wrong:
        raise RunDirectoryError(f"{file}: damaged ({wrong[0]!r} is of another kind)")
    if not _SHAPE.keys() & values.keys():
        raise RunDirectoryError(f"{file}: damaged ('config' is missing)")
    return values


def stored_settings(path: str | Path, *, command: str = "bench") -> dict[str, Any]:
    """The settings of the run in `path`, so that naming a run is enough to continue it; none if there is no run.

    A run of another command is refused with a RunDirectoryError.
    """
    record = RunRecord.find(path)
    if record is None:
        return {}
    if record.command != command:
        scored = (record.command, command) == ("score", "bench")
        hint = "which has no model to continue with" if scored else "choose another --out"
        raise RunDirectoryError(f"{path}: holds a run of `leakmech {record.command}`, {hint}")
    dtype = record.fingerprint.get("dtype") or record.fact("dtype")
    return record.config | ({"dtype": dtype} if dtype else {})
