"""Commands about benchmark runs: bench, score, show, samples, report, compare, power."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leakmech.cli.console import out as console
from leakmech.cli.console import print_headline, print_tables
from leakmech.cli.options import ConfigFile, ConfigOption, Given, Report, takes

if TYPE_CHECKING:
    from leakmech.runs.result import Result


@takes("leakmech.studies.benchmark.settings:BenchConfig")
def bench(
    given: Given,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; one that holds this run is continued.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show neither progress nor interim estimates.")] = False,
    report: Report = True,
) -> None:
    """Measure expression leakage of a model; continues the run in --out if there is one."""
    from leakmech.core.progress import no_progress, rich_progress
    from leakmech.core.terminal import say
    from leakmech.studies.benchmark.reopen import finished_run

    heard: dict[str, Any] = {"progress": no_progress} if quiet else {"progress": rich_progress, "interim": say}
    settings = given.over(out=out, config=config)
    result = finished_run(settings, out)
    if result is None:
        from leakmech.studies.benchmark.run import bench as run  # here: it takes seconds to import

        result = run(out=out, **heard, **settings)
    _present(result, report)


@takes("leakmech.studies.benchmark.settings:ScoreConfig")
def score(
    given: Given,
    source: Annotated[
        Path | None,
        typer.Argument(help="JSONL or CSV file of generations, or the directory of a run; default: that of --out."),
    ] = None,
    config: ConfigOption = None,
    column: Annotated[
        list[str] | None, typer.Option(help="What the file calls a field: text=completion. Can be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; one that holds this run is continued.")] = None,
    report: Report = True,
) -> None:
    """Score texts that were generated elsewhere, or the texts of a run once more; continues the run in --out."""
    from leakmech.core.progress import rich_progress
    from leakmech.studies.benchmark.external import parse_columns
    from leakmech.studies.benchmark.reopen import Rescoring

    settings, columns = given.over(out=out, config=config), parse_columns(column or ())
    result = Rescoring.of(source, out=out, columns=columns, settings=settings).as_it_was()
    if result is None:
        from leakmech.studies.benchmark.rescoring import score as run  # here: it takes seconds to import

        result = run(source, out=out, columns=columns, progress=rich_progress, **settings)
    _present(result, report)


def show(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Print the tables of a finished run."""
    from leakmech.studies.results import load_result

    result = load_result(run)
    print_tables(result)
    print_headline(result)


def samples(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples to show.", min=1)] = 5,
    sample: Annotated[str | None, typer.Option(help="Show this sample only.")] = None,
    generation: Annotated[int, typer.Option(help="Index of the generation to show.", min=0)] = 0,
    whole: Annotated[bool, typer.Option("--whole", help="Show all that the model wrote, reasoning included.")] = False,
) -> None:
    """Print example generations side by side: control, positive, neutral, negative."""
    from leakmech.runs.directory import RunRecord

    RunRecord.read(run)  # what is no run is said before what draws tables is loaded
    from leakmech.reports.examples import examples_table

    for table in examples_table(run, number=number, sample=sample, generation=generation, whole=whole):
        console.print(table)


def report(
    run: Annotated[list[Path], typer.Argument(help="Directory of a run or a sweep; or several, or files of results.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page about several; default: index.html beside them.")
    ] = None,
) -> None:
    """Write a self-contained HTML page about a finished run or a sweep, or one page about several runs."""
    from leakmech.core.progress import rich_progress
    from leakmech.studies.results import report as write

    console.print(f"report: {write(run, out, progress=rich_progress)}")


@takes("leakmech.studies.benchmark.settings:CompareConfig")
def compare(
    given: Given,
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories; or sweeps and files of results.", metavar="RUN RUN…")
    ],
    config: ConfigOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the numbers, the table, a forest plot and a page.")
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="File for the results of all runs (.jsonl), for others to compare theirs with."),
    ] = None,
) -> None:
    """Compare finished runs over the same samples, all cells of a sweep, or studies over the same events."""
    from leakmech.core.progress import rich_progress
    from leakmech.studies.results import compare as run

    found = run(runs, export=export, progress=rich_progress, **given.over(config=config))
    from leakmech.studies.leaderboard.result import Leaderboard  # a mistake is told before what draws is loaded

    tables = found.tables() if isinstance(found, Leaderboard) else [found.to_table()]
    for table in tables:
        console.print(table.to_rich())
    if out:
        console.print(f"comparison: {found.save(out)}")
    if export:
        console.print(f"results: {export}")


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
    more: dict[str, Any] = {} if shared is None else {"shared": shared}
    found = compute(
        effect,
        samples=samples,
        generations=generations,
        run=run,
        against=question,
        alpha=alpha,
        **more,
    )
    console.print(found.to_table().to_rich())


def _present(result: Result, report: bool) -> None:
    """Print what a command that makes a run ends with."""
    print_tables(result)
    if report:
        console.print(f"report: {result.report()}")
    console.print(f"run: {result.path}")
    print_headline(result)
