"""Where commands print."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from leakmech.runs.result import Result

out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=120)


def complain(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def print_tables(result: Result) -> None:
    """Print the main tables of a finished run."""
    for table in result.tables():
        out.print(table.to_rich())
