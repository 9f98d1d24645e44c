"""The page of a sweep: its cells, what sets them apart, and how far each is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.reports.cells import DASH, short
from leakmech.reports.page import Headline, Section, Shown, linked, refuse_foreign_page, write_page
from leakmech.reports.tables import Table

_TOLD = 200


def cell_name(differs: Mapping[str, str]) -> str:
    """What sets a cell apart, in a line; the data set only where there is nothing else: each has its own table."""
    named = [_named(axis, value) for axis, value in differs.items() if axis != "dataset"]
    return ", ".join(named or [_named(axis, value) for axis, value in differs.items()])


def full_name(differs: Mapping[str, str]) -> str:
    """The same with every axis by its name."""
    return ", ".join(f"{axis}={value}" for axis, value in differs.items())


def _named(axis: str, value: str) -> str:
    return short(value) if axis in ("model", "dataset") else f"{axis}={value}"


def states(cells: pd.DataFrame, axes: Sequence[str], base: Path, page: Callable[[str], Path]) -> Section:
    """All cells with their states; the key of each is a link to its page, if it has one."""
    rows, records = [], cells.to_dict("records")
    for own in records:
        record: Any = own
        key = linked(record["cell"], page(record["cell"]), base)
        rows.append((key, *(record[axis] for axis in axes), record["state"], record["told"][:_TOLD] or DASH))
    table = Table(f"{_counted(cells)}; files of a cell lie in cells/KEY", ("cell", *axes, "state", "told"), rows)
    return Shown(table, heading="Cells", style="meaning", is_open=True)


def _counted(cells: pd.DataFrame) -> str:
    counts = Counter(cells["state"].tolist()).most_common()
    return f"{len(cells)} cells: " + ", ".join(f"{n} {state}" for state, n in counts)


def write_states(root: Path, command: str, cells: pd.DataFrame, table: Section) -> Path:
    """Write the page of a sweep whose cells have nothing to be compared by, and return its path."""
    refuse_foreign_page(root / "report.html", way_out="move it")
    below = "Numbers of the finished cells are in tables/sweep.csv; each cell's page is linked where it was written."
    return write_page(root, f"Sweep of {command}", [Headline(f"{_counted(cells)}.", below), table])
