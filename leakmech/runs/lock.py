"""One process a run directory: a lock that goes when its process does, however that ends.

The lock is the kernel's (``flock`` on the file ``.lock`` in the directory), so that a killed process leaves no
lock, on whatever machine the next one runs. What the file holds is only for those who are refused: who has the
directory, and since when.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from leakmech.core.errors import LeakmechWarning, RunDirectoryError, StorageError

LOCK = ".lock"
_ATTEMPTS, _PAUSE = 10, 0.02  # seconds; a directory is often closed and opened again by the same program
_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@dataclass(frozen=True)
class DirectoryLock:
    """A directory that this process holds until :meth:`release`."""

    path: Path
    descriptor: int

    @classmethod
    def acquire(cls, folder: Path, command: str) -> DirectoryLock:
        """Lock `folder`, which is made if it is missing; `command` is what others are told."""
        path = folder / LOCK
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(path)
            os.ftruncate(descriptor, 0)
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": time.time()}
            os.write(descriptor, json.dumps(owner).encode())
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror or error})") from error
        return cls(path, descriptor)

    def release(self) -> None:
        """Let others have the directory."""
        self.path.unlink(missing_ok=True)  # first, so that nobody is found to hold a file that is about to go
        os.close(self.descriptor)


def refuse_in_use(folder: Path) -> None:
    """Raise RunDirectoryError if a process holds `folder`; nothing is written."""
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # there is none, or none that we may read: whoever wants to write will hear of it
        return
    try:
        if not try_lock(descriptor, path, fcntl.LOCK_SH):
            raise RunDirectoryError(_in_use(path))
    finally:
        os.close(descriptor)


def _locked(path: Path) -> int:
    """An open descriptor that holds the lock of the file that is at `path` now."""
    for _ in range(_ATTEMPTS):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if try_lock(descriptor, path, fcntl.LOCK_EX):
            if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
                return descriptor
            os.close(descriptor)  # its owner removed it between our two calls
            continue
        os.close(descriptor)
        time.sleep(_PAUSE)
    raise RunDirectoryError(_in_use(path))


def try_lock(descriptor: int, path: Path, kind: int) -> bool:
    """Lock an open file without waiting; False if another one holds it, True with a warning where nothing can be locked."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        told = f"{path.parent}: its file system has no locks; let one process at a time use it"
        warnings.warn(told, LeakmechWarning, stacklevel=2)
    return True


def _in_use(path: Path) -> str:
    """Who holds the lock, since when, and what to do."""
    try:
        owner = json.loads(path.read_text())
        age = _age(time.time() - owner["since"])
        held = f"process {owner['pid']} on {owner['host']} ({owner['command']}), for {age}"
    except (OSError, ValueError, KeyError, TypeError):  # it has the lock and has not written yet
        held = "another process"
    return f"{path.parent}: is in use by {held}; wait for it, end it, or choose another --out"


def _age(seconds: float) -> str:
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''}"
    return f"{max(0, int(seconds))} seconds"
