"""Where commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from leakmech.core.terminal import Terminal

if TYPE_CHECKING:
    from leakmech.runs.result import Result

_WHOLE = 10_000
"""Columns of what is no terminal: lines in pipes and files stay whole."""
out = Terminal() if sys.stdout.isatty() else Terminal(width=_WHOLE)


def print_headline(result: Result) -> None:
    """Print what was found as the last line, where a kind of run says it in words."""
    if result.headline:
        out.print(result.headline)


def print_tables(result: Result) -> None:
    """Print the main tables of a finished run."""
    for table in result.tables():
        out.print(table.to_rich())
