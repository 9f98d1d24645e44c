"""A finished benchmark run is opened without what makes one: models and their libraries take seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError, RunDirectoryError, UsageError
from leakmech.runs.directory import RunRecord
from leakmech.runs.run import Run, run_path
from leakmech.runs.sources import SOURCES, is_as_it_was, source_stamps
from leakmech.studies.benchmark.harness_logs import HarnessLog, read_harness_log
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import BenchConfig, ScoreConfig, default_name

# -- of bench --------------------------------------------------------------------------------------------------------


def finished_run(settings: Mapping[str, Any], out: str | Path | None) -> BenchResult | None:
    """The finished run that :func:`leakmech.bench` would return as it is; None if it has something to do.

    Raises
    ------
    UsageError
        A key or value is wrong, or the directory holds another run.
    """
    config = BenchConfig.parse(settings, where="bench")
    path = run_path(out, default_name(config))
    Run.check(path, config)
    return as_it_was(config, path)


def as_it_was(config: BenchConfig, path: Path) -> BenchResult | None:
    """The finished run in `path`, if what its settings name on this machine is as it was then."""
    return BenchResult.load(path) if is_as_it_was(path, source_stamps(config)) else None


# -- of score --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescoring:
    """Which texts are scored, how, and into which run directory."""

    source: Path
    columns: Mapping[str, str]
    """What the source calls a field."""
    scored: BenchResult | None
    """The run that the texts come from, if they come from one."""
    log: HarnessLog | None
    """The log of a harness, if the source is one."""
    config: ScoreConfig
    path: Path
    stamps: Mapping[str, Any]
    """What says whether the texts or what scores them have changed (:mod:`leakmech.runs.sources`)."""

    @classmethod
    def of(
        cls,
        source: str | Path | None,
        *,
        out: str | Path | None,
        columns: Mapping[str, str] | None,
        settings: Mapping[str, Any],
    ) -> Rescoring:
        """Read what is asked for, as :func:`leakmech.score` takes it; UsageError says what is wrong with it."""
        stored = RunRecord.find(out) if out is not None else None
        if stored is not None:
            source, columns = source or stored.fact("source"), columns or stored.fact("columns")
        if source is None:
            raise UsageError("score: name a file of generations or a run, or with --out a run of `leakmech score`")
        source = Path(source)
        if not source.exists():
            raise DatasetError(f"{source}: cannot be read (No such file or directory)")
        scored = BenchResult.load(source) if source.is_dir() else None
        log = read_harness_log(source)
        config = ScoreConfig.parse({**defaults_of(source, scored, log), **settings}, where="score")
        path = run_path(out, f"{source.stem}-scored")
        if scored is not None and path.resolve() == source.resolve():
            raise RunDirectoryError(f"{path}: is the run that is read; choose another --out")
        Run.check(path, config)
        columns = columns or {}
        stamps = source_stamps(config, str(source)) | {f"column {field}": name for field, name in columns.items()}
        return cls(source, columns, scored, log, config, path, stamps)

    def as_it_was(self) -> BenchResult | None:
        """The finished run in `path`, if it was made of the same texts and settings."""
        return BenchResult.load(self.path) if is_as_it_was(self.path, self.stamps) else None

    def facts(self) -> dict[str, Any]:
        """What a run keeps of where its texts came from."""
        return {"source": str(self.source), "columns": dict(self.columns), SOURCES: self.stamps}


def defaults_of(source: Path, scored: BenchResult | None, log: HarnessLog | None = None) -> dict[str, Any]:
    """The settings that scoring shares with the run or log that is scored; of a file, the name of what made it."""
    if scored is None:
        return {"model": source.stem} | (dict(log.settings) if log else {})
    config = scored.record.config
    markers = (config.get("decoding") or {}).get("reasoning_markers")  # where a benchmark has them
    shared = {key: value for key, value in config.items() if key in ScoreConfig.model_fields}
    return shared | ({} if markers is None else {"reasoning_markers": markers})
