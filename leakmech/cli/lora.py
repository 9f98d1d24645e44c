"""Commands that train adapters: train-lora, merge-lora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import given
from leakmech.cli.console import out as console


def train(
    config: Annotated[Path, typer.Argument(help="YAML file with settings; options override it.")],
    out: Annotated[Path, typer.Option(help="Folder of the adapter; one that holds this training is continued.")],
    model: Annotated[str | None, typer.Option(help="Hub id, folder, or embedded:<name>.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of completions, examples, order, adapter and dropout.")] = None,
    rank: Annotated[int | None, typer.Option(help="Of the adapter's matrices.")] = None,
    examples: Annotated[int | None, typer.Option(help="Number of examples; default: as many as there are.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Times that every example is seen.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16, or auto; the adapter is float32.")] = None,
) -> None:
    """Train a LoRA adapter against leakage; continues the training in --out if there is one."""
    from leakmech.core.progress import rich_progress
    from leakmech.runs.settings import read_yaml
    from leakmech.studies.lora.report import adapter_table, loss_figure
    from leakmech.studies.lora.run import train_lora
    from leakmech.training.settings import LoraTrainingConfig

    settings = read_yaml(config) | given(
        model=model, seed=seed, rank=rank, examples=examples, epochs=epochs, device=device, dtype=dtype
    )
    result = train_lora(LoraTrainingConfig.parse(settings, where=str(config)), out, progress=rich_progress)
    loss_figure(result.to_frame(), result.path / "figures" / "loss")
    console.print(adapter_table(result.card).to_rich())
    console.print(f"adapter: {result.path}")


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder or hub id of a PEFT adapter.")],
    out: Annotated[Path, typer.Option(help="New folder for the merged model.")],
    base: Annotated[str | None, typer.Option(help="Base model; default: the one that the adapter names.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16 of the merged weights.")] = "float32",
) -> None:
    """Write base model and adapter as one plain model."""
    from leakmech.studies.lora.run import merge_lora

    console.print(f"model: {merge_lora(adapter, out, base=base, dtype=dtype)}")
