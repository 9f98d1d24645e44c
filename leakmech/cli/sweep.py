"""``leakmech sweep``: a grid of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console
from leakmech.cli.console import print_tables
from leakmech.cli.options import Report

_EXECUTORS = ("local", "ray")


def sweep(
    config: Annotated[Path, typer.Argument(help="YAML file with study, base and grid.")],
    out: Annotated[Path | None, typer.Option(help="Directory; one that holds this sweep is continued.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes at a time. [default: one, or one a device]")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of a worker; results depend on them in their last digits.")
    ] = None,
    devices: Annotated[str, typer.Option(help="Numbers of CUDA devices, one a worker, such as 0,1.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells, what is done, and what the others cost; write nothing.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Also run cells that failed before.")] = False,
    executor: Annotated[str, typer.Option(help="local (processes here) or ray (actors of a cluster).")] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(help="local (a cluster for this sweep, on this machine), auto, or HOST:PORT. [default: local]"),
    ] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs that a Ray actor asks for. [default: none]")] = None,
    keep_model: Annotated[
        bool, typer.Option("--keep-model/--no-keep-model", help="Make the cells of a worker in one process.")
    ] = True,
    report: Report = True,
) -> None:
    """Run a study over a grid of settings, a run directory for each cell; continues --out."""
    from leakmech.core.errors import ConfigError, nearest
    from leakmech.core.progress import rich_progress
    from leakmech.core.terminal import say
    from leakmech.core.validation import shown
    from leakmech.runs.ray_executor import LOCAL, Cluster
    from leakmech.studies.sweep.cost import sweep_plan
    from leakmech.studies.sweep.run import sweep as run

    named = [part.strip() for part in devices.split(",") if part.strip()]
    if executor not in _EXECUTORS:
        raise ConfigError(f"--executor {shown(executor)}: no such executor{nearest(executor, _EXECUTORS)}")
    for option, value in (("--ray-address", ray_address), ("--gpus", gpus)):
        if value is not None and executor != "ray":
            raise ConfigError(f"{option}: is about a Ray cluster; add --executor ray")
    if dry_run:
        console.print(sweep_plan(config, out, workers=workers, threads=threads, devices=named).to_rich())
        return
    if out is None:
        raise ConfigError("sweep: give a directory (--out)")
    result = run(
        config, out, workers=workers, threads=threads, devices=named, retry_failed=retry_failed, keep_model=keep_model,
        cluster=Cluster(ray_address or LOCAL, gpus or 0.0) if executor == "ray" else None, progress=rich_progress,
        say=say,
    )  # fmt: skip
    print_tables(result)
    if report:
        console.print(f"report: {result.report()}")
    console.print(f"sweep: {result.path}")
    if not result.complete:
        raise typer.Exit(1)
