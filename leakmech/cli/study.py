"""Commands that run a whole study: emotion-circuits, persona-leakage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leakmech.cli.console import out as console
from leakmech.cli.console import print_headline, print_tables
from leakmech.cli.options import ConfigFile, Given, takes

if TYPE_CHECKING:
    from leakmech.reports.tables import Table
    from leakmech.runs.result import Result


Out = Annotated[Path | None, typer.Option(help="Run directory; one that holds this study is continued.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what it would cost, and write nothing.")]


@takes("leakmech.studies.emotion_circuits.settings:EmotionCircuitsConfig")
def emotion_circuits(given: Given, config: ConfigFile = None, out: Out = None, dry_run: DryRun = False) -> None:
    """Find the circuits with which a model expresses six emotions, and what they are worth; continues --out."""
    from leakmech.studies.emotion_circuits.run import emotion_circuits as run
    from leakmech.studies.emotion_circuits.run import study_cost

    _run(run, study_cost, given.over(out=out, config=config), out=out, dry_run=dry_run)


@takes("leakmech.studies.persona_leakage.settings:PersonaLeakageConfig")
def persona_leakage(given: Given, config: ConfigFile = None, out: Out = None, dry_run: DryRun = False) -> None:
    """Teach a persona a behaviour and measure how far it leaks to the others; continues --out."""
    from leakmech.studies.persona_leakage.run import persona_leakage as run
    from leakmech.studies.persona_leakage.run import study_cost

    _run(run, study_cost, given.over(out=out, config=config), out=out, dry_run=dry_run)


def _run(
    run: Callable[..., Result],
    cost: Callable[..., Table],
    settings: Mapping[str, Any],
    *,
    out: Path | None,
    dry_run: bool,
) -> None:
    from leakmech.core.progress import rich_progress
    from leakmech.core.terminal import say

    if dry_run:
        console.print(cost(**settings).to_rich())
        return
    result = run(out=out, progress=rich_progress, say=say, **settings)
    print_tables(result)
    console.print(f"report: {result.path / 'report.html'}")
    console.print(f"run: {result.path}")
    print_headline(result)
