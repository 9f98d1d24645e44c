"""Progress of long work: a small protocol, and its drawing on a terminal and in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from typing import Protocol, TypeAlias

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

_REDRAWN_AFTER = 0.5
"""Seconds."""


class Progress(Protocol):
    """Opens a bar for `total` steps (None: not known) of which `done` are done; yields a function that advances it."""

    def __call__(
        self, label: str, *, total: int | None, done: int
    ) -> AbstractContextManager[Callable[[int], None]]: ...


@contextmanager
def no_progress(label: str, *, total: int | None, done: int) -> Iterator[Callable[[int], None]]:  # noqa: ARG001 - the protocol
    """Report nothing."""
    yield lambda _: None


Shown: TypeAlias = "Progress | bool | None"
"""What a user says about progress: a function that draws it, True or False; None draws it in a notebook only."""


def shown_progress(given: Shown) -> Progress:
    """The function that draws what a user asked for."""
    if given is None:
        return notebook_progress if in_notebook() else no_progress
    if isinstance(given, bool):
        return (notebook_progress if in_notebook() else rich_progress) if given else no_progress
    return given


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def notebook_progress(label: str, *, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    """One line under the cell, which counts and stays when the work is done."""
    display = import_module("IPython.display").display  # by name, so that type checks need no IPython
    started, state = time.perf_counter(), {"done": done, "told": 0.0}

    def line(seconds: float) -> dict[str, str]:
        return {"text/plain": f"{label}: {state['done']} of {'?' if total is None else total} ({seconds:.0f} s)"}

    shown = display(line(0.0), raw=True, display_id=True)

    def advance(steps: int) -> None:
        state["done"] += steps
        now = time.perf_counter()
        if now - state["told"] > _REDRAWN_AFTER:
            state["told"] = now
            shown.update(line(now - started), raw=True)

    try:
        yield advance
    finally:
        shown.update(line(time.perf_counter() - started), raw=True)


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
