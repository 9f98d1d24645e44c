"""The table of faults says what the suite tries."""

from __future__ import annotations

from pathlib import Path

import pytest
from faults import HEAD, README, faults


def test_table_of_faults_is_current(request: pytest.FixtureRequest) -> None:
    """All of it where the whole suite was collected, otherwise the rows of what was."""
    items = request.session.items
    written = README.read_text(encoding="utf-8")
    rows = [fault.row for fault in faults(items)]
    collected = {Path(item.path) for item in items}
    if collected >= set(README.parent.rglob("test_*.py")):
        assert written == HEAD + "".join(rows), "python -m pytest --fault-table --collect-only"
    assert all(row in written for row in rows)
