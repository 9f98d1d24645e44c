"""The command line: which command does what, and errors as one line and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Annotated, Any

import typer

from leakmech.cli import annotate, benchmark, data, diagnosis, exchange, lora, mitigation, study, sweep
from leakmech.cli.console import out as console
from leakmech.cli.options import Commands
from leakmech.core.errors import LeakmechError, LeakmechWarning
from leakmech.core.terminal import complain, tolerate_encodings
from leakmech.runs.interrupt import sigterm_interrupts


def _group(description: str, **options: Any) -> typer.Typer:
    return typer.Typer(cls=Commands, help=description, no_args_is_help=True, **options)


def doctor() -> None:
    """Say what is installed, which hardware is used, and what to do about what is missing."""
    from leakmech.cli.doctor import diagnose_environment

    found = diagnose_environment()
    console.print(found.to_text())
    raise typer.Exit(0 if found.usable else 1)


app = _group(
    "Measure, diagnose and mitigate expression leakage in language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in (
    benchmark.bench,
    benchmark.score,
    benchmark.show,
    benchmark.samples,
    benchmark.report,
    diagnosis.diagnose,
    diagnosis.directions,
    diagnosis.attribute,
    mitigation.mitigate,
    benchmark.compare,
    sweep.sweep,
    benchmark.power,
    exchange.card,
    exchange.push,
    doctor,
):
    app.command()(_command)

app.command("train-lora")(lora.train)
app.command("merge-lora")(lora.merge)
app.command("lm-eval-path")(exchange.lm_eval_path)

data_app = _group("Check and build data sets.")
for _command in (data.check, data.build_aexl, data.fetch_archive):
    data_app.command()(_command)
app.add_typer(data_app, name="data")

study_app = _group("Run a whole study.")
study_app.command("emotion-circuits")(study.emotion_circuits)
study_app.command("persona-leakage")(study.persona_leakage)
app.add_typer(study_app, name="study")

annotate_app = _group("Put a run before people: blinded sheets out, answers in.")
annotate_app.command()(annotate.export)
annotate_app.command("import")(annotate.import_sheets)
app.add_typer(annotate_app, name="annotate")

_state = {"debug": False}


def main() -> None:
    """Run the command line; expected errors become one line on stderr and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _shown
    tolerate_encodings()
    try:
        with sigterm_interrupts():
            app()
    except LeakmechError as error:
        if _state["debug"]:
            raise
        complain(f"leakmech: {error}")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        complain("leakmech: interrupted")
        sys.exit(1)


def _shown(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print our own warnings as one line; those of libraries are for developers."""
    if issubclass(category, LeakmechWarning):
        complain(f"leakmech: warning: {message}")


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False) -> None:
    _state["debug"] = debug


__all__ = ["app", "main"]
