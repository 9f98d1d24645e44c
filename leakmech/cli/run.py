"""Commands that make a benchmark run and read it: bench, score, show, samples, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leakmech.cli.console import given
from leakmech.cli.console import out as console

if TYPE_CHECKING:
    from leakmech.runs.directory import BenchResult


def bench(
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings; options override it.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or embedded:<name>.")] = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter folder to put on the model.")] = None,
    intervention: Annotated[str | None, typer.Option(help="File of interventions (.json) to run under.")] = None,
    fold: Annotated[
        bool | None, typer.Option("--fold/--hooks", help="Bake the interventions into the weights, or run hooks.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a hub model.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Built-in name (hexl) or a JSONL / CSV file.")] = None,
    estimator: Annotated[str | None, typer.Option(help="embedded, vader, hub:<id>; several: a,b.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder of mu_L: embedded, hub:<id>, or a folder.")
    ] = None,
    generations: Annotated[int | None, typer.Option(help="Generations per prompt (K).")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the coupled sampling.")] = None,
    arrangement: Annotated[str | None, typer.Option(help="Injection before or after the stem, or twice.")] = None,
    instruction: Annotated[
        str | None, typer.Option(help="none, ignore-irrelevant, self-reminder, …, or any text.")
    ] = None,
    prompt_rewrite: Annotated[
        str | None, typer.Option(help="Rewrite prompts first: self, self-examples, last-sentence, control (oracle), …")
    ] = None,
    contrast: Annotated[
        str | None, typer.Option(help="Contrastive decoding: subtract-context, away-from-context, …")
    ] = None,
    contrast_strength: Annotated[float | None, typer.Option(help="Its strength; 0 is plain decoding.")] = None,
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
    from leakmech.core.progress import rich_progress
    from leakmech.generation.contrast import contrast_settings
    from leakmech.runs.directory import stored_settings
    from leakmech.runs.settings import read_yaml
    from leakmech.studies.benchmark.run import bench as run

    settings = stored_settings(out) if out else {}
    settings |= read_yaml(config) if config else {}
    settings |= given(
        model=model, adapter=adapter, intervention=intervention, fold=fold, revision=revision,
        dataset=dataset, estimator=estimator, encoder=encoder,
        generations=generations, limit=limit, seed=seed, instruction=instruction, prompt_form=prompt_form,
        arrangement=arrangement, cleaning=cleaning, stop_at_first_sentence=first_sentence_stop, device=device,
        dtype=dtype, batch_size=batch_size,
    )  # fmt: skip
    settings |= given(prompt_rewrite=prompt_rewrite)
    if contrast is not None or contrast_strength is not None:
        settings["contrast"] = contrast_settings(settings.get("contrast"), contrast, contrast_strength)
    if system is not None:
        settings["system"] = None if system == "none" else system
    decoding = given(temperature=temperature, max_new_tokens=max_new_tokens)
    if decoding:
        settings["decoding"] = settings.get("decoding", {}) | decoding
    _present(run(out=out, progress=rich_progress, **settings), report)


def score(
    source: Annotated[Path, typer.Argument(help="JSONL or CSV file of generations, or the directory of a run.")],
    config: Annotated[Path | None, typer.Option(help="YAML file with settings; options override it.")] = None,
    dataset: Annotated[str | None, typer.Option(help="What was asked: built-in name, or a JSONL / CSV file.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of what generated the texts, for tables.")] = None,
    estimator: Annotated[str | None, typer.Option(help="embedded, vader, hub:<id>; several: a,b.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Sentence encoder of mu_L: embedded, hub:<id>, or a folder.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N samples.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Instruction of the prompts: none, or its text.")] = None,
    arrangement: Annotated[str | None, typer.Option(help="Injection before or after the stem, or twice.")] = None,
    cleaning: Annotated[str | None, typer.Option(help="Headline policy: echo-free, paper, or raw.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the bootstrap.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="What the file calls a field: text=completion. Can be repeated.")
    ] = None,
    allow_missing: Annotated[
        bool | None, typer.Option("--allow-missing", help="Count missing generations as not scored.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where estimators run: cpu, cuda, mps, or auto.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run directory.")] = None,
    report: Annotated[bool, typer.Option(help="Also write report.html.")] = True,
) -> None:
    """Score texts that were generated elsewhere, or the texts of a run once more."""
    from leakmech.core.progress import rich_progress
    from leakmech.runs.settings import read_yaml
    from leakmech.studies.benchmark.external import parse_columns
    from leakmech.studies.benchmark.rescoring import score as run

    settings = read_yaml(config) if config else {}
    settings |= given(
        dataset=dataset, model=model, estimator=estimator, encoder=encoder, limit=limit, instruction=instruction,
        arrangement=arrangement, cleaning=cleaning, seed=seed, allow_missing=allow_missing, device=device,
    )  # fmt: skip
    _present(run(source, out=out, columns=parse_columns(column or ()), progress=rich_progress, **settings), report)


def show(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Print the tables of a finished run."""
    from leakmech.runs.directory import load_result

    _print_tables(load_result(run))


def samples(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    number: Annotated[int, typer.Option("--number", "-n", help="How many samples to show.", min=1)] = 5,
    sample: Annotated[str | None, typer.Option(help="Show this sample only.")] = None,
    generation: Annotated[int, typer.Option(help="Index of the generation to show.", min=0)] = 0,
) -> None:
    """Print example generations side by side: control, positive, neutral, negative."""
    from leakmech.reports.examples import examples_table

    for table in examples_table(run, number=number, sample=sample, generation=generation):
        console.print(table)


def report(run: Annotated[Path, typer.Argument(help="Run directory.")]) -> None:
    """Write a self-contained HTML page about a finished run."""
    _write_report(run)


def _present(result: BenchResult, report: bool) -> None:
    """Print what a command that makes a run ends with."""
    _print_tables(result)
    if report:
        _write_report(result.path)
    console.print(f"run: {result.path}")


def _print_tables(result: BenchResult) -> None:
    from leakmech.reports.tables import summary_tables

    for table in summary_tables(result.summary):
        console.print(table.to_rich())


def _write_report(run: Path) -> None:
    from leakmech.studies.benchmark.report import write_report

    console.print(f"report: {write_report(run)}")
