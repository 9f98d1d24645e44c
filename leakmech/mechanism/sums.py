"""Sums of rows by key, most often by sample, in float64.

    sums[k] = sum over rows r with key k of values[r]

Rows come in batches of like length, so those of one sample stand in several batches, and memory grows with the number
of samples only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


class KeyedSums:
    """Sums that rows of one `shape` are added to, on the CPU, in the order in which `keys` first appear."""

    def __init__(self, keys: Iterable[Hashable], *shape: int) -> None:
        self._rows = {key: row for row, key in enumerate(dict.fromkeys(keys))}
        self.sums: Float[Tensor, "key ..."] = torch.zeros(len(self._rows), *shape, dtype=torch.float64)

    def add(self, keys: Iterable[Hashable], values: Float[Tensor, "row ..."]) -> None:
        """Add rows, each to the sum of its key; rows that are shorter along their first axis count there only."""
        sums = self.sums if values.dim() == 1 else self.sums[:, : values.shape[1]]
        sums.index_add_(0, torch.tensor([self._rows[key] for key in keys]), values.cpu().double())

    def numpy(self) -> Float[np.ndarray, "key ..."]:
        """Give the sums, in the order of the keys."""
        return self.sums.numpy()
