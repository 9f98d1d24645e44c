"""Commands about finished runs and the next ones: compare, power."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from leakmech.cli.console import given
from leakmech.cli.console import out as console


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run directories.", metavar="RUN RUN…")],
    baseline: Annotated[Path | None, typer.Option(help="The run to compare with; default: the first.")] = None,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Compare every pair of runs.")] = False,
    margin: Annotated[
        float | None, typer.Option(help="Also test equivalence: the largest difference in auc_el that is none.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Level of the verdicts.")] = 0.05,
    cleaning: Annotated[str | None, typer.Option(help="echo-free, paper, or raw; default: that of the runs.")] = None,
    any_estimator: Annotated[
        bool, typer.Option("--any-estimator", help="Also compare runs that different estimators scored.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of bootstrap and permutations.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for comparison.json, the table and a forest plot.")] = None,
) -> None:
    """Compare finished runs over the same samples."""
    from leakmech.studies.benchmark.comparison import compare as run

    policy: Any = cleaning
    found = run(
        runs,
        baseline=baseline,
        all_pairs=all_pairs,
        margin=margin,
        alpha=alpha,
        cleaning=policy,
        any_estimator=any_estimator,
        seed=seed,
    )
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
