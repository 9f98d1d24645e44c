"""The command that tries mitigations and says what each of them costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import given
from leakmech.cli.console import out as console


def mitigate(
    config: Annotated[Path | None, typer.Argument(help="YAML file with settings; options override it.")] = None,
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or embedded:<name>.")] = None,
    diagnosis: Annotated[
        str | None, typer.Option(help="Directory of a finished diagnosis of the model; adapters need none.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Leakage set on which everything is reported.")] = None,
    families: Annotated[str | None, typer.Option(help="Kinds to try, with commas; default: all.")] = None,
    adapter: Annotated[list[str] | None, typer.Option(help="PEFT adapter to judge as well; may be repeated.")] = None,
    intervention: Annotated[
        list[str] | None, typer.Option(help="File of interventions to judge as well; may be repeated.")
    ] = None,
    generations: Annotated[int | None, typer.Option(help="Generations per prompt (K) on the test sets.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N samples of the leakage set.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling, baselines and intervals.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, float16, or auto.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Rows that step together, or auto.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory; one that holds this run goes on, also with more.")
    ] = None,
) -> None:
    """Try mitigations, choose strengths on tune samples, and measure on test samples what each lowers and damages."""
    from leakmech.core.progress import rich_progress
    from leakmech.runs.directory import stored_settings
    from leakmech.runs.settings import read_yaml
    from leakmech.studies.mitigation.report import mitigations_table
    from leakmech.studies.mitigation.run import mitigate as run

    settings = stored_settings(out, command="mitigate") if out else {}
    settings |= read_yaml(config) if config else {}
    more = {"adapters": adapter or (), "interventions": intervention or ()}
    settings |= {key: tuple(dict.fromkeys((*settings.get(key, ()), *paths))) for key, paths in more.items()}
    settings |= given(
        model=model, diagnosis=diagnosis, dataset=dataset, generations=generations, limit=limit, seed=seed,
        families=tuple(name.strip() for name in families.split(",")) if families else None,
        device=device, dtype=dtype, batch_size=batch_size,
    )  # fmt: skip
    result = run(out=out, progress=rich_progress, **settings)
    frame = result.to_frame()
    title = f"Mitigations of {result.summary['model']} on {result.summary['dataset']}"
    console.print(mitigations_table(frame.loc[frame["split"] == "test"], title=title).to_rich())
    console.print(f"table: {result.path / 'tables' / 'mitigations.csv'}")
    console.print(f"report: {result.path / 'report.html'}")
