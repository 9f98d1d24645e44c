"""Options that messages name exist: a way out that a message tells is one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

import leakmech
from leakmech.cli.app import app
from leakmech.cli.options import _complete

PACKAGE = Path(leakmech.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")
ELSEWHERE = {
    "--no-deps", "--require-hashes", "--porcelain", "--untracked-files", "--error-unmatch", "--dest", "--requirement",
    "--disable-pip-version-check", "--no-binary", "--no-build-isolation", "--hash", "--no",
    "--epochs", "--epochs-reducer", "--log-samples", "--metadata", "--log_samples", "--no-log-samples", "--head",
}  # fmt: skip
"""Of pip, git, Ray and harnesses, and the beginning of switches."""


def commands(command: click.Command, name: str = "leakmech") -> Iterator[tuple[str, click.Command]]:
    """Every command by its whole name."""
    yield name, command
    for sub, own in getattr(command, "commands", {}).items():
        yield from commands(own, f"{name} {sub}")


def options() -> dict[str, set[str]]:
    """The options of every command."""
    found = {}
    for name, command in commands(typer.main.get_command(app)):
        complete = _complete(command)  # with what its settings generate
        params = complete.get_params(click.Context(complete))
        found[name] = {text for param in params for text in (*param.opts, *param.secondary_opts)}
    return found


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Texts of a module that are no docstrings, with f-strings joined."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


@pytest.mark.fault("X205", "hints", "an option that a message names", "exists; a test goes through all messages")
def test_every_option_in_a_message_exists():
    known = set().union(*options().values()) | ELSEWHERE
    wrong = [
        f"{path.relative_to(PACKAGE)}:{line}: {option}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in texts(path)
        for option in OPTION.findall(text)
        if option not in known
    ]
    assert wrong == []


@pytest.mark.parametrize(
    ("message", "takes"),
    [
        ("--system none", ["bench", "diagnose", "directions", "attribute", "mitigate", "train-lora"]),
        ("--prompt-form plain", ["bench", "diagnose", "directions", "attribute", "mitigate", "train-lora"]),
        ("--dtype float32", ["bench", "diagnose", "directions", "attribute", "mitigate", "train-lora", "merge-lora"]),
        ("--max-new-tokens", ["bench", "mitigate", "train-lora"]),
        ("--reasoning-tokens", ["bench", "mitigate"]),
        ("--allow-missing", ["score"]),
        ("--fold", ["bench"]),
        ("--model", ["bench", "diagnose", "directions", "attribute", "mitigate", "train-lora"]),
        ("--adapter", ["bench", "diagnose", "directions", "attribute", "mitigate"]),
        ("--base", ["merge-lora"]),
        ("--out", ["bench", "score", "diagnose", "directions", "attribute", "mitigate", "train-lora", "merge-lora"]),
    ],
)
@pytest.mark.fault(
    "F18", "hints", "advice of the model, renderer or decoder", "each command that gives it has the option"
)
def test_commands_that_can_give_an_advice_have_its_option(message, takes):
    found = options()
    option = message.split()[0]
    assert [name for name in takes if option not in found[f"leakmech {name}"]] == []
