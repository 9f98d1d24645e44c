"""What a sweep has made so far."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from leakmech.core.errors import LeakmechError, RunDirectoryError, UsageError
from leakmech.core.store import read_json
from leakmech.core.tables import interval_columns, write_table
from leakmech.core.validation import shown
from leakmech.reports.cells import estimate, number, signed
from leakmech.reports.tables import Table
from leakmech.runs.directory import RunDirectory, RunRecord
from leakmech.runs.result import Result
from leakmech.studies.leaderboard.run import LeftOut, Source, leaderboard, source_of
from leakmech.studies.sweep.report import cell_name, full_name, states, write_states
from leakmech.studies.sweep.spec import text_of

SWEEP_FILE = "sweep.json"
_RECORD = {"study": str, "axes": list, "threads": int, "cells": dict, "former": dict}
_KEY = re.compile(r"\w+")
_MAIN = {
    "bench": {"all pairs": ("overall", "auc_el"), "contrast": ("overall", "contrast"),
              "topic-free": ("overall", "topic_free", "auc_el"), "tilt": ("tilt", "per_token", "shift")},
}  # fmt: skip
"""Numbers that the table shows, by study."""
_DEPTH = 3
"""Levels of a summary whose numbers are taken."""
_LEFT_OUT = ("timing", "decoding", "curve")
_MOST_ROWS = 60
_TOLD = 80


@dataclass(frozen=True)
class Places:
    """Where things lie in the directory of a sweep, by the key of a cell."""

    root: Path

    def run(self, key: str) -> Path:
        return self.root / "cells" / key

    def page(self, key: str) -> Path:
        return self.run(key) / "report.html"

    def settings(self, key: str) -> Path:
        return self.root / "settings" / f"{key}.yaml"

    def log(self, key: str) -> Path:
        return self.root / "logs" / f"{key}.log"

    def claim(self, key: str) -> Path:
        return self.root / "claims" / f"{key}.lock"

    def failure(self, key: str) -> Path:
        return self.root / "failed" / f"{key}.json"

    def is_done(self, key: str) -> bool:
        return RunDirectory(self.run(key)).is_complete()

    def state(self, key: str) -> str:
        """Done, failed, begun or to do."""
        if self.is_done(key):
            return "done"
        if self.failure(key).exists():
            return "failed"
        return "begun" if RunRecord.find(self.run(key)) is not None else "to do"

    def summary(self, key: str) -> dict[str, Any]:
        """What a finished cell found; empty where it cannot be read."""
        try:
            return read_json(RunDirectory(self.run(key)).summary_file)
        except LeakmechError:
            return {}

    def seconds(self, key: str) -> float | None:
        """How long a finished cell took, if it says so."""
        return self.summary(key).get("timing", {}).get("total_s")


def read_record(root: Path) -> dict[str, Any]:
    """``sweep.json``; RunDirectoryError if it is not one."""
    record = read_json(root / SWEEP_FILE)
    if wrong := next((name for name, kind in _RECORD.items() if not isinstance(record.get(name), kind)), None):
        raise RunDirectoryError(f"{root / SWEEP_FILE}: damaged ({wrong!r} is missing or of another kind)")
    if wrong := next((key for key in [*record["cells"], *record["former"]] if not _KEY.fullmatch(key)), None):
        raise RunDirectoryError(f"{root / SWEEP_FILE}: damaged ({shown(wrong)} is not the key of a cell)")
    return record


@dataclass(frozen=True, repr=False)
class SweepResult(Result):
    """A sweep and the states of its cells.

    Attributes
    ----------
    path
        Its directory.
    summary
        What ``sweep.json`` holds: study, axes, threads, cells of the last grid, and former ones.
    """

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Open the sweep in `path`, finished or not."""
        if not (Path(path) / SWEEP_FILE).exists():
            raise RunDirectoryError(f"{path}: is not a sweep (no {SWEEP_FILE})")
        return cls(Path(path), read_record(Path(path)))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell of the last grid: what differs, state, how it failed, key."""
        places, rows = Places(self.path), []
        for key, differs in self.summary["cells"].items():
            state = places.state(key)
            told = read_json(places.failure(key)).get("told", "") if state == "failed" else ""
            shown = {axis: text_of(differs[axis]) for axis in self.summary["axes"]}
            rows.append({**shown, "state": state, "told": told, "cell": key})
        return pd.DataFrame(rows)

    def to_frame(self) -> pd.DataFrame:
        """One row a cell of the last grid, as :attr:`cells`; ``tables/sweep.csv`` has the numbers of finished ones."""
        return self.cells.copy()

    @property
    def finished(self) -> list[Path]:
        """Run directories of the cells that are done."""
        done: list[str] = self.cells.loc[self.cells["state"] == "done", "cell"].tolist()
        return [Places(self.path).run(key) for key in done]

    @property
    def n_failed(self) -> int:
        """How many cells failed."""
        return self.cells["state"].tolist().count("failed")

    @property
    def complete(self) -> bool:
        """Whether all cells are done."""
        return bool((self.cells["state"] == "done").all())

    def tables(self) -> list[Table]:
        """Cells with their main numbers; of many, those that are not done come first and the others are cut."""
        places, wanted = Places(self.path), _MAIN.get(self.summary["study"], {})
        ordered: list[dict[Any, Any]] = self.cells.to_dict("records")
        if len(ordered) > _MOST_ROWS:
            ordered = sorted(ordered, key=lambda row: row["state"] == "done")[:_MOST_ROWS]
        rows = []
        for row in ordered:
            found = places.summary(row["cell"]) if row["state"] == "done" and wanted else {}
            numbers = [_main_number(found, path) for path in wanted.values()]
            told = row["told"][:_TOLD]
            rows.append((*(row[axis] for axis in self.summary["axes"]), row["state"], *numbers, told))
        header = (*self.summary["axes"], "state", *wanted, "told")
        counts = ", ".join(f"{n} {state}" for state, n in Counter(self.cells["state"].tolist()).most_common())
        cut = f"; {len(self.cells) - len(rows)} cells are not shown" if len(rows) < len(self.cells) else ""
        notes = [f"{counts}{cut}; tables/sweep.csv has the numbers of all finished cells"]
        return [Table(f"Sweep of `leakmech {self.summary['study']}`", header, rows, notes)]

    def sources(self, *, cleaning: Any = None) -> tuple[list[Source], list[LeftOut]]:
        """The finished cells of a sweep of `bench` as rows of a table over many runs, and the others with their states.

        Raises
        ------
        UsageError
            The sweep is of another study.
        """
        if self.summary["study"] != "bench":
            told = f"is a sweep of `leakmech {self.summary['study']}`, whose cells are not compared in one table"
            raise UsageError(f"compare: {self.path} {told}; list them with: leakmech report {self.path}")
        places, found, missing = Places(self.path), [], []
        cells: list[dict[Any, Any]] = self.cells.to_dict("records")
        for cell in cells:
            differs = {axis: str(cell[axis]) for axis in self.summary["axes"]}
            key = str(cell["cell"])
            name, whole = cell_name(differs) or key, full_name(differs) or key
            page = places.page(key)
            try:
                if cell["state"] == "done":
                    found.append(source_of(places.run(key), name=name, differs=differs, cleaning=cleaning))
                else:
                    missing.append(LeftOut(whole, str(cell["state"]), str(cell["told"]), page))
            except LeakmechError as error:
                missing.append(LeftOut(whole, "damaged", str(error), page))
        return found, missing

    def report(self) -> Path:
        """Write ``report.html``: what was measured beside the first cell, and the states of all; return its path."""
        found, missing = self.sources() if self.summary["study"] == "bench" else ([], [])
        cells = states(self.cells, self.summary["axes"], self.path, Places(self.path).page)
        if not found:
            return write_states(self.path, f"leakmech {self.summary['study']}", self.cells, cells)
        board = leaderboard(found, left_out=missing)
        write_table(self.path / "tables" / "leaderboard.csv", board.to_frame())
        return board.write_index(self.path, more=[cells])


def save_table(root: Path) -> None:
    """Write ``tables/sweep.csv``: what differs, and numbers of the summaries of the finished cells."""
    record, places, rows = read_record(root), Places(root), []
    for key, differs in {**record["former"], **record["cells"]}.items():
        if places.is_done(key):
            shown = {axis: text_of(value) for axis, value in differs.items()}
            rows.append({"cell": key, **shown, **_numbers(places.summary(key))})
    if rows:
        write_table(root / "tables" / "sweep.csv", pd.DataFrame(rows))


def _numbers(value: Any, name: str = "", depth: int = _DEPTH) -> dict[str, float]:
    """Numbers of nested mappings, their names joined by dots; intervals as two."""
    if isinstance(value, bool) or value is None:
        return {}
    if isinstance(value, int | float):
        return {name: value}
    if isinstance(value, list) and name.endswith("_ci") and len(value) == 2:
        return {end: own for end, own in interval_columns(name, value).items() if own is not None}
    if not isinstance(value, dict) or not depth:
        return {}
    found: dict[str, float] = {}
    for key, own in value.items():
        if key not in _LEFT_OUT:
            found |= _numbers(own, f"{name}.{key}" if name else key, depth - 1)
    return found


def _main_number(summary: Mapping[str, Any], path: tuple[str, ...]) -> str:
    found: Any = summary
    for name in path[:-1]:
        found = (found or {}).get(name) or {}
    return estimate(found, path[-1], signed if path[-1] in ("contrast", "shift") else number) if found else ""
