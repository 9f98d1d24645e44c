"""What the READMEs say is so: links lead somewhere, commands are understood, Python uses names that exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import settings_page
import typer

import leakmech
from leakmech.cli.app import app

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for folder in ("", "leakmech", "experiments", "configs", "figures")
    for page in (ROOT / folder).glob("**/README.md" if folder else "README.md")
)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)


def _names(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


def _slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=_names(PAGES))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        aimed = (page.parent / file).resolve() if file else page
        assert aimed.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", aimed.read_text(encoding="utf-8"))
            assert anchor in map(_slug, headings), f"{page}: {target}"


def test_the_front_page_is_one_that_one_reads() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200


def test_every_readme_is_reached_from_the_front_page() -> None:
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            if not target.startswith(("http", "#")):
                waiting.append((page.parent / target.partition("#")[0]).resolve())
    assert set(PAGES) <= reached


def test_the_page_of_settings_is_current() -> None:
    assert settings_page.PAGE.read_text(encoding="utf-8") == settings_page.page()


# -- commands --------------------------------------------------------------------------------------------------------


def _commands(text: str) -> Iterator[str]:
    """Lines ``leakmech …`` of the indented and fenced blocks, and of code in tables and sentences."""
    for line in text.splitlines():
        if re.match(r"( {4}|\t)leakmech ", line):
            yield line.strip()
        elif not line.startswith("    "):
            yield from (code for code in re.findall(r"`([^`]+)`", line) if code.startswith("leakmech "))


COMMANDS = [
    (name, command)
    for page, name in zip(PAGES, _names(PAGES), strict=True)
    for command in _commands(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_understood(page: str, command: str) -> None:
    """Names of commands and options are known; what a sentence leaves out (a file, say) may be missing."""
    rest = [word for word in shlex.split(command, comments=True)[1:] if word not in ("…", "...", "--help", "-h")]
    own: Any = typer.main.get_command(app)
    context: Any = None
    while True:
        try:
            context = own.make_context(own.name, list(rest), parent=context)
        except typer.Exit:
            return
        except Exception as error:
            if type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError"):
                return
            raise
        if not hasattr(own, "commands"):
            return
        _, own, rest = own.resolve_command(context, [*context._protected_args, *context.args])


# -- Python ----------------------------------------------------------------------------------------------------------

BLOCKS = [
    (name, block)
    for page, name in zip(PAGES, _names(PAGES), strict=True)
    for block in _PYTHON.findall(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BLOCKS)])
def test_python_uses_what_there_is(page: str, block: str) -> None:
    tree = ast.parse(block)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "leakmech":
            assert hasattr(leakmech, node.attr), f"{page}: leakmech.{node.attr}"
    for node in ast.walk(tree):
        name = _public_name(node.func) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Call) and name:
            _bind(page, getattr(leakmech, name), node)


def _public_name(func: ast.expr) -> str | None:
    own = isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name) and func.value.id == "leakmech"
    return func.attr if own else None  # pyright: ignore[reportAttributeAccessIssue]


def _bind(page: str, called: Any, node: ast.Call) -> None:
    given = {keyword.arg: None for keyword in node.keywords if keyword.arg}
    try:
        inspect.signature(called).bind(*([None] * len(node.args)), **given)
    except TypeError as error:
        pytest.fail(f"{page}: {ast.unparse(node)}: {error}")
