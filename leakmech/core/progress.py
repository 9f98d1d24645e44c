"""Progress of long work: a small protocol, and its drawing on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)

from leakmech.core.terminal import Terminal


class Progress(Protocol):
    """Opens a bar for `total` steps (None: not known) of which `done` are done; yields a function that advances it."""

    def __call__(
        self, label: str, *, total: int | None, done: int
    ) -> AbstractContextManager[Callable[[int], None]]: ...


@contextmanager
def no_progress(label: str, *, total: int | None, done: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG001 - the protocol
    """Report nothing."""
    yield lambda _: None


@contextmanager
def rich_progress(label: str, *, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """A bar with count, elapsed and remaining time on stderr; without a terminal, one line every tenth of the way.

    Without a total the lines come each time the count has doubled.
    """
    console = Terminal(stderr=True)
    if not sys.stderr.isatty():
        with _lines(console, label, total, done) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda steps: bars.advance(task, steps)


@contextmanager
def _lines(console: Terminal, label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    state = {"done": done, "marks": _marks(done, total)}

    def advance(steps: int) -> None:
        state["done"] += steps
        marks = _marks(state["done"], total)
        if marks > state["marks"]:
            state["marks"] = marks
            console.print(f"{label}: {state['done']} of {'?' if total is None else total}")

    yield advance


def _marks(done: int, total: int | None) -> int:
    """The number of points passed at which a line is printed."""
    return done.bit_length() if total is None else done * 10 // max(total, 1)
