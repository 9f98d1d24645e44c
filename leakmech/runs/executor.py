"""Where the cells of a sweep run: processes of this machine, each on its slot; the only place that starts any.

A job is a command line whose results lie in files: it can be killed at any moment and started again. A slot is a number
of threads and perhaps a device, and one job runs on it at a time. Correctness comes from the files and the locks of run
directories, never from the order in which jobs run. A job whose directory another process holds is left to that one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from leakmech.core.errors import RunDirectoryError
from leakmech.runs.lock import refuse_in_use

Ended = Literal["done", "failed", "busy"]
_POLL = 0.1
_PATIENCE = 120.0
"""Seconds in which an interrupted job may save what it has."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Job:
    """A command line, the run directory that it fills, and the file that its output goes to."""

    key: str
    words: tuple[str, ...]
    folder: Path
    log: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `told` is the last line of its output."""

    job: Job
    ended: Ended
    code: int | None
    seconds: float
    told: str = ""


@dataclass(frozen=True)
class Slot:
    """What one job has for itself."""

    threads: int
    device: str | None = None
    """Number of a CUDA device, or None for what the job takes by itself."""

    def environment(self) -> dict[str, str]:
        """The environment of a job on it."""
        own = dict.fromkeys(_THREADS, str(self.threads))
        return {**os.environ, **own, **({"CUDA_VISIBLE_DEVICES": self.device} if self.device is not None else {})}


@dataclass(frozen=True)
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float


def run_local(jobs: Sequence[Job], slots: Sequence[Slot]) -> Iterator[Outcome]:
    """Run `jobs` on `slots` and yield how each ended, as they end.

    An interruption of the caller is passed on to the jobs, which are waited for: what they have is saved.
    """
    waiting, running = deque(jobs), dict[int, _Running]()
    try:
        while waiting or running:
            for place, slot in enumerate(slots):
                while place not in running and waiting:
                    job = waiting.popleft()
                    if _held(job.folder):
                        yield Outcome(job, "busy", None, 0.0, "another process makes it")
                    else:
                        running[place] = _start(job, slot)
            for place, own in list(running.items()):
                code = own.process.poll()
                if code is not None:
                    del running[place]
                    yield _outcome(own, code)
            if running:
                time.sleep(_POLL)
    finally:
        _stop(running)


def _held(folder: Path) -> bool:
    try:
        refuse_in_use(folder)
    except RunDirectoryError:
        return True
    return False


def _start(job: Job, slot: Slot) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        process = subprocess.Popen(
            job.words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=slot.environment(),
            start_new_session=True,  # an interruption reaches it once, from here
        )  # fmt: skip
    return _Running(job, process, time.monotonic())


def _outcome(own: _Running, code: int) -> Outcome:
    seconds = time.monotonic() - own.began
    return Outcome(own.job, "failed" if code else "done", code, seconds, last_line(own.job.log) if code else "")


def last_line(log: Path) -> str:
    """The last line with words of a job's output."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _stop(running: Mapping[int, _Running]) -> None:
    for own in running.values():
        if own.process.poll() is None:
            own.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + _PATIENCE
    for own in running.values():
        try:
            own.process.wait(max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            own.process.kill()
