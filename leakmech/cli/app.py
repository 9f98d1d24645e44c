"""The command line: which command does what, and errors as one line and an exit code."""

from __future__ import annotations

import os
import sys
from typing import Annotated, Any

import typer

from leakmech.cli import annotate, data, environment, lora, mechanism, mitigation, run, statistics
from leakmech.cli.console import complain
from leakmech.cli.options import Commands
from leakmech.core.errors import LeakmechError


def _group(description: str, **options: Any) -> typer.Typer:
    return typer.Typer(cls=Commands, help=description, no_args_is_help=True, **options)


app = _group(
    "Measure, diagnose and mitigate expression leakage in language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (
    run.bench,
    run.score,
    run.show,
    run.samples,
    run.report,
    mechanism.diagnose,
    mechanism.directions,
    mechanism.attribute,
    mitigation.mitigate,
    statistics.compare,
    statistics.power,
    environment.doctor,
):
    app.command()(_command)

app.command("train-lora")(lora.train)
app.command("merge-lora")(lora.merge)

data_app = _group("Check and build data sets.")
for _command in (data.check, data.build_aexl, data.fetch_archive):
    data_app.command()(_command)
app.add_typer(data_app, name="data")

annotate_app = _group("Put a run before people: blinded sheets out, answers in.")
annotate_app.command()(annotate.export)
annotate_app.command("import")(annotate.import_sheets)
app.add_typer(annotate_app, name="annotate")

_state = {"debug": False}


def main() -> None:
    """Run the command line; expected errors become one line on stderr and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except LeakmechError as error:
        if _state["debug"]:
            raise
        complain(f"leakmech: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        complain("leakmech: interrupted")
        sys.exit(1)


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    _state["debug"] = debug


__all__ = ["app", "main"]
