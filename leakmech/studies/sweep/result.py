"""What a sweep has made so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import read_json
from leakmech.core.tables import read_table, write_table
from leakmech.reports.cells import estimate, number, signed
from leakmech.reports.tables import Table
from leakmech.runs.directory import RunDirectory
from leakmech.studies.sweep.spec import Sweep

SWEEP_FILE = "sweep.json"
_MAIN = {
    "bench": {"all pairs": ("overall", "auc_el"), "contrast": ("overall", "contrast"),
              "topic-free": ("overall", "topic_free", "auc_el"), "tilt": ("tilt", "per_token", "shift")},
}  # fmt: skip
"""Numbers that the table shows, by study."""
_DEPTH = 3
_LEFT_OUT = ("timing", "decoding")


@dataclass(frozen=True)
class SweepResult:
    """A sweep and the states of its cells.

    Attributes
    ----------
    path
        Its directory.
    summary
        What ``sweep.json`` holds: study, axes, threads, cells.
    """

    path: Path
    summary: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open the sweep in `path`, finished or not."""
        file = Path(path) / SWEEP_FILE
        if not file.exists():
            raise RunDirectoryError(f"{path}: is not a sweep (no {SWEEP_FILE})")
        return cls(Path(path), read_json(file))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell: key, what differs, state, and how it failed."""
        rows = []
        for key, differs in self.summary["cells"].items():
            done, failed = RunDirectory(self.path / "cells" / key).is_complete(), self._failure(key)
            state = "done" if done else "failed" if failed else "to do"
            rows.append({"cell": key, **differs, "state": state, "told": "" if done else failed.get("told", "")})
        return pd.DataFrame(rows)

    @property
    def n_failed(self) -> int:
        """How many cells failed."""
        return int((self.cells["state"] == "failed").sum())

    @property
    def complete(self) -> bool:
        """Whether all cells are done."""
        return bool((self.cells["state"] == "done").all())

    def table(self, name: str) -> pd.DataFrame:
        """``tables/<name>.csv``: ``sweep`` has the numbers of the finished cells."""
        return read_table(self.path / "tables" / f"{name}.csv")

    def tables(self) -> list[Table]:
        """Cells with their main numbers."""
        shown = _MAIN.get(self.summary["study"], {})
        rows = []
        for row in self.cells.to_dict("records"):
            file = self.path / "cells" / str(row["cell"]) / "summary.json"
            found = read_json(file) if row["state"] == "done" else {}
            numbers = [_shown(found, path) for path in shown.values()]
            told = str(row["told"])[:80]
            rows.append((*(str(row[axis]) for axis in self.summary["axes"]), str(row["state"]), *numbers, told))
        header = (*self.summary["axes"], "state", *shown, "told")
        counts = self.cells["state"].value_counts()
        notes = [
            ", ".join(f"{number} {state}" for state, number in counts.items()) + "; tables/sweep.csv has all numbers"
        ]
        return [Table(f"Sweep of `leakmech {self.summary['study']}`", header, rows, notes)]

    def to_markdown(self) -> str:
        """The table as GitHub-flavoured markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables())

    def _repr_html_(self) -> str:
        return "\n".join(table.to_html() for table in self.tables())

    def _failure(self, key: str) -> dict[str, Any]:
        file = self.path / "failed" / f"{key}.json"
        return read_json(file) if file.exists() else {}


def save_table(path: Path, found: Sweep) -> None:
    """Write ``tables/sweep.csv``: what differs, and all numbers of the summaries of the finished cells."""
    rows = []
    for cell in found.cells:
        run = path / "cells" / cell.key
        if RunDirectory(run).is_complete():
            differs = {axis: str(value) for axis, value in cell.differs.items()}
            rows.append({"cell": cell.key, **differs, **_numbers(read_json(run / "summary.json"))})
    if rows:
        write_table(path / "tables" / "sweep.csv", pd.DataFrame(rows))


def _numbers(value: Any, name: str = "", depth: int = _DEPTH) -> dict[str, float]:
    """Numbers of nested mappings, their names joined by dots; intervals as two."""
    if isinstance(value, bool) or value is None:
        return {}
    if isinstance(value, int | float):
        return {name: value}
    if isinstance(value, list) and name.endswith("_ci") and len(value) == 2:
        ends = zip(("low", "high"), value, strict=True)
        return {f"{name[:-3]}_{end}": own for end, own in ends if own is not None}
    if not isinstance(value, dict) or not depth:
        return {}
    found: dict[str, float] = {}
    for key, own in value.items():
        if key not in _LEFT_OUT and (not name or key != "curve"):
            found |= _numbers(own, f"{name}.{key}" if name else key, depth - 1)
    return found


def _shown(summary: Mapping[str, Any], path: tuple[str, ...]) -> str:
    found: Any = summary
    for name in path[:-1]:
        found = (found or {}).get(name) or {}
    return estimate(found, path[-1], signed if path[-1] in ("contrast", "shift") else number) if found else ""
