"""A command line that cannot be understood, answered in one line that names the way out."""

from __future__ import annotations

import difflib
from typing import Any

import typer

from leakmech.core.terminal import complain, literal

# What click calls UsageError, of whichever click typer brings along.
UsageMistake: Any = typer.BadParameter.__mro__[1]


def told(mistake: Any) -> None:
    """Say on standard error what is wrong; a group that is called without a command shows its help instead."""
    if type(mistake).__name__ == "NoArgsIsHelpError":
        mistake.show()
        return
    complain(one_line(mistake))


def one_line(mistake: Any) -> str:
    """The place, what is wrong there, and the nearest name or where the names are listed."""
    place = mistake.ctx.command_path if mistake.ctx else "leakmech"
    if hasattr(mistake, "possibilities"):
        said = f"no option {literal(mistake.option_name)}{_nearest(mistake.option_name, mistake.ctx.command.params)}"
    else:
        said = " ".join(mistake.format_message().split()).rstrip(".")
        said = (said[:1].lower() + said[1:]).replace(". Did you mean", "; did you mean")
    if said.startswith("no such command") and "did you mean" not in said:
        said += f"; there are {', '.join(mistake.ctx.command.commands)}"
    return f"{place}: {said} (see: {place} --help)"


def _nearest(name: str, params: Any) -> str:
    known = [text for param in params for text in (*param.opts, *param.secondary_opts) if text.startswith("-")]
    match = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
