"""Jobs on a Ray cluster: an actor a slot, which makes jobs as a slot of this machine does.

Ray says only where a job runs. A job is claimed by the process that makes it and lies in files that all nodes see, so
an actor that Ray starts again, on the same node or another, leaves a job to a process that still makes it, or goes on
with what that left. A node gets jobs only if it has the driver's folder under the same path, and if a lock that the
driver holds on a file there holds on the node too.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from leakmech.core.errors import ConfigError
from leakmech.core.store import storage_errors
from leakmech.runs.executor import ASK_AGAIN, LEAKMECH, PATIENCE, Job, Outcome, Slot, run_one, starter_of
from leakmech.runs.lock import try_lock

_REACHABLE = 5.0
"""Seconds in which a head has to answer."""
_ASKED = 1.0
_RETRIES = -1
"""Without end: until a node counts as lost, Ray spends one for each attempt to reach it."""
LOCAL = "local"
"""The address of a cluster that is started for the sweep, on this machine."""


@dataclass(frozen=True)
class Cluster:
    """Where Ray is, and what an actor asks it for beside its threads."""

    address: str = LOCAL
    """``local``, ``auto`` (the cluster of this machine), or HOST:PORT of a head."""
    gpus: float = 0.0
    """GPUs of an actor; Ray chooses them."""


def run_ray(
    jobs: Sequence[Job], slots: Sequence[Slot], cluster: Cluster, *, warm: bool = False
) -> Generator[Outcome, None, None]:
    """Run `jobs` on as many actors as there are `slots`; as :func:`leakmech.runs.executor.run_local`.

    Raises
    ------
    ConfigError
        Ray is not installed, no cluster answers at the address, no node has what a slot needs, or none shares the
        folder and its locks with this process.
    """
    if not jobs:
        return
    ray = _ray()
    _connect(ray, cluster, slots)
    actors: list[Any] = []
    try:
        with _held(jobs[0].claim.parent) as probe:
            maker = ray.remote(_Maker)
            wanted = {"max_restarts": -1, "max_task_retries": _RETRIES, "max_concurrency": 2, "num_gpus": cluster.gpus}
            for slot in slots:
                own = maker.options(**wanted, num_cpus=slot.threads)
                actors.append(own.remote(slot, warm, Path.cwd(), probe))
            yield from _dispatch(ray, actors, jobs)
    finally:
        _release(ray, actors)
        ray.shutdown()


def refuse_unreachable(cluster: Cluster, slots: Sequence[Slot] = ()) -> None:
    """Refuse a cluster that does not answer, or has no node for a slot, before work starts."""
    ray = _ray()
    if cluster.address != LOCAL:
        _connect(ray, cluster, slots)
        ray.shutdown()


def _ray() -> Any:
    try:
        ray = import_module("ray")  # by name, so that type checks need no Ray
    except ImportError as error:
        raise ConfigError("executor ray: Ray is not installed; pip install 'leakmech[ray]'") from error
    return ray


# -- the cluster -----------------------------------------------------------------------------------------------------


def _connect(ray: Any, cluster: Cluster, slots: Sequence[Slot]) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if cluster.address == LOCAL:
        own = {"num_cpus": sum(slot.threads for slot in slots), "include_dashboard": False}
    else:
        own = {}
        if cluster.address != "auto":
            _refuse_silent(cluster.address)
    try:
        with _own_signals():
            ray.init(address=cluster.address, **own, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        where = f"executor ray: no cluster at {cluster.address} ({reason})"
        raise ConfigError(f"{where}; start one: ray start --head") from error
    threads = max((slot.threads for slot in slots), default=0)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= threads and node.get("GPU", 0) >= cluster.gpus for node in nodes):
        ray.shutdown()
        raise ConfigError(
            f"executor ray: no node of {cluster.address} has {threads} CPUs and {cluster.gpus:g} GPUs for a worker; "
            "give fewer (--threads, --gpus)"
        )


def _refuse_silent(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        raise ConfigError(f"executor ray: {address}: give local, auto or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), _REACHABLE).close()
    except OSError as error:
        raise ConfigError(f"executor ray: no Ray head answers at {address} ({error})") from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep what SIGTERM does, which ``ray.init`` makes an exit without a word."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """A file in `folder` that this process holds a lock on, by which nodes see whether locks hold there."""
    probe = folder / f".{socket.gethostname()}-{os.getpid()}.probe"
    with storage_errors(probe):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(probe, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try_lock(descriptor, probe, fcntl.LOCK_EX)
        yield probe
    finally:
        probe.unlink(missing_ok=True)
        os.close(descriptor)


# -- the driver ------------------------------------------------------------------------------------------------------


def _dispatch(ray: Any, actors: list[Any], jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """Give each actor that is there a job, and another when it has made one; those that nothing is left for end.

    So an actor that lost its node finds room on another.
    """
    waiting, claimed, asked = list(reversed(jobs)), list[Job](), time.monotonic()
    idle: dict[Any, Any] = {actor.unfit.remote(): actor for actor in actors}
    busy: dict[Any, tuple[Any, Job]] = {}
    while waiting or claimed or busy:
        if claimed and time.monotonic() - asked > ASK_AGAIN:
            waiting, claimed, asked = waiting + list(reversed(claimed)), [], time.monotonic()
        for reference in _ended(ray, [*busy, *(idle if waiting else ())]):
            if reference in busy:
                actor, job = busy.pop(reference)
                found = _answer(ray, reference, lambda told, job=job: Outcome(job, "failed", told=told))
                if found is None:
                    claimed.append(job)
                if waiting or claimed:
                    idle[actor.unfit.remote()] = actor
                else:
                    actors.remove(actor)
                    _release(ray, [actor])
                if found is not None:
                    yield replace(found, job=job)
            elif waiting:
                actor = idle.pop(reference)
                told = _answer(ray, reference, str)
                if not told:
                    job = waiting.pop()
                    busy[actor.make.remote(job)] = (actor, job)
                    continue
                actors.remove(actor)
                _release(ray, [actor])
                if not actors:
                    raise ConfigError(f"executor ray: {told}")


def _ended(ray: Any, references: list[Any]) -> list[Any]:
    """Those whose answers are there; waits for one."""
    if not references:
        time.sleep(_ASKED)
        return []
    found = ray.wait(references, timeout=_ASKED)[0]
    return ray.wait(references, num_returns=len(references), timeout=0)[0] if found else []


def _answer(ray: Any, reference: Any, failed: Any) -> Any:
    """What an actor answered; what Ray says instead goes through `failed`."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return failed(lines[-1] if lines else type(error).__name__)


def _release(ray: Any, actors: Sequence[Any]) -> None:
    """Let actors save what they have, all at once, and end them; what the cluster has lost is lost."""
    with suppress(Exception):
        ray.wait([actor.stop.remote() for actor in actors], num_returns=len(actors), timeout=PATIENCE)
    for actor in actors:
        with suppress(Exception):
            ray.kill(actor)


# -- the actor -------------------------------------------------------------------------------------------------------


class _Maker:
    """Makes one job at a time, on a node, in the driver's folder."""

    def __init__(self, slot: Slot, warm: bool, folder: Path, probe: Path) -> None:
        self._starter, self._stopped, self._busy = starter_of(slot, warm=warm), threading.Event(), threading.Lock()
        self._folder, self._probe = folder, probe

    def unfit(self) -> str:
        """Why this node cannot make jobs; empty if it can."""
        node = f"node {socket.gethostname()}"
        try:
            os.chdir(self._folder)
            descriptor = os.open(self._probe, os.O_RDWR)
        except OSError as error:
            return f"{node}: {error.filename} is not there ({error.strerror}); all nodes need it under this path"
        try:
            alone = try_lock(descriptor, self._probe, fcntl.LOCK_EX)
        finally:
            os.close(descriptor)
        return f"{node}: locks on {self._probe.parent} do not hold between nodes" if alone else ""

    def make(self, job: Job) -> Outcome | None:
        """Run a job to its end; None if another process has claimed it."""
        with self._busy:
            if told := self.unfit():  # Ray may have brought the actor to another node
                return Outcome(job, "failed", told=told)
            if job.words[1 : len(LEAKMECH)] == LEAKMECH[1:]:
                job = replace(job, words=(sys.executable, *job.words[1:]))
            return run_one(job, self._starter, self._stopped.is_set)

    def stop(self) -> None:
        """Let the job save what it has, and end."""
        self._stopped.set()
        if self._busy.acquire(timeout=PATIENCE):
            self._starter.close()
