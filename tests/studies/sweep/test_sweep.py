"""Sweeps: cells by content, what is refused, the same numbers with one worker and two, failures that stop nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.core.store import write_jsonl
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.results import load_result
from leakmech.studies.sweep.cost import sweep_plan
from leakmech.studies.sweep.result import Places
from leakmech.studies.sweep.run import Workers, _begun, sweep
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
    assert {name: cell.values[name] for name in ("generations", "seed", "adapter")} == {
        "generations": 2, "seed": 0, "adapter": None,
    }  # fmt: skip
    assert cell.values["decoding"]["temperature"] == 0.7
    assert cell.name == "seed=0, temperature=0.7, adapter=none"
    longer = sweep_of("bench", {"generations": 2}, {**grid, "seed": [2, 1, 0]})
    assert {cell.key for cell in found.cells} < {cell.key for cell in longer.cells}
    rest = {"seed": [0, 1], "adapter": [None, "runs/a"]}
    dotted = sweep_of("bench", {"generations": 2, "decoding.temperature": 0.7}, rest)
    assert {cell.key for cell in dotted.cells} < {cell.key for cell in found.cells}
    turned = sweep_of("bench", {"generations": 2}, dict(reversed(grid.items())))
    assert {cell.key for cell in turned.cells} == {cell.key for cell in found.cells}
    in_bfloat16 = sweep_of("bench", {"generations": 2, "dtype": "bfloat16"}, grid)
    assert not {cell.key for cell in in_bfloat16.cells} & {cell.key for cell in found.cells}


def test_a_field_of_a_group_leaves_the_rest_of_the_group_as_it_is():
    found = sweep_of("bench", {"contrast": "subtract-context"}, {"contrast_strength": [1, 2]})
    expected = [BenchConfig.parse({"contrast": {"preset": "subtract-context", "strength": n}}) for n in (1, 2)]
    assert [BenchConfig.parse(dict(cell.values)).contrast for cell in found.cells] == [own.contrast for own in expected]
    with pytest.raises(ConfigError, match="contrast-strength: of which rule"):
        sweep_of("bench", {}, {"contrast_strength": [1, 2]})
    base = {"decoding": {"top_p": 0.8}}
    cells = sweep_of("bench", base, {"temperature": [0.5]}).cells
    assert (cells[0].values["decoding"]["top_p"], cells[0].values["decoding"]["temperature"]) == (0.8, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"studdy": "bench"}, "unknown key 'studdy'.*study.*a sweep has study, base, grid"),
        ({"study": "benhc"}, "no such study.*bench"),
        ({"grid": {"sed": [1]}}, "unknown setting 'sed'.*seed"),
        ({"base": {"generatoins": 1}}, "unknown setting 'generatoins'.*generations"),
        ({"grid": {"seed": []}}, "grid: seed: give a list of one value or more"),
        ({"grid": {"seed": 3}}, "grid: seed: give a list of one value or more, found 3"),
        ({"base": {"seed": 1}, "grid": {"seed": [1, 2]}}, "seed and seed give the same setting"),
        ({"base": {"decoding": {"temperature": 1.0}}, "grid": {"temperature": [1.0]}}, "decoding and temperature give"),
        ({"grid": {"seed": [1, 1]}}, "two cells are the same: seed=1 and seed=1"),
        ({"grid": {"generations": [1, 0]}}, "cell generations=0.*generations"),
        ({"study": ["bench"]}, "no such study"),
        ({"grid": {"temperature": [0.7], "decoding.temperature": [1.0]}}, "give the same setting"),
        ({"grid": {"temperature": [0.7], "decoding": [{"top_p": 0.9}]}}, "decoding and temperature give the same"),
        ({"grid": {"temperature": [float("inf")]}}, "cell temperature=inf"),
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
    assert [cell.name for cell in found.cells] == [
        f"behaviour={behaviour}, seed={seed}" for behaviour in ("marker", "refusal") for seed in (0, 1)
    ]
    assert sweep_of("mitigate", {}, {"model": ["a", "b"]}).cells[0].values == {"model": "a"}


def test_a_file_of_a_study_that_falls_apart_is_a_sweep():
    found = read_sweep(Path(__file__).parents[3] / "configs" / "persona_grid.yaml")
    assert (found.study, found.axes, len(found.cells)) == ("study persona-leakage", ("behaviour", "source"), 36)
    assert found.cells[1].name == "behaviour=marker, source=comedian"
    assert {name: found.cells[1].values[name] for name in ("behaviour", "source", "seeds")} == {
        "behaviour": ["marker"], "source": ["comedian"], "seeds": 3,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="unknown key 'model'"):
        read_sweep(Path(__file__).parents[3] / "configs" / "quickstart.yaml")


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
@pytest.mark.long
def test_two_workers_and_a_killed_driver_give_the_numbers_of_one(models, tmp_path):
    config = write(tmp_path / "sweep.yaml", base=SMALL, grid={"model": [*models, str(tmp_path / "none")]})
    one = sweep(config, tmp_path / "one", workers=1, threads=1)
    assert one.cells["state"].tolist() == ["done"] * 2 + ["failed"]
    assert "none" in one.cells["told"].iloc[-1]
    assert not one.complete
    words = [sys.executable, "-m", "leakmech", "sweep", str(config), "--out", str(tmp_path / "two"), "--workers", "2",
             "--threads", "1"]  # fmt: skip
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while driver.poll() is None and len(list((tmp_path / "two" / "cells").glob("*/summary.json"))) < 1:
        time.sleep(0.1)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    two = sweep(config, tmp_path / "two", workers=2)  # what the killed driver began goes on by itself and is waited for
    assert two.cells["state"].tolist() == one.cells["state"].tolist()
    assert numbers(tmp_path / "two") == numbers(tmp_path / "one")
    table = two.table("sweep")
    assert len(table) == 2
    assert {"model", "overall.auc_el", "overall.auc_el_low"} <= set(table.columns)
    assert load_result(tmp_path / "two").summary["threads"] == 1
    shown = CliRunner().invoke(app, ["show", str(tmp_path / "two")])
    assert shown.exit_code == 0, shown.output
    assert "2 done, 1 failed" in shown.output


@pytest.mark.long
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
    told = CliRunner().invoke(app, ["sweep", str(config), "--out", str(tmp_path / "out")])
    assert told.exit_code == 1
    assert f"report: {tmp_path / 'out' / 'report.html'}" in told.output
    assert "1 failed" in (tmp_path / "out" / "report.html").read_text()


def test_a_plan_writes_nothing_and_says_what_is_left(tmp_path):
    config = write(tmp_path / "sweep.yaml", grid={"seed": [0, 1, 2]})
    table = sweep_plan(config, tmp_path / "out")
    assert [row[-3] for row in table.rows] == ["to do"] * 3
    assert table.notes[0] == "3 cells of `leakmech bench`, 0 done, 3 left"
    assert not (tmp_path / "out").exists()
    shown = CliRunner().invoke(app, ["sweep", str(config), "--dry-run"])
    assert shown.exit_code == 0


def begin(folder, found, **workers):
    return _begun(Places(folder), found, Workers.of(**{"workers": 1, "threads": None, "devices": (), **workers}))


def test_another_sweep_is_not_continued(tmp_path):
    out = tmp_path / "out"
    bench, mitigate = sweep_of("bench", {}, {"seed": [0]}), sweep_of("mitigate", {}, {"seed": [0]})
    assert begin(out, bench, threads=2) == 2
    assert begin(out, sweep_of("bench", {}, {"seed": [1, 2]})) == 2
    record = json.loads((out / "sweep.json").read_text())
    assert (len(record["cells"]), len(record["former"])) == (2, 1)
    with pytest.raises(RunDirectoryError, match="its workers have 2 threads"):
        begin(out, bench, threads=4)
    with pytest.raises(RunDirectoryError, match="holds a sweep of `leakmech bench`"):
        begin(out, mitigate)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="is not empty and holds no sweep"):
        begin(tmp_path / "mine", bench)
    with pytest.raises(RunDirectoryError, match="is a file"):
        begin(tmp_path / "mine" / "notes.txt", bench)
    (out / "sweep.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="damaged"):
        begin(out, bench)
    for wrong in ({"workers": 0}, {"threads": 0}, {"workers": 2, "devices": ("0", "0")}, {"devices": ("cuda",)}):
        with pytest.raises(ConfigError, match="worker"):
            Workers.of(**{"workers": None, "threads": None, "devices": (), **wrong})
