"""Table of the faults that were tried: each row is a test marked ``fault``, and ``tests/README.md`` lists them all.

    @pytest.mark.fault("F13", "text", "half of a surrogate pair in an answer", "read as U+FFFD")

``python -m pytest --fault-table`` writes the table anew; `test_faults.py` fails while it is not current.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

KINDS = ("answers", "prompts", "models", "adapters", "text", "rows", "settings", "hints", "runs", "hostile", "scale")
README = Path(__file__).with_name("README.md")
HEAD = """# Faults that were tried

Each row is a test of the suite (marker `fault`): what was done to leakmech, and what it does now. Numbers with F are
public reports about other tools, R and X faults of our own. The table is written by
`python -m pytest --fault-table --collect-only`, and a test fails while it is not current; a row whose test fails
fails the suite.

| fault | kind | tried | what happens | test |
|---|---|---|---|---|
"""


class Fault(NamedTuple):
    name: str
    kind: str
    tried: str
    verdict: str
    test: str

    @property
    def row(self) -> str:
        cells = (self.name, self.kind, self.tried, self.verdict, f"`{self.test}`")
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-table", action="store_true", help="write the table of faults into tests/README.md")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name, kind, tried, verdict): a row of the table in tests/README.md")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.getoption("--fault-table"):
        README.write_text(HEAD + "".join(fault.row for fault in faults(session.items)), encoding="utf-8")


def faults(items: Iterable[pytest.Item]) -> list[Fault]:
    """Faults of collected tests, in the order of their names; one row for a fault that several tests try."""
    found: dict[tuple[str, str], Fault] = {}
    for item in items:
        for mark in item.iter_markers("fault"):
            name, kind, tried, verdict = mark.args
            if kind not in KINDS:
                raise pytest.UsageError(f"{item.nodeid}: kind of fault {kind!r}; known are {', '.join(KINDS)}")
            place = item.nodeid.split("::")[0].removeprefix("tests/")
            found.setdefault((name, tried), Fault(name, kind, tried, verdict, place))
    return sorted(found.values(), key=lambda fault: (fault.name[0], fault.name[1:].rjust(4, "0"), fault.tried))
