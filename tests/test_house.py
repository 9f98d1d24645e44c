"""The plan of the house holds: rooms import downward only, there is no circle, and modules stay short."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "leakmech"
ROOMS = (
    "core", "models", "datasets", "prompts", "interventions", "generation", "scoring", "mechanism", "runs", "training",
    "side_effects", "reports", "studies", "integrations", "explore", "cli",
)  # fmt: skip
"""From below: each imports only from those before it, and from itself."""
LONGEST_MODULE = 400
LONGEST_FUNCTION = 80
ENTRANCES = ("run", "settings", "result", "cost")
"""Modules of a study that other studies may import."""


def _name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _imports(nodes: Iterator[ast.AST]) -> set[str]:
    """The modules of leakmech that are imported."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            members = (f"{node.module}.{alias.name}" for alias in node.names)
            found |= {member if member in MODULES else node.module for member in members}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & MODULES.keys()


@cache
def imports(module: str) -> set[str]:
    """Everything that a module imports, wherever in it."""
    return _imports(ast.walk(_tree(module)))


def room(module: str) -> str:
    """The folder right under the package; empty for the package's own files."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else ""


def test_every_folder_is_a_room_and_every_module_lies_in_one():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} <= set(ROOMS)
    assert [name for name in MODULES if not room(name)] == ["leakmech", "leakmech.__main__"]


def test_rooms_import_downward_only():
    upward = [
        f"{module} imports {other}"
        for module in MODULES
        if room(module)
        for other in imports(module)
        if room(other) and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert upward == []


def test_a_study_imports_of_another_its_entrances_only():
    def study(module: str) -> str:
        return module.split(".")[2] if module.startswith("leakmech.studies.") else ""

    inside = [
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if study(module) and study(other) and study(module) != study(other) and other.split(".")[3] not in ENTRANCES
    ]
    assert inside == []


def test_no_module_imports_itself_by_way_of_others():
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(imports(module)):
                visit(other, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE
    functions = (node for node in ast.walk(_tree(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


def test_run_json_is_known_in_one_room():
    knowing = [
        name for name, file in MODULES.items() if re.search(r"[\"']run\.json[\"']|\brun_file\b", file.read_text())
    ]
    assert [name for name in knowing if room(name) != "runs"] == []


def test_docstrings_name_modules_that_are_there():
    gone = []
    for module, file in MODULES.items():
        for reference in re.findall(r":(?:mod|func|class|data|meth):`~?(leakmech[\w.]*)`", file.read_text()):
            parts = reference.split(".")
            holder = next(name for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in MODULES)
            rest = parts[holder.count(".") + 1 :]
            if rest and not (holder == "leakmech" or re.search(rf"\b{rest[0]}\b", MODULES[holder].read_text())):
                gone.append(f"{module}: {reference}")
    assert gone == []
