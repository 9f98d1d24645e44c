"""Where commands print, and how they read options."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console

out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=120)


def complain(text: str) -> None:
    """Print one line on standard error."""
    print(text, file=sys.stderr)  # noqa: T201


def given(**options: Any) -> dict[str, Any]:
    """The options that were set on the command line."""
    return {key: value for key, value in options.items() if value is not None}
