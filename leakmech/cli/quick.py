"""The command that shows leakage at a glance: quick."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console
from leakmech.cli.options import ConfigOption, Given, takes


@takes("leakmech.studies.quick.settings:QuickConfig")
def quick(
    given: Given,
    stem: Annotated[str, typer.Argument(help="Text to be completed, such as: The garden next door looks")],
    config: ConfigOption = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the answers: PNG, PDF and CSV under this name.")
    ] = None,
) -> None:
    """See in seconds whether charged sentences before a stem colour the answers."""
    from leakmech.core.progress import rich_progress
    from leakmech.studies.quick.run import quick as run

    result = run(stem, progress=rich_progress, **given.over(config=config))
    console.print(result.to_text(width=console.width if sys.stdout.isatty() else None))
    for table in result.tables():
        console.print(table.to_rich())
    if figure is not None:
        result.plot(figure)
        console.print(f"figure: {figure.with_suffix('.png')}")
    console.print(result.headline)
