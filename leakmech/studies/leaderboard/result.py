"""A table over many runs, as it is kept: ``leaderboard.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import pandas as pd

from leakmech.core.errors import RunDirectoryError, UsageError, nearest
from leakmech.core.store import is_occupied, read_json, write_json
from leakmech.core.tables import write_table
from leakmech.reports.page import Section
from leakmech.reports.tables import Table
from leakmech.runs.result import Drawing, Result
from leakmech.studies.leaderboard.report import (
    block_table,
    draw_forest,
    forest_rows,
    left_out_notes,
    left_out_table,
    write_index,
)

LEADERBOARD_FILE = "leaderboard.json"
_SHAPE = {"statistic": str, "alpha": float, "given": list, "blocks": list, "left_out": list}
_FACTS = (
    "name", "model", "family", "n_parameters", "revision", "changes", "dataset", "dataset_hash", "n_samples",
    "arrangement", "prompt_form", "generations", "seed", "dtype", "estimator", "cleaning", "is_baseline",
)  # fmt: skip


@dataclass(frozen=True, repr=False)
class Leaderboard(Result):
    """Many measured models, each beside the baseline of its data set.

    Attributes
    ----------
    path
        The folder in which it is kept; the current one for one that was just made.
    summary
        All of it, JSON-ready: ``blocks`` (one a data set and way of scoring) with ``rows``, and ``left_out``.
    """

    kind = "leaderboard"

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what :meth:`save` wrote into the folder `path`; RunDirectoryError if it is not that."""
        file = Path(path) / LEADERBOARD_FILE
        summary = read_json(file)
        if wrong := next((name for name, kind in _SHAPE.items() if not isinstance(summary.get(name), kind)), None):
            raise RunDirectoryError(f"{file}: damaged ({wrong!r} is missing or of another kind)")
        found = cls(Path(path), summary)
        try:
            found.tables()
        except (AttributeError, KeyError, RuntimeError, StopIteration, TypeError, ValueError) as error:
            raise RunDirectoryError(f"{file}: damaged (an entry is missing or of another kind)") from error
        return found

    @property
    def blocks(self) -> list[Mapping[str, Any]]:
        """One entry for each data set and way of scoring: ``dataset``, ``baseline``, ``rows``, …"""
        return self.summary["blocks"]

    @property
    def left_out(self) -> list[Mapping[str, Any]]:
        """What has no row: ``name``, ``state`` and what is ``told`` about it."""
        return self.summary["left_out"]

    def row(self, name: str, dataset: str | None = None) -> Mapping[str, Any]:
        """The row of one run, of several of that name the first: its facts, ``estimates`` and ``differences``."""
        blocks = [block for block in self.blocks if dataset in (None, block["dataset"])]
        names = [row["name"] for block in blocks for row in block["rows"]]
        if name not in names:
            raise UsageError(f"leaderboard: no row {name!r}{nearest(name, names)}")
        return next(row for block in blocks for row in block["rows"] if row["name"] == name)

    def to_frame(self) -> pd.DataFrame:
        """One row a run: facts, every statistic with its interval, and its difference from the baseline."""
        rows = []
        for block in self.blocks:
            for row in block["rows"]:
                values = {name: row[name] for name in _FACTS} | {"changes": "; ".join(row["changes"])}
                for own in row["estimates"]:
                    values |= {own["statistic"]: own["value"]}
                    values |= {f"{own['statistic']}_{end}": own[end] for end in ("low", "high")}
                for own in row["differences"]:
                    named = {f"{own['statistic']}_difference": own["difference"]}
                    named |= {f"{own['statistic']}_difference_{end}": own[end] for end in ("low", "high")}
                    named |= {f"{own['statistic']}_{p}": own[p] for p in ("p", "p_holm", "p_equivalence")}
                    values |= named | ({"verdict": own["verdict"]} if own["verdict"] else {})
                rows.append(values | {"baseline": block["baseline"]})
        return pd.DataFrame(rows)

    def tables(self) -> list[Table]:
        """One for each data set and way of scoring, and what has no row."""
        missing = left_out_table(self.left_out)
        return [*(block_table(block, self.summary) for block in self.blocks), *([missing] if missing else [])]

    def to_table(self) -> Table:
        """The first table; what has no row is named under it."""
        first = block_table(self.blocks[0], self.summary)
        more = [f"{len(self.blocks) - 1} tables more: other data sets or scoring"] if len(self.blocks) > 1 else []
        return Table(first.title, first.header, first.rows, [*first.notes, *more, *left_out_notes(self.left_out)])

    def figures(self) -> Mapping[str, Drawing]:
        """``forest-1`` and so on: the differences of each table that has any."""
        drawn = {f"forest-{n}": block for n, block in enumerate(self.blocks, start=1)}
        statistic = self.summary["statistic"]
        return {
            name: partial(draw_forest, block, self.summary)
            for name, block in drawn.items()
            if forest_rows(block, statistic)
        }

    def report(self) -> Path:
        """Write the page into the folder of a saved table and return its path."""
        return write_index(self.path, self.summary)

    def write_index(self, folder: Path, *, name: str = "report.html", more: Sequence[Section] = ()) -> Path:
        """Write the page into any folder, from which its links lead to the pages of the runs; return its path.

        Raises
        ------
        UsageError
            There is a file of that name which leakmech did not write.
        """
        return write_index(folder, self.summary, name=name, more=more)

    def save(self, out: str | Path) -> Path:
        """Write ``leaderboard.json``, its table, a forest plot a block, and ``report.html`` into the folder `out`.

        Raises
        ------
        UsageError
            `out` holds something else: files of the user, a run, or a table of other runs.
        StorageError
            The file system refuses.
        """
        out = Path(out)
        self._refuse_other(out)
        write_json(out / LEADERBOARD_FILE, self.summary)
        write_table(out / "tables" / "leaderboard.csv", self.to_frame())
        for name, draw in self.figures().items():
            draw(out / name)
        write_index(out, self.summary)
        return out

    def _refuse_other(self, out: Path) -> None:
        if out.is_file():
            raise UsageError(f"{out}: is a file; a table over many runs is a folder; choose another --out")
        if (out / LEADERBOARD_FILE).exists():
            there = read_json(out / LEADERBOARD_FILE).get("given")
            if not isinstance(there, list) or not set(map(str, there)) & set(self.summary["given"]):
                raise UsageError(f"{out}: holds a table of other runs; choose another --out, or delete it")
        elif is_occupied(out):
            raise UsageError(f"{out}: is not empty and holds no such table; choose another --out")
