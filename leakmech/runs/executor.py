"""Where the cells of a sweep run: processes of this machine, each on its slot; the only place that starts any.

A job is a command line whose results lie in a run directory: it can be killed at any moment and started again. A slot
is a number of threads and perhaps a device, and one job runs on it at a time. Correctness comes from files and locks,
never from the order in which jobs run: a job holds a claim (a lock on a file that its process inherits) from before it
starts until it ends, however that is. What another driver, or a job of a killed one, has claimed is waited for.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from leakmech.core.store import storage_errors
from leakmech.runs.directory import RunDirectory
from leakmech.runs.lock import try_lock
from leakmech.runs.warm import WarmWorker

Ended = Literal["done", "failed", "interrupted"]
_POLL, ASK_AGAIN = 0.1, 2.0
"""Seconds between looks at the own jobs, and at those that others have claimed."""
PATIENCE = 120.0
"""Seconds in which an interrupted job may save what it has."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_TAIL = 4_000
_INTERRUPTED = ": interrupted; "
LEAKMECH = (sys.executable, "-m", "leakmech")
"""How the words of a job begin that a warm worker can run."""


@dataclass(frozen=True)
class Job:
    """A command line, the run directory that it fills, the file of its output, and that of its claim."""

    key: str
    words: tuple[str, ...]
    folder: Path
    log: Path
    claim: Path
    prepare: Callable[[], None] = field(default=lambda: None, compare=False)
    """Called before it starts."""

    @property
    def is_done(self) -> bool:
        """Whether its run is complete, whoever made it."""
        return RunDirectory(self.folder).is_complete()


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `told` says why, where it failed."""

    job: Job
    ended: Ended
    seconds: float = 0.0
    told: str = ""
    code: int | None = None
    """None where another process made it."""


@dataclass(frozen=True)
class Slot:
    """What one job has for itself."""

    threads: int
    device: str | None = None
    """Number of a CUDA device, or None for what the job takes by itself."""

    def environment(self) -> dict[str, str]:
        """The environment of a job on it."""
        own = dict.fromkeys(_THREADS, str(self.threads)) | {"PYTHONUNBUFFERED": "1"}
        return {**os.environ, **own, **({"CUDA_VISIBLE_DEVICES": self.device} if self.device is not None else {})}


class Process(Protocol):
    """A job that runs: a process of its own, or an order to one that makes several."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def send_signal(self, sig: int, /) -> None: ...
    def wait(self, timeout: float) -> int: ...


@dataclass(frozen=True)
class _Running:
    job: Job
    process: Process
    began: float
    n_before: int
    """Bytes of the log that earlier attempts wrote."""


def run_local(jobs: Sequence[Job], slots: Sequence[Slot], *, warm: bool = False) -> Generator[Outcome, None, None]:
    """Run `jobs` on `slots` and yield how each ended, as they end; what others have claimed is waited for.

    A job is a process of its own; `warm`: a slot has one process for all of its jobs, which keeps the model loaded.

    An interruption of the caller is passed on to the jobs, which are waited for: what they have is saved. A second one
    kills them.
    """
    waiting, claimed, running = list(reversed(jobs)), list[Job](), dict[int, _Running]()
    starters = [starter_of(slot, warm=warm) for slot in slots]
    asked = time.monotonic()
    try:
        while waiting or claimed or running:
            if claimed and time.monotonic() - asked > ASK_AGAIN:
                waiting, claimed, asked = waiting + list(reversed(claimed)), [], time.monotonic()
            for place, starter in enumerate(starters):
                while place not in running and waiting:
                    job = waiting.pop()
                    if job.is_done:
                        yield Outcome(job, "done", told="another process made it")
                    elif (began := _start(job, starter)) is None:
                        claimed.append(job)
                    else:
                        running[place] = began
            for place, own in list(running.items()):
                code = own.process.poll()
                if code is not None:
                    del running[place]
                    yield _outcome(own, code)
            if running or claimed:
                time.sleep(_POLL)
    finally:
        _stop(list(running.values()))
        for starter in starters:
            starter.close()


def run_one(job: Job, starter: Starter, stopped: Callable[[], bool]) -> Outcome | None:
    """Run one job to its end; None if another process has claimed it. Where `stopped` says so, it may save and ends."""
    if job.is_done:
        return Outcome(job, "done", told="another process made it")
    if (running := _start(job, starter)) is None:
        return None
    while (code := running.process.poll()) is None:
        if stopped():
            _stop([running])
        else:
            time.sleep(_POLL)
    return _outcome(running, code)


class Starter(Protocol):
    """Starts jobs on a slot."""

    def start(self, job: Job, claim: int) -> Process: ...
    def close(self) -> None: ...


def starter_of(slot: Slot, *, warm: bool) -> Starter:
    """What starts jobs on `slot`: in a process for each, or in one that keeps the model."""
    return _Warm(slot) if warm else _Cold(slot)


@dataclass(frozen=True)
class _Cold:
    """Starts a process for each job."""

    slot: Slot

    def start(self, job: Job, claim: int) -> Process:
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=self.slot.environment(),
                pass_fds=(claim,),  # held as long as the job lives
                start_new_session=True,  # an interruption reaches it once, from here
            )  # fmt: skip

    def close(self) -> None:
        """Nothing is left."""


@dataclass
class _Warm:
    """Gives jobs to one process, and starts another if that has died."""

    slot: Slot
    worker: WarmWorker | None = None

    def start(self, job: Job, claim: int) -> Process:
        if self.worker is None or not self.worker.alive:
            self.close()
            self.worker = WarmWorker(self.slot.environment())
        return self.worker.order(job.words[len(LEAKMECH) :], job.log, claim)

    def close(self) -> None:
        if self.worker is not None:
            self.worker.dismiss()
            self.worker = None


def _start(job: Job, starter: Starter) -> _Running | None:
    """Start a job; None if another process has claimed it."""
    with storage_errors(job.log):
        for folder in (job.log.parent, job.claim.parent):
            folder.mkdir(parents=True, exist_ok=True)
        claim = os.open(job.claim, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not try_lock(claim, job.claim, fcntl.LOCK_EX):
                return None
            job.prepare()
            job.log.touch()
            n_before = job.log.stat().st_size
            return _Running(job, starter.start(job, claim), time.monotonic(), n_before)
        finally:
            os.close(claim)


def _outcome(own: _Running, code: int) -> Outcome:
    seconds = time.monotonic() - own.began
    if own.job.is_done:
        return Outcome(own.job, "done", seconds, code=code)
    told = f"killed by {signal.Signals(-code).name}" if code < 0 else last_line(own.job.log, own.n_before)
    if code == 0:
        told = "ended without a result"
    return Outcome(own.job, "interrupted" if _INTERRUPTED in told else "failed", seconds, told, code)


def last_line(log: Path, start: int = 0) -> str:
    """The last line with words of what a job wrote after `start`."""
    with log.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _stop(running: Sequence[_Running]) -> None:
    """Let jobs save what they have; kill what does not end, or all if there is another interruption."""
    for own in running:
        if own.process.poll() is None:
            own.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + PATIENCE
    try:
        for own in running:
            own.process.wait(max(end - time.monotonic(), 0.1))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        for own in running:
            if own.process.poll() is None:
                os.killpg(own.process.pid, signal.SIGKILL)
                own.process.wait(PATIENCE)
