"""Commands that hand things to other programs: tasks to a harness, artefacts to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console

Artefact = Annotated[
    str,
    typer.Argument(
        help="Adapter folder, .json file of a direction or interventions, or a data set (file or built-in name).",
        metavar="PATH",
    ),
]
Runs = Annotated[
    list[Path] | None,
    typer.Option("--run", help="Run of bench or score whose leakage the card tells. Can be repeated."),
]


def lm_eval_path() -> None:
    """Print the folder for --include_path of lm-evaluation-harness: tasks leakmech_hexl and leakmech_aexl."""
    from leakmech.integrations import lm_eval_tasks

    console.print(lm_eval_tasks())


def card(path: Artefact, run: Runs = None) -> None:
    """Write a card for the hub beside an adapter, a direction, interventions or a data set."""
    from leakmech.integrations.sharing import write_card

    console.print(f"card: {write_card(path, runs=run or ())}")


def push(
    path: Artefact,
    repo: Annotated[str, typer.Argument(help="Repository of the hub, owner/name; it is made if it is not there.")],
    run: Runs = None,
    public: Annotated[bool, typer.Option("--public", help="Make a new repository that all can see.")] = False,
) -> None:
    """Upload an adapter, a direction, interventions or a data set with its card to the hub (asks nothing)."""
    from leakmech.integrations.sharing import push as upload

    console.print(f"pushed: {upload(path, repo, runs=run or (), public=public)}")
