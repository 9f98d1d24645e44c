"""A sweep of 2 models x 2 sets x 3 temperatures has the same numbers, whoever makes it and whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from leakmech.core.store import write_jsonl
from leakmech.runs.ray_executor import Cluster
from leakmech.studies.sweep.run import sweep

pytestmark = [pytest.mark.slow, pytest.mark.long]
N_CELLS = 12


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The file of the sweep."""
    from tests.tiny_models import build_tiny, build_tokenizer

    folder = tmp_path_factory.mktemp("sweep")
    for seed in (0, 1):
        build_tiny("llama-gqa", seed).save_pretrained(folder / f"tiny{seed}")
        build_tokenizer(chat=True).save_pretrained(folder / f"tiny{seed}")
        stems = [f"House {seed} looks", f"Room {seed} has"]
        samples = [
            {"id": f"s{n}", "stem": stem, "positive": "I love it.", "neutral": "It is so.", "negative": "I hate it."}
            for n, stem in enumerate(stems)
        ]
        write_jsonl(folder / f"set{seed}.jsonl", samples)
    base = {"generations": 1, "max_new_tokens": 4, "noise_floor": False, "bootstrap_draws": 100, "estimator": "vader",
            "dtype": "float32", "device": "cpu"}  # fmt: skip
    grid = {
        "model": [str(folder / f"tiny{seed}") for seed in (0, 1)],
        "dataset": [str(folder / f"set{seed}.jsonl") for seed in (0, 1)],
        "temperature": [0.7, 1.0, 1.3],
    }
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump({"base": base, "grid": grid}))
    return file


def numbers(folder):
    """What the finished cells found, but for the time it took."""
    found = {file.parent.name: json.loads(file.read_text()) for file in (folder / "cells").glob("*/summary.json")}
    return {key: {name: own[name] for name in own if name != "timing"} for key, own in found.items()}


@pytest.fixture(scope="module")
def one(config, tmp_path_factory):
    """The numbers that one process finds."""
    out = tmp_path_factory.mktemp("one") / "out"
    assert sweep(config, out, workers=1, threads=1).complete
    found = numbers(out)
    assert len(found) == N_CELLS
    assert len({json.dumps(own, sort_keys=True) for own in found.values()}) == N_CELLS
    return found


def wait_for(folder, n, *, while_running=lambda: True):
    """Wait until so many cells are done."""
    while while_running() and len(list((folder / "cells").glob("*/summary.json"))) < n:
        time.sleep(0.05)


def test_two_processes_whose_driver_is_killed_and_started_again(config, one, tmp_path):
    out = tmp_path / "two"
    words = [
        sys.executable,
        "-m",
        "leakmech",
        "sweep",
        str(config),
        "--out",
        str(out),
        "--workers",
        "2",
        "--threads",
        "1",
    ]
    driver = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(out, 2, while_running=lambda: driver.poll() is None)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(numbers(out)) < N_CELLS
    assert sweep(config, out, workers=2).complete
    assert numbers(out) == one


def test_two_nodes_of_ray_of_which_one_is_killed(config, one, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'leakmech[ray]'")
    from ray.cluster_utils import Cluster as Nodes

    out, nodes = (
        tmp_path / "ray",
        Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}),
    )
    second = nodes.add_node(num_cpus=1)

    def kill() -> None:
        wait_for(out, 3)
        nodes.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    try:
        found = sweep(config, out, workers=2, threads=1, cluster=Cluster(nodes.address))
    finally:
        nodes.shutdown()
    assert not killer.is_alive()
    assert found.complete
    assert numbers(out) == one
