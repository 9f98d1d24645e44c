"""A finished benchmark run is opened without what makes one: models and their libraries take seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leakmech.runs.run import Run, run_path
from leakmech.runs.sources import is_as_it_was, source_stamps
from leakmech.studies.benchmark.result import BenchResult
from leakmech.studies.benchmark.settings import BenchConfig, default_name


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
