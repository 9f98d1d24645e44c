"""Ctrl-C and SIGTERM end a run in the same way: one message that says what is saved and how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from leakmech.core.errors import InterruptedRunError


@contextmanager
def interruptible(where: object, saved: Callable[[], str], how_to_continue: str) -> Iterator[None]:
    """Turn an interruption of the block, or of a run inside it, into one InterruptedRunError.

    `saved` is called after an interruption and says what is on disk. Of a block inside another one of the same run, the
    inner one says it; of another run inside this one, this one does.
    SIGTERM interrupts as Ctrl-C does, unless the program has its own handler for it or this is not the main thread,
    where Python delivers no signals.
    """
    try:
        with sigterm_interrupts():
            yield
    except (KeyboardInterrupt, InterruptedRunError) as error:
        if isinstance(error, InterruptedRunError) and error.run == str(where):
            raise
        message = f"{where}: interrupted; {saved()}; continue with: {how_to_continue}"
        raise InterruptedRunError(message, run=str(where)) from None


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt in the block, where it is nobody else's and this is the main thread."""
    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except RuntimeError as error:
        # While a class is made, as modules are imported, Python wraps whatever is raised.
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
