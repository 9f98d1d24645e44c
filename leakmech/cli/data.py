"""Commands that check and build data sets: ``leakmech data …``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from leakmech.cli.console import out as console
from leakmech.cli.options import ConfigFile, Given, takes
from leakmech.core.terminal import complain


def check(
    file: Annotated[str, typer.Argument(help="Data set file, or a built-in name.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts tokens; default: the embedded model.")
    ] = None,
    estimator: Annotated[str, typer.Option(help="Expression estimator.")] = "embedded",
    relevant: Annotated[
        bool | None, typer.Option(help="Injections are about their stems; default: by name, no for a file.")
    ] = None,
) -> None:
    """Check a data set: lengths, duplicates, class of every injection, similarity of injection and stem.

    A file of scenarios (sev) is checked for feelings that are named, and for the class of every event; one of personas
    for its kinds and their lengths; data of a behaviour (refusal, say) for questions that are in both splits.
    """
    from leakmech.studies.aexl.check import check_dataset
    from leakmech.studies.emotion_circuits.check import check_scenarios, has_scenarios
    from leakmech.studies.persona_leakage.check import check_behaviours, check_personas, has_behaviours, has_personas

    if has_personas(file):
        found = check_personas(file)
    elif has_behaviours(file):
        found = check_behaviours(file)
    elif has_scenarios(file):
        found = check_scenarios(file, estimator=estimator)
    else:
        found = check_dataset(file, tokenizer=tokenizer, estimator=estimator, relevant=relevant)
    for table in found.tables():
        console.print(table.to_rich())
    for warning in found.warnings:
        complain(f"warning: {warning}")
    for problem in found.problems:
        complain(f"leakmech: {problem}")
    raise typer.Exit(1 if found.problems else 0)


@takes("leakmech.studies.aexl.settings:AexlSettings")
def build_aexl(
    given: Given,
    out: Annotated[Path, typer.Option(help="A .jsonl file, or a folder for aexl.jsonl; other splits go beside it.")],
    config: ConfigFile = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Model whose tokenizer counts tokens; default: the embedded model.")
    ] = None,
) -> None:
    """Build AEXL from a corpus (Algorithm 1); scores are kept, so that the same command goes on after a stop."""
    from leakmech.core.progress import rich_progress
    from leakmech.studies.aexl.run import build_aexl as build

    counting = {"tokenizer": tokenizer} if tokenizer else {}
    result = build(out, progress=rich_progress, **counting, **given.over(out=out, config=config))
    for table in result.tables():
        console.print(table.to_rich())
    for split, file in result.files.items():
        console.print(f"{split}: {file}")
    console.print(f"data card: {result.files['test'].with_suffix('.md')}")


def fetch_archive(
    sdist: Annotated[Path | None, typer.Option(help="A vaderSentiment-3.3.2.tar.gz that is on disk already.")] = None,
) -> None:
    """Fetch the embedded corpus (Hutto & Gilbert 2014) with pip, check its hash, unpack its text files."""
    from leakmech.datasets.archive import fetch_archive as fetch
    from leakmech.datasets.archive import load_ratings

    folder = fetch(sdist=sdist)
    counts = load_ratings(folder)["source"].value_counts(sort=False)
    console.print(f"{counts.sum():,} texts: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    console.print(f"archive: {folder}")
