"""Jobs on a Ray cluster: an actor a slot, which makes jobs as a slot of this machine does.

Ray says only where a job runs. A job is claimed by the process that makes it and lies in files that all nodes see (a
shared file system with locks), so an actor that Ray starts again, on the same node or another, waits for what the job's
process still does, or goes on with what that left.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from leakmech.core.errors import ConfigError
from leakmech.runs.executor import Job, Outcome, Slot, run_one, starter

_REACHABLE = 5.0
"""Seconds in which a head has to answer."""
_ASKED = 1.0
_PATIENCE = 120.0
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
        Ray is not installed, or no cluster answers at the address.
    """
    ray = _ray()
    _connect(ray, cluster, slots)
    actors: list[Any] = []
    try:
        maker = ray.remote(_Maker)
        wanted = {"max_restarts": -1, "max_task_retries": -1, "max_concurrency": 2, "num_gpus": cluster.gpus}
        actors = [maker.options(**wanted, num_cpus=slot.threads).remote(slot, warm) for slot in slots]
        yield from _dispatch(ray, actors, jobs)
    finally:
        for actor in actors:
            _release(ray, actor)
        ray.shutdown()


def refuse_unreachable(cluster: Cluster) -> None:
    """Refuse a cluster that does not answer, before work starts."""
    ray = _ray()
    if cluster.address != LOCAL:
        _connect(ray, cluster)
        ray.shutdown()


def _ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError("executor ray: Ray is not installed; pip install 'leakmech[ray]'") from error
    return ray


def _connect(ray: Any, cluster: Cluster, slots: Sequence[Slot] = ()) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if cluster.address == LOCAL:
        threads = sum(slot.threads for slot in slots)
        ray.init(address=LOCAL, num_cpus=threads, include_dashboard=False, **quiet)
        return
    host, _, port = cluster.address.rpartition(":")
    if cluster.address != "auto":
        if not (host and port.isdigit()):
            raise ConfigError(f"executor ray: {cluster.address}: give local, auto or HOST:PORT")
        try:
            socket.create_connection((host.removeprefix("ray://"), int(port)), _REACHABLE).close()
        except OSError as error:
            raise ConfigError(f"executor ray: no Ray head answers at {cluster.address} ({error})") from error
    try:
        ray.init(address=cluster.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        where = f"executor ray: no cluster at {cluster.address} ({reason})"
        raise ConfigError(f"{where}; start one: ray start --head") from error


def _dispatch(ray: Any, actors: list[Any], jobs: Sequence[Job]) -> Generator[Outcome, None, None]:
    """Give each actor that is there a job, and another when it has made one; those that nothing is left for end.

    So an actor that lost its node finds room on another.
    """
    waiting = list(reversed(jobs))
    idle: dict[Any, Any] = {actor.ping.remote(): actor for actor in actors}
    busy: dict[Any, tuple[Any, Job]] = {}
    while waiting or busy:
        for reference in ray.wait(list(idle), num_returns=len(idle), timeout=0 if busy else _ASKED)[0] if idle else ():
            actor = idle.pop(reference)
            if waiting:
                job = waiting.pop()
                busy[actor.make.remote(job)] = (actor, job)
        for reference in ray.wait(list(busy), timeout=_ASKED)[0] if busy else ():
            actor, job = busy.pop(reference)
            try:
                yield ray.get(reference)
            except ray.exceptions.RayError as error:
                yield Outcome(job, "failed", told=str(error).splitlines()[0])
            if waiting:
                idle[actor.ping.remote()] = actor
            else:
                actors.remove(actor)
                _release(ray, actor)


def _release(ray: Any, actor: Any) -> None:
    """Let an actor save what it has, and end it; what the cluster has lost is lost."""
    with suppress(Exception):
        ray.get(actor.stop.remote(), timeout=_PATIENCE)
    with suppress(Exception):
        ray.kill(actor)


class _Maker:
    """The actor: makes one job at a time."""

    def __init__(self, slot: Slot, warm: bool) -> None:
        self._starter, self._stopped, self._busy = starter(slot, warm=warm), threading.Event(), threading.Lock()

    def ping(self) -> None:
        """It is there."""

    def make(self, job: Job) -> Outcome:
        """Run a job to its end."""
        with self._busy:
            return run_one(job, self._starter, self._stopped.is_set)

    def stop(self) -> None:
        """Let the job save what it has, and end."""
        self._stopped.set()
        end = time.monotonic() + _PATIENCE
        if self._busy.acquire(timeout=end - time.monotonic()):
            self._starter.close()
