"""A worker that makes job after job: it keeps the model, gives the numbers of a process of its own, and may die."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from leakmech.cli import worker
from leakmech.runs.executor import LEAKMECH, Job, Slot, run_local

_SMALL = [
    "--dataset", "hexl", "--limit", "2", "--generations", "1", "--max-new-tokens", "4", "--no-noise-floor",
    "--no-report", "--bootstrap-draws", "100", "--estimator", "vader", "--dtype", "float32", "--device", "cpu",
]  # fmt: skip


def _job(folder: Path, name: str, *words: str) -> Job:
    return Job(name, (*LEAKMECH, *words), folder / name, folder / f"{name}.log", folder / "claims" / name)


def _bench(folder: Path, name: str, model: Path, *more: str) -> Job:
    return _job(folder, name, "bench", "--model", str(model), *_SMALL, *more, "--out", str(folder / name))


def _numbers(job: Job) -> dict[str, Any]:
    summary = json.loads((job.folder / "summary.json").read_text())
    summary.pop("timing")
    return summary


@pytest.mark.long
def test_jobs_of_one_worker_equal_those_of_processes_and_a_failure_stops_none(tmp_path, save_tiny):
    model = save_tiny()
    warm = [
        _bench(tmp_path, "a", model),
        _job(tmp_path, "bad", "bench", "--model", str(tmp_path / "nowhere"), "--out", str(tmp_path / "bad")),
        _bench(tmp_path, "b", model, "--seed", "1"),
    ]
    cold = _bench(tmp_path, "alone", model, "--seed", "1")
    ended = {own.job.key: own for own in run_local(warm, [Slot(1)], warm=True)}
    assert {key: own.ended for key, own in ended.items()} == {"a": "done", "bad": "failed", "b": "done"}
    assert "nowhere: no such folder" in ended["bad"].told
    assert [own.ended for own in run_local([cold], [Slot(1)])] == ["done"]
    assert _numbers(warm[2]) == _numbers(cold) != _numbers(warm[0])
    assert "run: " in warm[2].log.read_text()  # what it printed went into its own log


@pytest.mark.long
def test_a_worker_that_dies_costs_its_job_and_the_next_has_another(tmp_path, save_tiny):
    jobs = [_bench(tmp_path, name, save_tiny()) for name in ("a", "b")]
    seen = list[str]()

    def kill() -> None:
        while not (tmp_path / "a" / "run.json").exists():
            time.sleep(0.02)
        own = next(int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit() and _is_worker(p))
        seen.append("killed")
        os.kill(own, signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    ended = {own.job.key: own for own in run_local(jobs, [Slot(1)], warm=True)}
    assert seen == ["killed"]
    assert (ended["a"].ended, ended["a"].told) == ("failed", "killed by SIGKILL")
    assert ended["b"].ended == "done"
    [again] = run_local(jobs[:1], [Slot(1)], warm=True)  # what it held is free
    assert again.ended == "done"


def _is_worker(process: Path) -> bool:
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
        parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return False
    return b"leakmech.cli.worker" in words and parent == os.getpid()


@pytest.mark.long
def test_leaving_early_lets_the_worker_save_and_ends_it(tmp_path, save_tiny):
    jobs = [_bench(tmp_path, name, save_tiny(), "--limit", "60", "--generations", "8") for name in ("a", "b")]
    found = run_local(jobs, [Slot(1)], warm=True)

    def interrupt() -> None:
        while not (tmp_path / "a" / "run.json").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        list(found)
    assert "continue with" in jobs[0].log.read_text()
    assert not any(_is_worker(p) for p in Path("/proc").iterdir() if p.name.isdigit())
    assert not (tmp_path / "b").exists()


def test_what_nobody_expected_is_in_the_log_and_ends_the_job_only(tmp_path, monkeypatch, capfd):
    def broken() -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(worker, "main", broken)
    with capfd.disabled():  # else sys.stderr is not descriptor 2
        assert worker._run(["bench"], tmp_path / "job.log") == 1
    assert "ZeroDivisionError: a fault of ours" in (tmp_path / "job.log").read_text()
