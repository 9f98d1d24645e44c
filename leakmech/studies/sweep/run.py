"""``leakmech sweep``: the cells of a grid, each a run of its own, on the slots of this machine.

    sweep.json           the study, the axes, the cells, and how many threads a worker has
    settings/<key>.yaml  what a cell is run with
    cells/<key>/         its run directory, as its own command makes it
    claims/<key>.lock    held by the process that makes it
    logs/<key>.log       what it printed
    failed/<key>.json    how it failed; --retry-failed tries it again
    tables/sweep.csv     main numbers of the finished cells

A cell that fails does not stop the others. What is finished is not made again, by whichever process it was made;
several sweeps may share a directory, and each waits for what another is making.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.core.progress import Shown, shown_progress
from leakmech.core.store import is_occupied, storage_errors, write_json, write_text
from leakmech.runs.executor import LEAKMECH, Job, Outcome, Slot, run_local
from leakmech.runs.interrupt import interruptible
from leakmech.runs.ray_executor import Cluster, refuse_unreachable, run_ray
from leakmech.runs.sources import changed_sources
from leakmech.studies.sweep.result import SWEEP_FILE, Places, SweepResult, read_record, save_table
from leakmech.studies.sweep.spec import Cell, Sweep, read_sweep

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Workers:
    """How many processes at a time, on which devices, with how many threads."""

    n: int
    threads: int | None
    devices: tuple[str, ...]

    @classmethod
    def of(cls, workers: int | None, threads: int | None, devices: Sequence[str]) -> Workers:
        """Refuse what cannot be."""
        n = len(devices) or 1 if workers is None else workers
        if n < 1 or (threads is not None and threads < 1):
            raise ConfigError("sweep: give one worker and one thread, or more")
        if devices and (len(set(devices)) != n or not all(own.isdigit() for own in devices)):
            raise ConfigError(f"sweep: give each of {n} workers a device of its own, by number (--devices 0,1)")
        return cls(n, threads, tuple(devices))

    def threads_each(self) -> int:
        """Threads of a worker of a new sweep: what was asked for, or its share of the processors."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.n)

    def slots(self, threads: int) -> list[Slot]:
        """One for each worker."""
        return [Slot(threads, self.devices[place] if self.devices else None) for place in range(self.n)]


def sweep(
    config: str | Path,
    out: str | Path,
    *,
    workers: int | None = None,
    threads: int | None = None,
    devices: Sequence[str] = (),
    retry_failed: bool = False,
    keep_model: bool = True,
    cluster: Cluster | None = None,
    progress: Shown = None,
    say: Callable[[str], None] = lambda _: None,
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
    keep_model
        Whether a worker makes its cells in one process, which keeps the model loaded; otherwise each has its own.
    cluster
        A Ray cluster whose actors make the cells, `workers` of them; None: processes of this machine.
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
    progress = shown_progress(progress)
    found, places, asked = read_sweep(config), Places(Path(out)), Workers.of(workers, threads, devices)
    if cluster is not None:
        if devices:
            raise ConfigError("sweep: Ray chooses the devices; say how many GPUs a worker needs (--gpus)")
        refuse_unreachable(cluster, asked.slots(threads or 1))
    slots = asked.slots(_begun(places, found, asked))
    jobs = [
        _job(places, found, cell)
        for cell in found.cells
        if not places.is_done(cell.key) and (retry_failed or not places.failure(cell.key).exists())
    ]
    by_key = {cell.key: cell for cell in found.cells}
    done = (places.run(cell.key) for cell in found.cells if places.is_done(cell.key))
    for name, n in changed_sources(done).items():
        say(f"warning: {name} changed after {n} finished cells were made from it; give it another name, or delete them")
    try:
        with interruptible(places.root, lambda: "finished cells are saved", "the same command"):
            label = progress("cells", total=len(found.cells), done=len(found.cells) - len(jobs))
            with label as advance, closing(_made(jobs, slots, cluster, keep_model)) as outcomes:
                for own in outcomes:
                    _note(places, own)
                    say(_said(by_key[own.job.key], own))
                    advance(1)
    finally:
        save_table(places.root)
    return SweepResult.load(places.root)


def _made(
    jobs: list[Job], slots: list[Slot], cluster: Cluster | None, keep_model: bool
) -> Generator[Outcome, None, None]:
    if cluster is None:
        return run_local(jobs, slots, warm=keep_model)
    return run_ray(jobs, slots, cluster, warm=keep_model)


def _begun(places: Places, found: Sweep, asked: Workers) -> int:
    """Write ``sweep.json``, or take in new cells into the one that is there; return the threads of a worker."""
    root = places.root
    if root.exists() and not root.is_dir():
        raise RunDirectoryError(f"{root}: is a file, not the directory of a sweep")
    if is_occupied(root) and not (root / SWEEP_FILE).exists():
        raise RunDirectoryError(f"{root}: is not empty and holds no sweep; choose another --out")
    with _alone(root):
        known = read_record(root) if (root / SWEEP_FILE).exists() else None
        if known is not None and known["study"] != found.study:
            raise RunDirectoryError(f"{root}: holds a sweep of `leakmech {known['study']}`; choose another --out")
        if known is not None and asked.threads not in (None, known["threads"]):
            raise RunDirectoryError(
                f"{root}: its workers have {known['threads']} threads, on which results depend; choose another --out "
                "for another number"
            )
        threads = known["threads"] if known else asked.threads_each()
        cells: dict[str, Any] = {cell.key: dict(cell.differs) for cell in found.cells}
        former = {**known["former"], **known["cells"]} if known else {}
        write_json(
            root / SWEEP_FILE,
            {"format_version": FORMAT_VERSION, "study": found.study, "axes": list(found.axes), "threads": threads,
             "cells": cells, "former": {key: own for key, own in former.items() if key not in cells}},
        )  # fmt: skip
    return threads


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """One driver at a time writes ``sweep.json``."""
    with storage_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(root / ".sweep.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _job(places: Places, found: Sweep, cell: Cell) -> Job:
    file = places.settings(cell.key)
    words = (*LEAKMECH, *found.study.split(), str(file), "--out", str(places.run(cell.key)))
    return Job(
        cell.key, words, places.run(cell.key), places.log(cell.key), places.claim(cell.key),
        prepare=partial(_prepare, places, cell),
    )  # fmt: skip


def _prepare(places: Places, cell: Cell) -> None:
    write_text(places.settings(cell.key), yaml.safe_dump(dict(cell.values), sort_keys=True, allow_unicode=True))
    places.failure(cell.key).unlink(missing_ok=True)  # it has its chance again


def _note(places: Places, own: Outcome) -> None:
    if own.ended == "failed":
        told = {"code": own.code, "told": own.told, "seconds": round(own.seconds, 1), "log": own.job.log.name}
        write_json(places.failure(own.job.key), told)


def _said(cell: Cell, own: Outcome) -> str:
    if own.ended == "done":
        return f"{cell.name}: " + (own.told or f"done in {own.seconds:.0f} s")
    return f"{cell.name}: {own.ended}: {own.told} (log: {own.job.log})"
