"""Finished benchmark runs with scores whose truth is known, written as a run leaves them: no model is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from leakmech.core.store import write_json, write_parquet
from leakmech.datasets.samples import CONDITIONS, INJECTIONS
from leakmech.scoring.records import column

SIGN = {"control": 0, "positive": 1, "neutral": 0, "negative": -1}


def scores(*, n, k, leakage, noise_seed, samples):
    """A table of scores; runs with one `noise_seed` are coupled."""
    noise, stems = np.random.default_rng(noise_seed), np.random.default_rng(99)
    stem, strength = stems.normal(size=n), leakage + stems.normal(scale=0.3, size=n)
    frames = []
    for condition in CONDITIONS:
        mean = stem + SIGN[condition] * strength
        glad = 1 / (1 + np.exp(-(mean[:, None] + noise.normal(size=(n, k))).ravel()))
        frame = pd.DataFrame(
            {
                "sample": np.repeat([f"{samples}{i}" for i in range(n)], k),
                "condition": condition,
                "generation": np.tile(np.arange(k), n),
                "resampled": False,
            }
        )
        for policy, scale in (("echo-free", 0.8), ("raw", 0.4)):
            values = {"negative": scale * (1 - glad), "neutral": 1 - scale, "positive": scale * glad}
            for name, p in values.items():
                frame[column(policy, name)] = p
            for name in INJECTIONS:  # one answer in five of a charged prompt is about the injection
                own = (np.arange(n * k) % 5 == 0) & (condition == name)
                frame[column(policy, f"topic_{name}")] = np.where(own, 0.01, 0.5)
            for injection in INJECTIONS:
                frame[column(policy, f"similarity_{injection}")] = 0.5
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def write_run(folder: Path, *, leakage=0.5, seed=0, n=40, k=5, samples="s", model=None, **recorded) -> Path:
    """A finished run; `model` is what ``run.json`` says of the model, more settings are recorded in the summary."""
    identity = {"dataset": "d1", "estimator": "e1", "encoder": "n1"} | {
        key: recorded.pop(f"{key}_hash") for key in ("dataset", "estimator", "encoder") if f"{key}_hash" in recorded
    }
    config = {key: recorded.pop(key) for key in ("echo_similarity",) if key in recorded}
    record = {"format_version": 1, "kind": "bench", "command": recorded.pop("command", "bench")}
    facts = {} if model is None else {"model": model}
    write_json(folder / "run.json", record | {"config": config, "fingerprint": identity} | facts)
    frame = scores(n=n, k=k, leakage=leakage, noise_seed=seed, samples=samples)
    write_parquet(folder / "scores.parquet", frame)
    summary = {
        "model": recorded.pop("summary_model", "tiny"),
        "dataset": "hexl",
        "n_samples": n,
        "generations": k,
        "seed": seed,
        "dtype": "float32",
        "estimator": "embedded",
        "cleaning": "echo-free",
    }
    write_json(folder / "summary.json", summary | recorded)
    return folder
