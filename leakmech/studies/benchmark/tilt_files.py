"""The completions that are stored with the tilt of a run, apart from what draws and reads them with a model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from leakmech.core.store import read_jsonl_shard, write_jsonl
from leakmech.runs.directory import RunDirectory
from leakmech.scoring.leakage import valence_of

if TYPE_CHECKING:
    from leakmech.scoring.expression import Estimator

Completions = dict[str, dict[str, Any]]
"""Lines of ``completions.jsonl`` by sample."""


def read_completions(files: RunDirectory) -> Completions:
    """The completions that are stored with a run."""
    return {line["sample"]: line for line in read_jsonl_shard(files.tilt_completions_file)}


def with_valence(lines: Completions, estimators: Sequence[Estimator]) -> Completions:
    """Completions with the valence of what is scored of each, by these estimators."""
    sentences = [completion["sentence"] for line in lines.values() for completion in line["completions"]]
    columns: dict[str, Iterator[float]] = {}
    for estimator in estimators:
        found = np.asarray(estimator(sentences)) if sentences else np.zeros((0, 3))
        columns[estimator.name] = iter(valence_of(found).astype(float).tolist())
    return {
        sample: line
        | {
            "completions": [
                {**completion, "valence": {name: next(values) for name, values in columns.items()}}
                for completion in line["completions"]
            ]
        }
        for sample, line in lines.items()
    }


def copy_tilt(source: RunDirectory, target: RunDirectory, estimators: Sequence[Estimator]) -> bool:
    """Take over another run's completions and likelihoods, with valence by other estimators; False: it has none."""
    if not source.tilt_likelihoods_file.exists():
        return False
    write_jsonl(
        target.tilt_completions_file, with_valence(read_completions(source), estimators).values(), checksums=True
    )
    shutil.copyfile(source.tilt_likelihoods_file, target.tilt_likelihoods_file)
    return True
