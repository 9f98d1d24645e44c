"""A finished run is opened without what made it."""

from __future__ import annotations

import subprocess
import sys

import pandas as pd

import leakmech
from leakmech.studies.benchmark.reopen import Rescoring, finished_run
from leakmech.studies.benchmark.settings import BenchConfig

SETTINGS = {"limit": 3, "generations": 1, "decoding": {"max_new_tokens": 2}, "estimator": "vader", "dataset": "hexl"}
CODE = """
import pathlib, sys
from leakmech.studies.benchmark.reopen import finished_run
from leakmech.studies.benchmark.settings import BenchConfig
out = pathlib.Path(sys.argv[1])
found = finished_run(BenchConfig.stored(out), out)
print(found.summary["overall"]["auc_el"], "torch" in sys.modules)
"""
SCORED = """
import pathlib, sys
from leakmech.studies.benchmark.reopen import Rescoring
found = Rescoring.of(None, out=sys.argv[1], columns=None, settings={}).as_it_was()
print(found.summary["overall"]["auc_el"], "torch" in sys.modules)
"""


def test_a_finished_run_is_opened_without_torch_and_one_with_something_to_do_is_not(save_tiny, tmp_path):
    made = leakmech.bench(save_tiny("llama-gqa"), out=tmp_path / "run", **SETTINGS)
    stored = BenchConfig.stored(tmp_path / "run")
    again = finished_run(stored, tmp_path / "run")
    assert again is not None
    pd.testing.assert_frame_equal(again.scores, made.scores)
    done = subprocess.run([sys.executable, "-c", CODE, str(made.path)], capture_output=True, text=True)
    assert done.stdout.split() == [str(made.summary["overall"]["auc_el"]), "False"], done.stderr
    assert finished_run(stored, tmp_path / "another") is None
    (tmp_path / "run" / "summary.json").unlink()
    assert finished_run(stored, tmp_path / "run") is None


def test_finished_scores_are_opened_without_torch_and_changed_texts_are_scored_again(save_tiny, tmp_path):
    made = leakmech.bench(save_tiny("llama-gqa"), out=tmp_path / "run", **SETTINGS)
    scored = leakmech.score(made.path, out=tmp_path / "scored", estimator="vader")
    done = subprocess.run([sys.executable, "-c", SCORED, str(scored.path)], capture_output=True, text=True)
    assert done.stdout.split() == [str(scored.summary["overall"]["auc_el"]), "False"], done.stderr
    with (made.path / "generations" / "shard-000.jsonl").open("a") as file:
        file.write("\n")
    assert Rescoring.of(None, out=scored.path, columns=None, settings={}).as_it_was() is None


def test_what_shows_and_compares_finished_runs_imports_no_torch():
    modules = (
        "reports.examples",
        "studies.leaderboard.run",
        "studies.benchmark.report",
        "studies.benchmark.comparison",
    )
    code = f"import sys, {', '.join(f'leakmech.{module}' for module in modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
