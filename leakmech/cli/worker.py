"""A process that runs one command line after the other and keeps the model: ``python -m leakmech.cli.worker FD``.

Orders come over the socket FD, each a line of JSON (``words``, ``log``) with a descriptor that claims the job; what the
command prints goes into its log, and its exit code is the answer. :mod:`leakmech.runs.warm` is the other end.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import traceback
from pathlib import Path

from leakmech.cli.app import main
from leakmech.models.kept import keeping_models

_LONGEST = 1 << 20
"""Bytes of an order."""


def serve(connection: socket.socket) -> None:
    """Run what is ordered, until the other end closes the socket or a job is interrupted."""
    with keeping_models():
        while True:
            text, claims, _, _ = socket.recv_fds(connection, _LONGEST, 1)
            if not text:
                return
            order = json.loads(text)
            try:
                code = _run(order["words"], Path(order["log"]))
            finally:
                for claim in claims:
                    os.close(claim)
            connection.sendall(f"{code}\n".encode())


def _run(words: list[str], log: Path) -> int:
    """Run one command line, with its output in `log`; returns its exit code."""
    own = [os.dup(1), os.dup(2)]
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["leakmech", *words]
    try:
        main()
        return 0
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except Exception:  # a process of its own would say as much, and end with 1
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, target in zip(own, (1, 2), strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)
        gc.collect()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
