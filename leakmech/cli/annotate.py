"""Commands that put a run before people: ``leakmech annotate …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console
from leakmech.cli.options import ConfigOption, Given, takes


@takes("leakmech.studies.annotation.settings:ExportConfig")
def export(
    given: Given,
    run: Annotated[Path, typer.Argument(help="Directory of a finished benchmark run.")],
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option(help="New folder; default: annotation in the run.")] = None,
) -> None:
    """Write blinded sheets (CSV and HTML form) of control/test pairs for annotators."""
    from leakmech.studies.annotation.exporting import export_annotation

    found = export_annotation(run, out=out, **given.over(config=config))
    key = found.key
    console.print(
        f"{len(key.items)} of {key.n_available} pairs; {key.n_unscored} more were left out because one of their "
        "sentences is not scored"
    )
    telling = sum(item.names_injection for item in key.items.values())
    console.print(
        f"{telling} of the test sentences have a word of their injection, which may give them away; the import also "
        "reports the pairs without"
    )
    console.print(f"hand out:  {found.path / 'sheets'} (to each annotator one of the two files of their name)")
    console.print(f"keep back: {found.path / 'key.json'} (it says which sentence is which)")
    console.print(f"then: leakmech annotate import {found.path}")


def import_sheets(
    folder: Annotated[Path, typer.Argument(help="Folder of an export.")],
    sheets: Annotated[list[Path] | None, typer.Argument(help="Answered CSV files; default: FOLDER/sheets.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Read answered sheets, check them, and report agreement among people and with the estimator."""
    from leakmech.studies.annotation.importing import import_annotation

    found = import_annotation(folder, sheets=sheets or None, seed=seed)
    for table in found.tables():
        console.print(table.to_rich())
    console.print(f"written: {folder / 'agreement.json'}, {folder / 'tables'}")
