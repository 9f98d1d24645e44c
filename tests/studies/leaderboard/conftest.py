"""Sweeps whose cells are runs with scores of known truth."""

from __future__ import annotations

from pathlib import Path

import pytest
from scored_runs import write_run

from leakmech.core.store import content_hash, write_json

MODELS = {
    "qwen-0.5b": {"architecture": "Qwen2ForCausalLM", "n_parameters": 494_000_000},
    "qwen-1.5b": {"architecture": "Qwen2ForCausalLM", "n_parameters": 1_540_000_000},
    "smol": {"architecture": "LlamaForCausalLM", "n_parameters": 134_515_008},
    "texts": None,
}
LEAKAGE = {"qwen-0.5b": 0.6, "qwen-1.5b": 0.2, "smol": 0.6, "texts": 0.5}
FAILURE = "x: is not a model; did you mean 'y'?"


def key_of(model: str, dataset: str) -> str:
    return content_hash(model, dataset)[:12]


def write_sweep(folder: Path, models=MODELS, datasets=("hexl", "events"), *, failed=("smol", "events")) -> Path:
    """A finished sweep of models x data sets; one cell failed, and a model named ``late`` is not begun."""
    cells = {}
    for number, dataset in enumerate(datasets):
        for place, model in enumerate(models):
            key = key_of(model, dataset)
            cells[key] = {"model": model, "dataset": dataset}
            if (model, dataset) == failed:
                write_json(folder / "failed" / f"{key}.json", {"told": FAILURE})
                continue
            write_run(
                folder / "cells" / key, model=models[model], leakage=LEAKAGE.get(model, 0.5), seed=place, n=24, k=4,
                samples=dataset, dataset=dataset, dataset_hash=f"d{number}",
                summary_model=model,
            )  # fmt: skip
        cells[key_of("late", dataset)] = {"model": "late", "dataset": dataset}
    record = {"format_version": 1, "study": "bench", "axes": ["model", "dataset"], "threads": 1}
    write_json(folder / "sweep.json", {**record, "cells": cells, "former": {}})
    return folder


@pytest.fixture
def swept(tmp_path) -> Path:
    return write_sweep(tmp_path / "swept")
