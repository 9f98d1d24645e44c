"""The other end of :mod:`leakmech.cli.worker`: a process a slot that makes job after job and keeps the model loaded."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_WORKER = "leakmech.cli.worker"
_POLL = 0.1


class WarmWorker:
    """A worker, while it is alive."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        own, other = socket.socketpair()
        with other:
            self.process = subprocess.Popen(
                (sys.executable, "-m", _WORKER, str(other.fileno())),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=dict(environment),
                pass_fds=(other.fileno(),), start_new_session=True,
            )  # fmt: skip
        self._socket = own

    @property
    def alive(self) -> bool:
        """Whether it can take an order."""
        return self.process.poll() is None

    def order(self, words: Sequence[str], log: Path, claim: int) -> Order:
        """Let it run a command line; `claim` is held by it until that ends."""
        socket.send_fds(self._socket, [json.dumps({"words": list(words), "log": str(log)}).encode()], [claim])
        return Order(self)

    def answer(self) -> int | None:
        """The exit code of its order, or None while it works; that of the process if it died."""
        self._socket.setblocking(False)
        try:
            text = self._socket.recv(64)
        except BlockingIOError:
            return self.process.poll()
        finally:
            self._socket.setblocking(True)
        return int(text) if text else self.process.wait()

    def dismiss(self) -> None:
        """End it; what it does is finished first."""
        self._socket.close()
        self.process.wait()


class Order:
    """A job of a warm worker, with the methods of a process that the executor uses."""

    def __init__(self, worker: WarmWorker) -> None:
        self._worker, self._code = worker, None

    @property
    def pid(self) -> int:
        """Of the worker."""
        return self._worker.process.pid

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        self._code = self._worker.answer() if self._code is None else self._code
        return self._code

    def send_signal(self, signal: int) -> None:
        """To the worker, whose job it interrupts."""
        self._worker.process.send_signal(signal)

    def wait(self, timeout: float) -> int:
        """Wait for the exit code; TimeoutExpired after `timeout` seconds."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(_WORKER, timeout)
            time.sleep(_POLL)
        return code
