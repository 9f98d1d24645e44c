"""Commands that train adapters: train-lora, merge-lora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console
from leakmech.cli.console import print_tables
from leakmech.cli.options import ConfigFile, Given, takes


@takes("leakmech.training.settings:LoraTrainingConfig")
def train(
    given: Given,
    out: Annotated[Path, typer.Option(help="Folder of the adapter; one that holds this training is continued.")],
    config: ConfigFile = None,
) -> None:
    """Train a LoRA adapter against leakage; continues the training in --out if there is one."""
    from leakmech.core.progress import rich_progress
    from leakmech.core.terminal import say
    from leakmech.studies.lora.run import train_lora

    chosen = given.settings.parse(given.over(out=out, config=config), where=str(config or "train-lora"))
    result = train_lora(chosen, out, progress=rich_progress, say=say)
    print_tables(result)
    console.print(f"report: {result.report()}")
    console.print(f"adapter: {result.path}")


def merge(
    adapter: Annotated[str, typer.Argument(help="Folder or hub id of a PEFT adapter.")],
    out: Annotated[Path, typer.Option(help="New folder for the merged model.")],
    base: Annotated[str | None, typer.Option(help="Base model; default: the one that the adapter names.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16 of the merged weights.")] = "float32",
) -> None:
    """Write base model and adapter as one plain model."""
    from leakmech.studies.lora.merging import merge_lora

    console.print(f"model: {merge_lora(adapter, out, base=base, dtype=dtype)}")
