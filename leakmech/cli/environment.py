"""Commands about the machine: doctor."""

from __future__ import annotations

import typer

from leakmech.cli.console import out


def doctor() -> None:
    """Say what is installed, which hardware is used, and what to do about what is missing."""
    from leakmech.cli.doctor import diagnose_environment

    found = diagnose_environment()
    out.print(found.to_text(), markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.usable else 1)
