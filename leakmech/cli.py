"""The command line: reads options, calls one public function a command, prints what it returns."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from leakmech.errors import LeakmechError, UsageError

if TYPE_CHECKING:
    from leakmech.runs import BenchResult

app = typer.Typer(
    help="Measure, diagnose and mitigate expression leakage in language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Check and build data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")

_out = Console(highlight=False) if sys.stdout.isatty() else Console(highlight=False, width=120)
_state = {"debug": False}


def main() -> None:
    """Run the command line; expected errors become one line on stderr and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except LeakmechError as error:
        if _state["debug"]:
            raise
        print(f"leakmech: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("leakmech: interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(1)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    _state["debug"] = debug


def _given(**options: Any) -> dict[str, Any]:
    """The options that were set on the command line."""
    return {key: value for key, value in options.items() if value is not None}


@app.command()
def bench(
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings; options override it.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or embedded:<name>.")] = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter folder to put on the model.")] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Built-in name (hexl) or a JSONL / CSV file.")] = None,
    estimator: Annotated[str | None, typer.Option(help="embedded, vader, or hub:<id>.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder of mu_L: embedded, hub:<id>, or a folder.")
    ] = None,
    generations: Annotated[int | None, typer.Option(help="Generations per prompt (K).")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the coupled sampling.")] = None,
    instruction: Annotated[str | None, typer.Option(help="none, ignore-irrelevant, or any text.")] = None,
    prompt_form: Annotated[str | None, typer.Option(help="chat, plain, or auto.")] = None,
    system: Annotated[str | None, typer.Option(help="Text of the system role; 'none' leaves it out.")] = None,
    cleaning: Annotated[str | None, typer.Option(help="Headline policy: echo-free, paper, or raw.")] = None,
    temperature: Annotated[float | None, typer.Option(help="Sampling temperature; 0 is greedy.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest generation in tokens.")] = None,
    first_sentence_stop: Annotated[
        bool | None,
        typer.Option("--first-sentence-stop/--full-length", help="End a row when its scored text is complete."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, or auto.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows that step together, or auto.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; one that holds this run is continued.")] = None,
    report: Annotated[bool, typer.Option(help="Also write report.html.")] = True,
) -> None:
    """Measure expression leakage of a model; continues the run in --out if there is one."""
    from leakmech.benchmark import bench as run
    from leakmech.config import read_yaml
    from leakmech.progress import rich_progress
    from leakmech.runs import stored_settings

    settings = stored_settings(out) if out else {}
    settings |= read_yaml(config) if config else {}
    settings |= _given(
        model=model, adapter=adapter, revision=revision, dataset=dataset, estimator=estimator, encoder=encoder,
        generations=generations, limit=limit, seed=seed, instruction=instruction, prompt_form=prompt_form,
        cleaning=cleaning, stop_at_first_sentence=first_sentence_stop, device=device, dtype=dtype,
        batch_size=batch_size,
    )  # fmt: skip
    if system is not None:
        settings["system"] = None if system == "none" else system
    decoding = _given(temperature=temperature, max_new_tokens=max_new_tokens)
    if decoding:
        settings["decoding"] = settings.get("decoding", {}) | decoding
    result = run(out=out, progress=rich_progress, **settings)
    _print_tables(result)
    if report:
        _write_report(result.path)
    _out.print(f"run: {result.path}")


@app.command()
def show(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Print the tables of a finished run."""
    from leakmech.runs import load_result

    _print_tables(load_result(run))


@app.command()
def samples(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples to show.", min=1)] = 5,
    sample: Annotated[str | None, typer.Option(help="Show this sample only.")] = None,
    generation: Annotated[int, typer.Option(help="Index of the generation to show.", min=0)] = 0,
) -> None:
    """Print example generations side by side: control, positive, neutral, negative."""
    from leakmech.reports.examples import examples_table

    for table in examples_table(run, number=number, sample=sample, generation=generation):
        _out.print(table)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Write a self-contained HTML page about a finished run."""
    _write_report(run)


@app.command()
def doctor() -> None:
    """Say what is installed, which hardware is used, and what to do about what is missing."""
    from leakmech.doctor import diagnose_environment

    found = diagnose_environment()
    _out.print(found.to_text(), markup=False, soft_wrap=True)
    raise typer.Exit(0 if found.usable else 1)


@data_app.command("check")
def data_check(
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
        _out.print(table.to_rich())
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)  # noqa: T201
    for problem in found.problems:
        print(f"leakmech: {problem}", file=sys.stderr)  # noqa: T201
    raise typer.Exit(1 if found.problems else 0)


def _print_tables(result: BenchResult) -> None:
    from leakmech.reports.tables import cleaning_table, leakage_table

    _out.print(leakage_table(result.summary).to_rich())
    _out.print(cleaning_table(result.summary).to_rich())


def _write_report(run: Path) -> None:
    from leakmech.reports.page import write_report

    _out.print(f"report: {write_report(run)}")


__all__ = ["UsageError", "app", "main"]
