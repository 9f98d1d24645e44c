"""The command that tries mitigations and says what each of them costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console
from leakmech.cli.console import print_headline, print_tables
from leakmech.cli.options import ConfigFile, Given, takes


@takes("leakmech.studies.mitigation.settings:MitigateConfig")
def mitigate(
    given: Given,
    config: ConfigFile = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; one that holds this run goes on, also with more.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and write nothing.")] = False,
    listed: Annotated[
        bool, typer.Option("--list", help="Print the families that can be tried and what each is told; run nothing.")
    ] = False,
) -> None:
    """Try mitigations, choose strengths on tune samples, and measure on test samples what each lowers and damages."""
    if listed:
        from leakmech.studies.mitigation.catalogue import offers_table

        console.print(offers_table().to_rich())
        return
    from leakmech.core.progress import rich_progress
    from leakmech.core.terminal import say
    from leakmech.studies.mitigation.run import mitigate as run
    from leakmech.studies.mitigation.run import mitigation_cost

    if dry_run:
        console.print(mitigation_cost(**given.over(out=out, config=config)).to_rich())
        return
    result = run(out=out, progress=rich_progress, interim=say, **given.over(out=out, config=config))
    print_tables(result)
    console.print(f"table: {result.path / 'tables' / 'mitigations.csv'}")
    console.print(f"report: {result.path / 'report.html'}")
    print_headline(result)
