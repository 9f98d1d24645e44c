"""Commands about finished runs and the next ones: compare, power."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leakmech.cli.console import given
from leakmech.cli.console import out as console
from leakmech.cli.options import ConfigOption, Given, takes


@takes("leakmech.studies.benchmark.settings:CompareConfig")
def compare(
    given: Given,
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN RUN…")],
    config: ConfigOption = None,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json, the table and a forest plot.")] = None,
) -> None:
    """Compare finished runs over the same samples."""
    from leakmech.studies.benchmark.comparison import compare as run

    found = run(runs, **given.over(config=config))
    console.print(found.to_table().to_rich())
    if out:
        console.print(f"comparison: {found.save(out)}")


def power(
    effect: Annotated[float, typer.Option(help="Difference in auc_el to be seen.")],
    samples: Annotated[int, typer.Option(help="Number of samples.")],
    generations: Annotated[int, typer.Option(help="Generations per prompt (K).")] = 10,
    run: Annotated[
        Path | None, typer.Option(help="Run whose variances are taken; default: one of the embedded model.")
    ] = None,
    against: Annotated[str, typer.Option(help="runs: between two runs; chance: one run against 0.5.")] = "runs",
    shared: Annotated[
        float | None, typer.Option(help="Share of the variance between samples that both runs have in common.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the test.")] = 0.05,
) -> None:
    """Say which effect a number of samples and generations can see."""
    from leakmech.studies.benchmark.power import power as compute

    question: Any = against
    found = compute(
        effect,
        samples=samples,
        generations=generations,
        run=run,
        against=question,
        alpha=alpha,
        **given(shared=shared),
    )
    console.print(found.to_table().to_rich())
