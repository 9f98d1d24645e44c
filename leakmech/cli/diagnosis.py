"""Commands that look inside a model: diagnose, directions, attribute."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leakmech.cli.console import out as console
from leakmech.cli.console import print_headline, print_tables
from leakmech.cli.early import refuse_missing, refuse_run
from leakmech.cli.options import ConfigFile, Given, takes

if TYPE_CHECKING:
    from leakmech.models.load import LoadedModel
    from leakmech.prompts.render import Prompting

_MODEL = typer.Option(help="Hub id, folder, or embedded:<name>.")
_FIT = typer.Option(help="Samples on which directions are fitted.")
_TUNE = typer.Option(help="Samples on which layers and components are chosen; default: a part of --fit.")
_DATASET = typer.Option(help="Samples on which everything is reported: hexl, or a file.")
_ADAPTER = typer.Option(help="PEFT adapter folder to put on the model.")
_DEVICE = typer.Option(help="cpu, cuda, mps, or auto.")
_SYSTEM = typer.Option(help="Text of the system role in chat and prefill form; none leaves it out.")
_FORM = typer.Option(help="chat, prefill, plain, or auto: chat if the tokenizer has a template.")
_DTYPE = typer.Option(help="float32, bfloat16, float16, or auto.")


@takes("leakmech.studies.diagnosis.settings:DiagnoseConfig")
def diagnose(
    given: Given,
    config: ConfigFile = None,
    out: Annotated[Path | None, typer.Option(help="Run directory; one that holds this diagnosis is continued.")] = None,
) -> None:
    """Find the layers, heads and neurons that carry leaked affect; continues the diagnosis in --out."""
    from leakmech.core.progress import rich_progress
    from leakmech.core.terminal import say
    from leakmech.studies.diagnosis.run import diagnose as run

    result = run(out=out, progress=rich_progress, say=say, **given.over(out=out, config=config))
    print_tables(result)
    console.print(f"report: {result.path / 'report.html'}")
    console.print(f"run: {result.path}")
    print_headline(result)


def directions(
    fit: Annotated[str, _FIT],
    out: Annotated[Path, typer.Option(help="Folder for the direction and the table.")],
    model: Annotated[str, _MODEL] = "embedded:smollm2-135m-instruct",
    tune: Annotated[str | None, _TUNE] = None,
    dataset: Annotated[str, _DATASET] = "hexl",
    kind: Annotated[str, typer.Option(help="read (from injections) or expressed (from own sentences).")] = "read",
    methods: Annotated[
        str, typer.Option(help="Of difference_of_means, logistic, pca, two_means, das; with commas.")
    ] = "difference_of_means,logistic,pca,two_means",
    layers: Annotated[str | None, typer.Option(help="Layers with commas; default: all.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of fits and baselines.")] = 0,
    adapter: Annotated[str | None, _ADAPTER] = None,
    device: Annotated[str | None, _DEVICE] = None,
    dtype: Annotated[str | None, _DTYPE] = None,
    system: Annotated[str | None, _SYSTEM] = None,
    prompt_form: Annotated[str, _FORM] = "auto",
) -> None:
    """Fit directions of affect, and report how well they separate new samples."""
    refuse_missing(model=model, adapter=adapter, device=device, dtype=dtype, samples=(fit, tune, dataset), out=out)
    refuse_run(out)
    from leakmech.core.progress import rich_progress
    from leakmech.core.tables import write_table
    from leakmech.mechanism.sentiment import sentiment_directions
    from leakmech.studies.diagnosis.tables import directions_table

    fitted = sentiment_directions(
        _load(model, adapter, device, dtype),
        fit=fit,
        tune=tune,
        test=dataset,
        kind=kind,  # pyright: ignore[reportArgumentType] - checked there
        methods=[name.strip() for name in methods.split(",")],
        layers=[_number(text, "--layers") for text in layers.split(",")] if layers else None,
        seed=seed,
        prompting=_prompting(system, prompt_form),
        progress=rich_progress,
    )
    frame = fitted.table.to_frame()
    write_table(out / "tables" / "directions.csv", frame)
    console.print(directions_table(frame).to_rich())
    console.print(f"direction: {fitted.chosen.save(out / 'directions', kind)}")


def attribute(
    out: Annotated[Path, typer.Option(help="Folder for the tables.")],
    direction: Annotated[
        Path | None, typer.Option(help="Saved direction to attribute; without it: the model's own behaviour.")
    ] = None,
    model: Annotated[str, _MODEL] = "embedded:smollm2-135m-instruct",
    dataset: Annotated[str, _DATASET] = "hexl",
    limit: Annotated[int | None, typer.Option(help="Use only the first N samples.")] = None,
    method: Annotated[
        str, typer.Option(help="attribution_patching, graddrop, or integrated_gradients.")
    ] = "attribution_patching",
    side: Annotated[str, typer.Option(help="corrupt (denoising) or clean (noising).")] = "corrupt",
    steps: Annotated[int, typer.Option(help="Steps of integrated gradients.")] = 8,
    top: Annotated[int, typer.Option(help="Heads to print.")] = 20,
    seed: Annotated[int, typer.Option(help="Seed of continuations and the bootstrap.")] = 0,
    adapter: Annotated[str | None, _ADAPTER] = None,
    device: Annotated[str | None, _DEVICE] = None,
    dtype: Annotated[str | None, _DTYPE] = None,
    system: Annotated[str | None, _SYSTEM] = None,
    prompt_form: Annotated[str, _FORM] = "auto",
) -> None:
    """Rank all heads and neurons by how much of the affect shift they carry."""
    refuse_missing(model=model, adapter=adapter, device=device, dtype=dtype, samples=(dataset,), out=out)
    refuse_run(out)
    from leakmech.core.progress import rich_progress
    from leakmech.core.tables import write_table
    from leakmech.datasets.samples import load_dataset
    from leakmech.mechanism.attribution.gradients import attribute as run
    from leakmech.mechanism.directions.direction import load_direction
    from leakmech.studies.diagnosis.tables import heads_table

    target: Any = "behaviour" if direction is None else load_direction(direction)
    found = run(
        _load(model, adapter, device, dtype),
        load_dataset(dataset).take(limit),
        target=target,
        method=method,  # pyright: ignore[reportArgumentType] - checked there
        side=side,  # pyright: ignore[reportArgumentType] - checked there
        steps=steps,
        seed=seed,
        prompting=_prompting(system, prompt_form),
        progress=rich_progress,
    )
    heads = found.heads_frame(intervals=True, seed=seed)
    write_table(out / "tables" / "heads.csv", heads)
    write_table(out / "tables" / "neurons.csv", found.neurons_frame())
    console.print(heads_table(heads, top=top).to_rich())
    console.print(f"tables: {out / 'tables'}")


def _load(model: str, adapter: str | None, device: str | None, dtype: str | None) -> LoadedModel:
    from leakmech.models.load import load_adapter, load_model

    loaded = load_model(model, device=device, dtype=dtype)
    return load_adapter(loaded, adapter) if adapter else loaded


def _prompting(system: str | None, form: str) -> Prompting:
    from leakmech.prompts.render import DEFAULT_SYSTEM, Prompting

    text = DEFAULT_SYSTEM if system is None else None if system == "none" else system
    return Prompting(form, text)  # pyright: ignore[reportArgumentType] - checked there


def _number(text: str, option: str) -> int:
    from leakmech.core.errors import ConfigError
    from leakmech.core.validation import shown, whole_number

    number = whole_number(text.strip())
    if number is None:
        raise ConfigError(f"{option}: give whole numbers with commas, found {shown(text)}")
    return number
