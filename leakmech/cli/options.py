"""Options of commands that make a run, generated from the settings of their study.

A command marked with :func:`takes` gets them when it is called or asked for help, not when it is listed: reading a
study's settings costs more time than ``leakmech --help`` may take.
"""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from leakmech.cli.early import refuse_unwritable

if TYPE_CHECKING:
    from leakmech.runs.options import Option

Function = TypeVar("Function", bound=Callable[..., Any])

HEADINGS = MEASURE, EXPLAIN, MITIGATE, DATA, SETUP = ("Measure", "Explain", "Mitigate", "Data", "Setup")
"""Under which commands are listed, in this order."""

ConfigFile = Annotated[Path | None, typer.Argument(help="YAML file with settings; options override it.")]
ConfigOption = Annotated[Path | None, typer.Option("--config", help="YAML file with settings; options override it.")]
Report = Annotated[bool, typer.Option(help="Also write report.html.")]


@dataclass(frozen=True)
class Given:
    """The settings that a user chose by options."""

    settings: Any
    options: Mapping[Option, Any]

    def over(self, *, out: Path | None = None, config: Path | None = None) -> dict[str, Any]:
        """All settings: what the run in `out` stored, over it the file, over it the options."""
        from leakmech.runs.options import gathered

        return gathered(self.settings, self.options, out=out, file=config)

    def refuse_mistakes(self, *, out: Path | None, config: Path | None) -> None:
        """Say what is wrong with the settings before torch is imported, which takes seconds."""
        values = self.over(out=out, config=config)
        self.settings.parse(values, where=self.settings.command).refuse_missing()
        if out is not None:
            refuse_unwritable(out)


def takes(settings: str) -> Callable[[Function], Function]:
    """Mark a command whose parameter `given` is made of options for the fields of `settings` (``module:class``)."""

    def mark(function: Function) -> Function:
        signature = inspect.signature(function, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "given"]
        marked: Any = function
        marked.takes = settings
        marked.__signature__ = signature.replace(parameters=own)
        return function

    return mark


class Commands(TyperGroup):
    """A group whose commands get the options of their settings when they are called."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's signature
        """List commands by heading."""
        sections: dict[str, list[tuple[str, Any]]] = {heading: [] for heading in HEADINGS}
        for name, command in self.commands.items():
            sections.setdefault(getattr(command, "rich_help_panel", None) or "Commands", []).append((name, command))
        width = max(map(len, self.commands)) + 2
        for heading, members in sections.items():
            if not members:
                continue
            with formatter.section(heading):
                limit = formatter.width - 6 - width
                rows = [(name.ljust(width - 2), command.get_short_help_str(limit)) for name, command in members]
                formatter.write_dl(rows)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _complete(command), rest

    def invoke(self, ctx: Any) -> Any:
        """Call a command; what ends it from outside says how to go on, before typer makes it a silent exit."""
        from leakmech.core.errors import InterruptedRunError

        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            again = shlex.join(["leakmech", *sys.argv[1:]])
            raise InterruptedRunError(f"interrupted; what was finished is saved; continue with: {again}") from None


class SectionedCommand(TyperCommand):
    """A command whose help lists options by heading, and then examples, a line each."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - click's signature
        if self.epilog:
            formatter.write("\nExamples:\n")
            formatter.write("".join(f"  {line}\n" for line in self.epilog.splitlines()))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
                sections.setdefault(getattr(parameter, "rich_help_panel", None) or usual, []).append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


def _complete(command: Any) -> Any:
    """The command with the options of its settings, if it takes any."""
    function: Any = getattr(command, "callback", None)
    if not hasattr(function, "takes"):
        return command
    module, _, name = function.takes.partition(":")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    complete = _with_options(function, getattr(import_module(module), name))
    app.command(command.name, cls=SectionedCommand, epilog=command.epilog)(complete)
    return typer.main.get_command(app)


def _with_options(function: Any, settings: Any) -> Callable[..., Any]:
    """`function` with a parameter for each option, which it gets together as `given`."""
    from leakmech.runs.options import options_of

    options = {option.parameter: option for option in options_of(settings)}

    def call(**values: Any) -> Any:
        chosen = {option: values.pop(parameter) for parameter, option in options.items()}
        read = {option: option.read(value) for option, value in chosen.items() if value is not None and value != []}
        given = Given(settings, read)
        if not values.get("listed"):
            given.refuse_mistakes(out=values.get("out"), config=values.get("config"))
        return function.__wrapped__(**values, given=given)

    own = list(inspect.signature(function).parameters.values())
    generated = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(option))
        for name, option in options.items()
    ]
    call.__doc__ = function.__doc__
    made: Any = call
    made.__signature__ = inspect.Signature([*own, *generated])
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *generated]}
    return call


def _annotation(option: Option) -> Any:
    """What typer makes an option of."""
    default = "required" if option.required else f"default: {option.default_text}" if option.default_text else ""
    repeated = "; can be repeated" if option.kind in ("repeated", "pairs") else ""
    described = f"{option.help}{repeated} [{default}]" if default else f"{option.help}{repeated}"
    shown: dict[str, Any] = {"help": described, "rich_help_panel": option.heading}
    if option.kind == "switch":
        return Annotated[bool | None, typer.Option("/".join(option.names), **shown)]
    kind: Any = list[str] if option.kind in ("repeated", "pairs") else str
    return Annotated[kind | None, typer.Option(option.names[0], metavar=option.shown, **shown)]
