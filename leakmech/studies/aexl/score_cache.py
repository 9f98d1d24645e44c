"""An estimator's scores of long streams of texts, kept on disk in chunks.

A chunk is named after the estimator and the very texts it holds, so that it can never be taken for another: scores
survive a kill (all but the chunk in progress), serve every later selection from the same texts, and are made anew
when texts or estimator change. Scores are float32, whether they were just computed or read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from leakmech.core.errors import StorageError
from leakmech.core.paths import cache_root
from leakmech.core.store import atomic_path, content_hash
from leakmech.scoring.classifiers import LABELS
from leakmech.scoring.expression import Estimator, estimator_hash

CHUNK = 512
"""Texts in a chunk: what a kill costs at most."""


@dataclass
class ScoreCache:
    """Scores by `estimator`, kept under `folder` (by default in :func:`leakmech.core.paths.cache_root`).

    Attributes
    ----------
    computed, reused
        Texts that the estimator has read, and texts whose scores were found on disk.
    """

    estimator: Estimator
    folder: Path | None = None
    computed: int = 0
    reused: int = 0
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        self.identity = estimator_hash(self.estimator)

    def scores(self, texts: Sequence[str]) -> Float32[np.ndarray, "n 3"]:
        """Scores of a chunk of texts (any number of them; the caller's division into chunks is what is kept)."""
        if not texts:
            return np.zeros((0, len(LABELS)), dtype=np.float32)
        root = cache_root() / "scores" if self.folder is None else self.folder
        path = root / self.identity / f"{content_hash(*texts)}.npy"
        if path.exists():
            self.reused += len(texts)
            return _read(path, len(texts))
        scores = np.asarray(self.estimator(texts), dtype=np.float32)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, scores, allow_pickle=False)
        self.computed += len(texts)
        return scores


def _read(path: Path, n: int) -> Float32[np.ndarray, "n 3"]:
    try:
        scores = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        raise StorageError(f"{path}: damaged ({problem}); delete it to have its texts scored again") from problem
    if scores.shape != (n, len(LABELS)):
        raise StorageError(f"{path}: holds scores of {len(scores)} texts instead of {n}; delete it")
    return scores
