"""An estimator that reads a class off one adjective, for tests of building AEXL."""

from __future__ import annotations

import numpy as np


class WordEstimator:
    """Sure of the class that an adjective names; else neutral. Counts what it reads."""

    name = "adjectives"

    def __init__(self, *, fail_after: int | None = None) -> None:
        self.details = {"name": self.name}
        self.n_read = self.n_calls = 0
        self.fail_after = fail_after

    def __call__(self, texts, /):
        if self.n_calls == self.fail_after:
            raise KeyboardInterrupt
        self.n_calls += 1
        self.n_read += len(texts)
        rows = np.full((len(texts), 3), 0.1)
        for row, text in zip(rows, texts, strict=True):
            row[0 if "awful" in text else 2 if "lovely" in text else 1] = 0.8 - (len(text) % 7) / 100
        return rows / rows.sum(axis=1, keepdims=True)
