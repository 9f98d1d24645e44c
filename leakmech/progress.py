"""Progress of long work: a small protocol, and its drawing on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
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


class Progress(Protocol):
    """Opens a bar for `total` steps of which `done` are done; yields a function that advances it."""

    def __call__(self, label: str, *, total: int, done: int) -> AbstractContextManager[Callable[[int], None]]: ...


@contextmanager
def no_progress(label: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG001 - the protocol
    """Report nothing."""
    yield lambda _: None


@contextmanager
def rich_progress(label: str, *, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar with count, elapsed and remaining time on stderr; without a terminal, one line every tenth of the way."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        with _lines(console, label, total, done) as advance:
            yield advance
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(label, total=total, completed=done)
        yield lambda steps: bars.advance(task, steps)


@contextmanager
def _lines(console: Console, label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    state = {"done": done, "tenths": done * 10 // max(total, 1)}

    def advance(steps: int) -> None:
        state["done"] += steps
        tenths = state["done"] * 10 // max(total, 1)
        if tenths > state["tenths"]:
            state["tenths"] = tenths
            console.print(f"{label}: {state['done']} of {total}", highlight=False)

    yield advance
