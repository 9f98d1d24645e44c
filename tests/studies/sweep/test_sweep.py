"""Sweeps: cells by content, what is refused, the same numbers with one worker and two, failures that stop nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.core.store import write_jsonl
from leakmech.studies.results import load_result
from leakmech.studies.sweep.run import sweep, sweep_plan
from leakmech.studies.sweep.spec import read_sweep, sweep_of

SMALL = {"dataset": "hexl", "limit": 2, "generations": 1, "max_new_tokens": 4, "noise_floor": False,
         "bootstrap_draws": 100, "estimator": "vader", "dtype": "float32", "device": "cpu"}  # fmt: skip


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_grid_is_all_combinations_with_keys_that_stay():
    grid = {"seed": [0, 1], "temperature": [0.7, 1.0], "adapter": [None, "runs/a"]}
    found = sweep_of("bench", {"generations": 2}, grid)
    assert len(found.cells) == 8
    assert len({cell.key for cell in found.cells}) == 8
    cell = found.cells[0]
    assert cell.values == {"generations": 2, "seed": 0, "decoding": {"temperature": 0.7}, "adapter": None}
    assert cell.name == "seed=0, temperature=0.7, adapter=none"
    longer = sweep_of("bench", {"generations": 2}, {**grid, "seed": [2, 1, 0]})
    assert {cell.key for cell in found.cells} < {cell.key for cell in longer.cells}
    rest = {"seed": [0, 1], "adapter": [None, "runs/a"]}
    dotted = sweep_of("bench", {"generations": 2, "decoding.temperature": 0.7}, rest)
    assert {cell.key[-8:] for cell in dotted.cells} < {cell.key[-8:] for cell in found.cells}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"studdy": "bench"}, "unknown key 'studdy'.*study.*a sweep has study, base, grid"),
        ({"study": "benhc"}, "no such study.*bench"),
        ({"grid": {"sed": [1]}}, "unknown setting 'sed'.*seed"),
        ({"base": {"generatoins": 1}}, "unknown setting 'generatoins'.*generations"),
        ({"grid": {"seed": []}}, "grid: seed: give a list of one value or more"),
        ({"grid": {"seed": 3}}, "grid: seed: give a list of one value or more, found 3"),
        ({"base": {"seed": 1}, "grid": {"seed": [1, 2]}}, "seed is in base and in grid"),
        ({"base": {"decoding": {"temperature": 1.0}}, "grid": {"temperature": [1.0]}}, "temperature is in base and in grid"),
        ({"grid": {"seed": [1, 1]}}, "two cells are the same: seed=1"),
        ({"grid": {"generations": [1, 0]}}, "cell generations=0.*generations"),
        ({"grid": ["seed"]}, "grid: give a mapping of settings"),
        ({"grid": {"seed": list(range(400)), "limit": list(range(1, 300))}}, "119,600 cells are more than 100,000"),
    ],
)  # fmt: skip
def test_a_sweep_that_cannot_be_is_refused_in_a_line(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        read_sweep(write(tmp_path / "sweep.yaml", **values))


def test_studies_sweep_as_well():
    found = sweep_of(
        "study persona-leakage", {"examples": 20}, {"behaviour": [["marker"], ["refusal"]], "seed": [0, 1]}
    )
    assert [cell.key[:-9] for cell in found.cells] == ["marker-0", "marker-1", "refusal-0", "refusal-1"]
    assert sweep_of("mitigate", {}, {"model": ["a", "b"]}).cells[0].values == {"model": "a"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    from tests.tiny_models import build_tiny, build_tokenizer

    folders = []
    for seed in (0, 1):
        folder = tmp_path_factory.mktemp("models") / f"tiny{seed}"
        build_tiny("llama-gqa", seed).save_pretrained(folder)
        build_tokenizer(chat=True).save_pretrained(folder)
        folders.append(str(folder))
    return folders


def numbers(folder):
    found = {}
    for file in sorted((folder / "cells").glob("*/summary.json")):
        own = json.loads(file.read_text())
        own.pop("timing")
        found[file.parent.name] = own
    return found


@pytest.mark.slow
def test_two_workers_and_a_killed_driver_give_the_numbers_of_one(models, tmp_path):
    config = write(
        tmp_path / "sweep.yaml", base=SMALL, grid={"model": [*models, str(tmp_path / "none")], "seed": [0, 1]}
    )
    one = sweep(config, tmp_path / "one", workers=1, threads=1)
    assert one.cells["state"].tolist() == ["done"] * 4 + ["failed"] * 2
    assert "none" in one.cells["told"].iloc[-1]
    assert not one.complete
    words = [sys.executable, "-m", "leakmech", "sweep", str(config), "--out", str(tmp_path / "two"), "--workers", "2",
             "--threads", "1"]  # fmt: skip
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None and len(list((tmp_path / "two" / "cells").glob("*/summary.json"))) < 1:
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    deadline = time.monotonic() + 120
    while True:  # cells that the killed driver began go on by themselves and are left alone
        two = sweep(config, tmp_path / "two", workers=2)
        if (two.cells["state"] == "done").sum() == 4 or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    table = two.table("sweep")
    assert len(table) == 4
    assert {"model", "seed", "overall.auc_el", "overall.auc_el_low"} <= set(table.columns)
    assert load_result(tmp_path / "two").summary["threads"] == 1
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "two")])
    assert shown.exit_code == 0, shown.output
    assert "4 done, 2 failed" in shown.output


def test_what_failed_is_tried_again_only_on_demand(tmp_path):
    missing = tmp_path / "data.jsonl"
    config = write(
        tmp_path / "sweep.yaml", study="bench", base={**SMALL, "dataset": str(missing), "model": str(tmp_path)}
    )
    first = sweep(config, tmp_path / "out", threads=1)
    assert first.cells["state"].tolist() == ["failed"]
    log = next((tmp_path / "out" / "logs").iterdir())
    size = log.stat().st_size
    assert sweep(config, tmp_path / "out").cells["state"].tolist() == ["failed"]
    assert log.stat().st_size == size
    write_jsonl(missing, [{"id": "a", "stem": "It is", "positive": "Joy!", "neutral": "Tea.", "negative": "Woe!"}])
    assert sweep(config, tmp_path / "out", retry_failed=True).n_failed == 1  # now the model is missing
    assert log.stat().st_size > size


def test_a_plan_writes_nothing_and_says_what_is_left(tmp_path):
    config = write(tmp_path / "sweep.yaml", grid={"seed": [0, 1, 2]})
    table = sweep_plan(config, tmp_path / "out")
    assert [row[-1] for row in table.rows] == ["to do"] * 3
    assert table.notes[0] == "3 cells of `leakmech bench`, 0 done, 3 left"
    assert not (tmp_path / "out").exists()
    shown = CliRunner().invoke(app, ["sweep", str(config), "--dry-run"])
    assert shown.exit_code == 0


def test_another_sweep_is_not_continued(tmp_path):
    from leakmech.studies.sweep.run import Places, _begun

    out = Places(tmp_path / "out")
    bench, mitigate = sweep_of("bench", {}, {"seed": [0]}), sweep_of("mitigate", {}, {"seed": [0]})
    assert _begun(out, bench, 2, given=True) == 2
    assert _begun(out, sweep_of("bench", {}, {"seed": [0, 1]}), 4, given=False) == 2
    assert len(json.loads((out.root / "sweep.json").read_text())["cells"]) == 2
    with pytest.raises(RunDirectoryError, match="its workers have 2 threads"):
        _begun(out, bench, 4, given=True)
    with pytest.raises(RunDirectoryError, match="holds a sweep of `leakmech bench`"):
        _begun(out, mitigate, 2, given=False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty and holds no sweep"):
        _begun(Places(tmp_path / "mine"), bench, 2, given=False)
