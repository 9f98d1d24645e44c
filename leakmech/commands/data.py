"""Commands that check and build data sets: ``leakmech data …``."""

from __future__ import annotations

from typing import Annotated

import typer

from leakmech.commands.console import complain, out


def check(
    file: Annotated[str, typer.Argument(help="Data set file, or a built-in name.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts tokens; default: the embedded model.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="Expression estimator.")] = "embedded",
) -> None:
    """Check a data set: lengths, duplicates, class of every injection, similarity of injection and stem."""
    from leakmech.data_check import check_dataset

    found = check_dataset(file, tokenizer=tokenizer, estimator=estimator)
    for table in found.tables():
        out.print(table.to_rich())
    for warning in found.warnings:
        complain(f"warning: {warning}")
    for problem in found.problems:
        complain(f"leakmech: {problem}")
    raise typer.Exit(1 if found.problems else 0)
