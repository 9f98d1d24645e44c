"""The command line: which command does what, and errors as one line and an exit code."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer

from leakmech.cli import annotate, benchmark, data, diagnosis, exchange, lora, mitigation, quick, study, sweep
from leakmech.cli.console import out as console
from leakmech.cli.mistakes import UsageMistake, told
from leakmech.cli.options import DATA, EXPLAIN, MEASURE, MITIGATE, SETUP, Commands, SectionedCommand
from leakmech.core.errors import LeakmechError, LeakmechWarning
from leakmech.core.terminal import complain, tolerate_encodings
from leakmech.runs.interrupt import sigterm_interrupts


def _group(description: str, **options: Any) -> typer.Typer:
    return typer.Typer(cls=Commands, help=description, no_args_is_help=True, **options)


def _add(group: typer.Typer, name: str, function: Callable[..., Any], *examples: str, heading: str = "") -> None:
    """A command under a heading, with examples at the end of its help."""
    own: dict[str, Any] = {"cls": SectionedCommand, "epilog": "\n".join(examples)}
    group.command(name, rich_help_panel=heading or None, short_help=_SHORT.get(name), **own)(function)


_SHORT = {
    "quick": "See in seconds whether charged sentences colour answers.",
    "bench": "Measure expression leakage of a model.",
    "score": "Score texts from elsewhere, or a run anew.",
    "samples": "Print example answers of a run side by side.",
    "report": "Write a page about a finished run.",
    "compare": "Compare finished runs over the same samples.",
    "sweep": "Run a study over a grid of settings.",
    "power": "Say which effect a number of samples can see.",
    "diagnose": "Find layers, heads and neurons that carry affect.",
    "directions": "Fit directions of affect, and test them.",
    "attribute": "Rank heads and neurons by the affect they carry.",
    "mitigate": "Try mitigations: what each lowers and damages.",
    "train-lora": "Train a LoRA adapter against leakage.",
    "build-aexl": "Build a data set from a corpus (Algorithm 1).",
    "check": "Check a data set before it is used.",
    "fetch-archive": "Fetch the corpus that needs no hub.",
    "emotion-circuits": "Find and use circuits of six emotions.",
    "persona-leakage": "Teach a persona a behaviour; see who takes it on.",
    "export": "Write blinded sheets for annotators.",
    "import": "Read answered sheets and report agreement.",
    "lm-eval-path": "Print the folder of tasks for lm-evaluation-harness.",
    "card": "Write a card for the hub beside an adapter, a direction or data.",
    "push": "Upload one of these with its card.",
    "doctor": "Say what is installed and what is missing.",
}
"""Of each command a line for the list of commands."""


def doctor() -> None:
    """Say what is installed, which hardware is used, and what to do about what is missing."""
    from leakmech.cli.doctor import diagnose_environment

    found = diagnose_environment()
    console.print(found.to_text())
    raise typer.Exit(0 if found.usable else 1)


app = _group(
    "Measure, diagnose and mitigate expression leakage in language models.\n\n"
    "leakmech COMMAND -h says what a command takes, with examples. leakmech --install-completion lets the Tab key "
    "complete commands and options in this shell.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = _group("Check and build data sets.")
study_app = _group("Run a whole study.")
annotate_app = _group("Put a run before people: blinded sheets out, answers in.")

_add(
    app, "quick", quick.quick,
    'leakmech quick "The garden next door looks"',
    'leakmech quick "The garden next door looks" --inject "Our flight was awful."',
    heading=MEASURE,
)  # fmt: skip
_add(
    app, "bench", benchmark.bench,
    "leakmech bench configs/quickstart.yaml --out runs/demo",
    "leakmech bench --model Qwen/Qwen2.5-0.5B-Instruct --limit 20 --out runs/qwen",
    heading=MEASURE,
)  # fmt: skip
_add(
    app, "score", benchmark.score,
    "leakmech score texts.jsonl --model gpt-x --column text=completion --out runs/gpt-x",
    "leakmech score runs/demo --estimator vader --out runs/demo-vader",
    heading=MEASURE,
)  # fmt: skip
_add(app, "show", benchmark.show, "leakmech show runs/demo", heading=MEASURE)
_add(app, "samples", benchmark.samples, "leakmech samples runs/demo -n 3", heading=MEASURE)
_add(app, "report", benchmark.report, "leakmech report runs/demo", heading=MEASURE)
_add(
    app, "compare", benchmark.compare,
    "leakmech compare runs/base runs/other --out runs/comparison",
    heading=MEASURE,
)  # fmt: skip
_add(
    app, "sweep", sweep.sweep,
    "leakmech sweep grid.yaml --dry-run",
    "leakmech sweep grid.yaml --out runs/grid --workers 2",
    heading=MEASURE,
)  # fmt: skip
_add(app, "power", benchmark.power, "leakmech power --effect 0.05 --samples 60", heading=MEASURE)
_add(
    app, "diagnose", diagnosis.diagnose,
    "leakmech diagnose configs/diagnose.yaml --out runs/diagnosis",
    heading=EXPLAIN,
)  # fmt: skip
_add(
    app, "directions", diagnosis.directions,
    "leakmech directions --fit data/aexl_fit.jsonl --out runs/directions",
    heading=EXPLAIN,
)  # fmt: skip
_add(
    app, "attribute", diagnosis.attribute,
    "leakmech attribute --limit 12 --out runs/attribution",
    heading=EXPLAIN,
)  # fmt: skip
_add(
    app, "mitigate", mitigation.mitigate,
    "leakmech mitigate --list",
    "leakmech mitigate --quick --out runs/try",
    "leakmech mitigate configs/mitigate.yaml --out runs/mitigations",
    heading=MITIGATE,
)  # fmt: skip
_add(
    app, "train-lora", lora.train,
    "leakmech train-lora configs/lora_embedded.yaml --out runs/adapter",
    heading=MITIGATE,
)  # fmt: skip
_add(app, "merge-lora", lora.merge, "leakmech merge-lora runs/adapter --out runs/merged", heading=MITIGATE)

_add(data_app, "check", data.check, "leakmech data check hexl", "leakmech data check mine.jsonl")
_add(
    data_app, "build-aexl", data.build_aexl,
    "leakmech data build-aexl --samples 50 --fit 50 --tune 50 --out data/aexl.jsonl",
)  # fmt: skip
_add(data_app, "fetch-archive", data.fetch_archive, "leakmech data fetch-archive")
app.add_typer(data_app, name="data", rich_help_panel=DATA)

_add(
    study_app, "emotion-circuits", study.emotion_circuits,
    "leakmech study emotion-circuits --quick --out runs/circuits-try",
)  # fmt: skip
_add(
    study_app, "persona-leakage", study.persona_leakage,
    "leakmech study persona-leakage --quick --out runs/personas-try",
)  # fmt: skip
app.add_typer(study_app, name="study", rich_help_panel=EXPLAIN)

_add(annotate_app, "export", annotate.export, "leakmech annotate export runs/demo --out sheets")
_add(annotate_app, "import", annotate.import_sheets, "leakmech annotate import sheets")
app.add_typer(annotate_app, name="annotate", rich_help_panel=DATA)
_add(
    app, "lm-eval-path", exchange.lm_eval_path,
    "leakmech lm-eval-path",
    heading=DATA,
)  # fmt: skip
_add(app, "card", exchange.card, "leakmech card runs/adapter --run runs/judged", heading=DATA)
_add(app, "push", exchange.push, "leakmech push runs/adapter owner/name", heading=DATA)
_add(app, "doctor", doctor, "leakmech doctor", heading=SETUP)

_state = {"debug": False}


def main() -> None:
    """Run the command line; expected errors become one line on stderr and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.showwarning = _shown
    tolerate_encodings()
    try:
        with sigterm_interrupts():
            code = app(prog_name="leakmech", standalone_mode=False)
        sys.exit(code or 0)
    except LeakmechError as error:
        if _state["debug"]:
            raise
        complain(f"leakmech: {error}")
        sys.exit(error.exit_code)
    except UsageMistake as mistake:
        told(mistake)
        sys.exit(2)
    except typer.Abort:
        complain("leakmech: stopped")
        sys.exit(1)
    except KeyboardInterrupt:
        complain("leakmech: interrupted")
        sys.exit(1)


def _shown(message: Warning | str, category: type[Warning], *_: Any) -> None:
    """Print our own warnings as one line; those of libraries are for developers."""
    if issubclass(category, LeakmechWarning):
        complain(f"leakmech: warning: {message}")


def _version(asked: bool) -> None:
    if asked:
        from leakmech import __version__

        console.print(f"leakmech {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    _state["debug"] = debug


__all__ = ["app", "main"]
