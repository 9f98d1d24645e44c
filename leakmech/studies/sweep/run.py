"""``leakmech sweep``: the cells of a grid, each a run of its own, on the slots of this machine.

    sweep.json           the study, the axes, and how many threads a worker has
    settings/<key>.yaml  what a cell is run with
    cells/<key>/         its run directory, as its own command makes it
    logs/<key>.log       what it printed
    failed/<key>.json    how it failed; --retry-failed tries it again
    tables/sweep.csv     main numbers of the finished cells

A cell that fails does not stop the others. What is finished is not made again, by whichever process it was made;
several sweeps may share a directory, and each leaves to the other what the other is making.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import read_json, write_json, write_text
from leakmech.reports.tables import Table
from leakmech.runs.directory import RunDirectory, RunRecord
from leakmech.runs.executor import Job, Outcome, Slot, run_local
from leakmech.runs.interrupt import interruptible
from leakmech.studies.sweep.result import SWEEP_FILE, SweepResult, save_table
from leakmech.studies.sweep.spec import Cell, Sweep, read_sweep

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Places:
    """Where things lie in the directory of a sweep."""

    root: Path

    def run(self, cell: Cell) -> Path:
        return self.root / "cells" / cell.key

    def settings(self, cell: Cell) -> Path:
        return self.root / "settings" / f"{cell.key}.yaml"

    def failure(self, cell: Cell) -> Path:
        return self.root / "failed" / f"{cell.key}.json"

    def is_done(self, cell: Cell) -> bool:
        return RunDirectory(self.run(cell)).is_complete()


def sweep(
    config: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    devices: Sequence[str] = (),
    retry_failed: bool = False,
    progress: Progress = no_progress,
    say: Callable[[str], None] | None = None,
) -> SweepResult:
    """Run the cells of a sweep, or those that are missing in `out`.

    Parameters
    ----------
    config
        A YAML file (:mod:`leakmech.studies.sweep.spec`).
    out
        Its directory. A sweep that is there is continued, also with a larger grid.
    workers
        Processes at a time; by default one, or one for each device.
    threads
        Threads of a worker, on which float32 results depend in their last digits; by default the processors divided by
        the workers, the first time, and then what that was.
    devices
        Numbers of CUDA devices, one for each worker.
    retry_failed
        Also run cells that failed before.
    progress, say
        Where to report progress, and lines about cells.

    Returns
    -------
    SweepResult
        ``.cells`` (state of each), ``.table("sweep")``, ``.to_markdown()``.

    Raises
    ------
    UsageError
        The file is wrong, or `out` holds a sweep of another study or with another number of threads.
    InterruptedRunError
        Ctrl-C or SIGTERM; cells have saved what they had, and the same call goes on.
    """
    found, places = read_sweep(config), Places(Path(out))
    n_workers = workers or len(devices) or 1
    if n_workers < 1 or (threads is not None and threads < 1):
        raise ConfigError("sweep: give one worker and one thread, or more")
    if devices and len(devices) != n_workers:
        raise ConfigError(f"sweep: {n_workers} workers and {len(devices)} devices; give each worker one")
    n_threads = _begun(places, found, threads or max(1, (os.cpu_count() or 1) // n_workers), given=threads is not None)
    slots = [Slot(n_threads, devices[n] if devices else None) for n in range(n_workers)]
    todo = [cell for cell in found.cells if not places.is_done(cell)]
    skipped = [] if retry_failed else [cell for cell in todo if places.failure(cell).exists()]
    jobs = [_job(places, found, cell) for cell in todo if cell not in skipped]
    with interruptible(places.root, lambda: "finished cells are saved", f"leakmech sweep {config} --out {out}"):
        _run(places, found, jobs, slots, progress, say or (lambda _: None))
    save_table(places.root, found)
    return SweepResult.load(places.root)


def sweep_plan(config: str | Path, out: str | Path | None = None) -> Table:
    """The cells of a sweep and what is done of them; nothing is written."""
    found = read_sweep(config)
    places = Places(Path(out)) if out is not None else None
    rows = [(cell.key, *(str(cell.differs[axis]) for axis in found.axes), _state(places, cell)) for cell in found.cells]
    done = [cell for cell in found.cells if places is not None and places.is_done(cell)]
    times = [read_json(places.run(cell) / "summary.json").get("timing", {}).get("total_s") for cell in done if places]
    known = [float(own) for own in times if own]
    left = len(found.cells) - len(done)
    notes = [f"{len(found.cells)} cells of `leakmech {found.study}`, {len(done)} done, {left} left"]
    if known and left:
        minutes = left * sum(known) / len(known) / 60
        notes.append(f"about {minutes:.0f} minutes of one worker, by the {len(known)} that are done")
    return Table("Cells of the sweep", ("cell", *found.axes, "state"), rows, notes)


def _state(places: Places | None, cell: Cell) -> str:
    if places is None:
        return "to do"
    if places.is_done(cell):
        return "done"
    if places.failure(cell).exists():
        return "failed"
    return "begun" if RunRecord.find(places.run(cell)) is not None else "to do"


def _begun(places: Places, found: Sweep, threads: int, *, given: bool) -> int:
    """Write ``sweep.json``, or check the one that is there; return the threads of a worker."""
    file = places.root / SWEEP_FILE
    if file.exists():
        record = read_json(file)
        if record["study"] != found.study:
            raise RunDirectoryError(
                f"{places.root}: holds a sweep of `leakmech {record['study']}`; choose another --out"
            )
        if given and record["threads"] != threads:
            raise RunDirectoryError(
                f"{places.root}: its workers have {record['threads']} threads, on which results depend; choose another "
                "--out for another number"
            )
        threads = record["threads"]
    elif places.root.exists() and any(places.root.iterdir()):
        raise RunDirectoryError(f"{places.root}: is not empty and holds no sweep; choose another --out")
    cells = {cell.key: dict(cell.differs) for cell in found.cells}
    known = read_json(file)["cells"] if file.exists() else {}
    write_json(
        file, {"format_version": FORMAT_VERSION, "study": found.study, "axes": list(found.axes), "threads": threads,
               "cells": known | cells},
    )  # fmt: skip
    return threads


def _job(places: Places, found: Sweep, cell: Cell) -> Job:
    file = places.settings(cell)
    write_text(file, yaml.safe_dump(dict(cell.values), sort_keys=True, allow_unicode=True))
    words = (sys.executable, "-m", "leakmech", *found.study.split(), str(file), "--out", str(places.run(cell)))
    return Job(cell.key, words, places.run(cell), places.root / "logs" / f"{cell.key}.log")


def _run(
    places: Places,
    found: Sweep,
    jobs: Sequence[Job],
    slots: Sequence[Slot],
    progress: Progress,
    say: Callable[[str], None],
) -> None:
    by_key = {cell.key: cell for cell in found.cells}
    with progress("cells", total=len(found.cells), done=len(found.cells) - len(jobs)) as advance:
        for own in run_local(jobs, slots):
            _note(places, by_key[own.job.key], own)
            say(_said(by_key[own.job.key], own))
            advance(1)


def _note(places: Places, cell: Cell, own: Outcome) -> None:
    file = places.failure(cell)
    if own.ended == "failed":
        write_json(
            file, {"code": own.code, "told": own.told, "seconds": round(own.seconds, 1), "log": own.job.log.name}
        )
    elif own.ended == "done":
        file.unlink(missing_ok=True)


def _said(cell: Cell, own: Outcome) -> str:
    name = cell.name or cell.key
    if own.ended == "done":
        return f"{name}: done in {own.seconds:.0f} s"
    return f"{name}: {own.ended}: {own.told}" + (f" (log: {own.job.log})" if own.ended == "failed" else "")
