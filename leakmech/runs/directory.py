"""Runs on disk: where the files of a run lie, opening and reading them back, and refusing to mix two runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import RunDirectoryError
from leakmech.core.provenance import environment
from leakmech.core.store import read_json, read_jsonl_shard, write_json
from leakmech.reports.tables import summary_markdown
from leakmech.runs.settings import Settings

FORMAT_VERSION = 1
_SAMPLES = ("dataset", "fit", "tune")
"""Settings that name files of samples, whose content is in the fingerprint."""


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run (design, section 8)."""

    path: Path

    @property
    def run_file(self) -> Path:
        return self.path / "run.json"

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
    def scores_file(self) -> Path:
        return self.path / "scores.parquet"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    def is_complete(self) -> bool:
        return self.summary_file.exists()

    def generations(self) -> Iterator[dict[str, Any]]:
        """All generations on disk; a torn last line of a shard is left out."""
        for shard in sorted((self.path / "generations").glob("*.jsonl")):
            yield from read_jsonl_shard(shard)


@dataclass(frozen=True)
class BenchResult:
    """A finished benchmark run.

    Attributes
    ----------
    path
        The run directory.
    summary
        The content of ``summary.json``.
    """

    path: Path
    summary: Mapping[str, Any]

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per generation, see :mod:`leakmech.scoring.records`."""
        return pd.read_parquet(RunDirectory(self.path).scores_file)

    def to_markdown(self) -> str:
        """The main table."""
        return summary_markdown(self.summary)


def load_result(path: str | Path) -> BenchResult:
    """The result of a finished run.

    Raises
    ------
    RunDirectoryError
        `path` is no run directory, or the run is not finished.
    """
    run = RunDirectory(Path(path))
    if not run.run_file.exists():
        raise RunDirectoryError(f"{path}: is no leakmech run (it has no run.json)")
    if not run.is_complete():
        stored = read_json(run.run_file)
        command = f"score {stored['source']}" if stored.get("command") == "score" else "bench"
        raise RunDirectoryError(f"{path}: is not finished; continue it with: leakmech {command} --out {path}")
    return BenchResult(run.path, read_json(run.summary_file))


def refuse_other_run(run: RunDirectory, config: Settings) -> None:
    """Before anything is loaded: does `run` hold a run with other settings, or no run at all?"""
    if run.path.exists() and not run.path.is_dir():
        raise RunDirectoryError(f"{run.path}: is a file, not a run directory")
    if not run.run_file.exists():
        # Hidden files are temporary ones: a kill before run.json was in place leaves nothing else.
        if run.path.exists() and any(not file.name.startswith(".") for file in run.path.iterdir()):
            raise RunDirectoryError(f"{run.path}: is not empty and holds no leakmech run; choose another --out")
        return
    stored = read_json(run.run_file)
    if stored.get("kind") != config.kind or stored.get("format_version") != FORMAT_VERSION:
        raise RunDirectoryError(f"{run.path}: holds a run of another kind or version; choose another --out")
    command = stored.get("command", "bench")
    if command != config.command:
        raise RunDirectoryError(f"{run.path}: holds a run of `leakmech {command}`; choose another --out")
    wanted = config.identity()
    before = _defaults(config) | stored["config"]  # a setting that is newer than the run had its default
    changed = sorted(key for key in wanted if not _is_same(key, before.get(key), wanted[key]))
    if changed:
        key = changed[0]
        raise RunDirectoryError(
            f"{run.path}: holds a run with other settings ({', '.join(changed)}; {key} is "
            f"{before.get(key)!r} there and {wanted[key]!r} here); choose another --out"
        )


def open_run(run: RunDirectory, config: Settings, fingerprint: Mapping[str, str], **facts: Any) -> None:
    """Write ``run.json``, or check that the directory holds this very run.

    Parameters
    ----------
    run
        Empty, or with a run whose settings are those of `config` (:func:`refuse_other_run`).
    config
        Of the run.
    fingerprint
        Hashes of what settings do not say: weights, data sets, estimators.
    **facts
        What else ``run.json`` tells about a new run.

    Raises
    ------
    RunDirectoryError
        A hash is another one.
    """
    if not run.run_file.exists():
        described = {"config": config.identity(), "fingerprint": dict(fingerprint), **facts}
        head = {"format_version": FORMAT_VERSION, "kind": config.kind, "command": config.command}
        write_json(run.run_file, {**head, **described, "environment": environment()})
        return
    stored = read_json(run.run_file)["fingerprint"]
    changed = [key for key in {**fingerprint, **stored} if stored.get(key) != fingerprint.get(key)]
    if changed:
        raise RunDirectoryError(
            f"{run.path}: holds a run with other {', '.join(changed)}; choose another --out to keep both"
        )


def _is_same(setting: str, one: Any, other: Any) -> bool:
    """Files of samples may lie elsewhere by now, or be named in another way: the fingerprint knows what they hold."""
    if setting in _SAMPLES and isinstance(one, str) and isinstance(other, str):
        return Path(one).name == Path(other).name
    return one == other


def _defaults(config: Settings) -> dict[str, Any]:
    """JSON-ready defaults of every setting that has one."""
    return type(config).model_construct().model_dump(mode="json", warnings=False)


def stored_settings(path: str | Path, *, command: str = "bench") -> dict[str, Any]:
    """The settings of the run in `path`, so that naming a run is enough to continue it; none if there is no run.

    Raises
    ------
    RunDirectoryError
        It is a run of another command.
    """
    run = RunDirectory(Path(path))
    if not run.run_file.exists():
        return {}
    stored = read_json(run.run_file)
    found = stored.get("command", "bench")
    if found != command:
        scored = (found, command) == ("score", "bench")
        hint = "which has no model to continue with" if scored else "choose another --out"
        raise RunDirectoryError(f"{path}: holds a run of `leakmech {found}`, {hint}")
    dtype = stored["fingerprint"].get("dtype")
    return stored["config"] | ({"dtype": dtype} if dtype else {})
