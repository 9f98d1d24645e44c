"""The notebook of the tour: it runs from beginning to end, and what is stored in it is what it shows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "experiments" / "tour.ipynb"
NOTEBOOK = json.loads(FILE.read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def outputs(cells):
    """What each cell shows: kinds of output, without lines of progress."""
    return {
        cell["id"]: [sorted(own["data"]) for own in cell["outputs"] if own["output_type"] == "execute_result"]
        for cell in cells
    }


def test_the_stored_notebook_is_small_valid_and_without_traces_of_a_machine():
    text = FILE.read_text(encoding="utf-8")
    assert len(text) < 500_000
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    assert not re.search(r"/tmp/|/home/|/root/|site-packages|Traceback", text)


def test_every_cell_was_run_in_order_and_shows_something_where_it_ends_in_a_value():
    assert [cell["execution_count"] for cell in CODE] == list(range(1, len(CODE) + 1))
    shown = outputs(CODE)
    silent = {"install", "start", "answers", "next"}
    assert {name for name, own in shown.items() if not own} == silent
    pictures = [name for name, own in shown.items() if any("image/png" in kinds for kinds in own)]
    assert pictures == ["quick-plot", "bench-plot", "directions-plot", "heads", "compare-plot"]


def test_texts_say_no_numbers_that_could_go_stale():
    texts = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "markdown"]
    assert [text for text in texts if re.search(r"\d", text)] == []


@pytest.mark.long
def test_the_notebook_runs_and_shows_what_is_stored(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="needs the extra [dev]")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra [dev]")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FILE.parents[1]), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as every worker has
    fresh = nbformat.read(FILE, 4)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbclient.NotebookClient(fresh, timeout=1500, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert outputs(cell for cell in fresh.cells if cell.cell_type == "code") == outputs(CODE)
    assert list(tmp_path.glob("leakmech-tour-*/runs/*/report.html"))
