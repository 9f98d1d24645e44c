"""Means and covariances of activations, without keeping the activations.

Per condition, position and layer, with n vectors x,

    m = sum x / n,    C = sum (x - m)(x - m)^T / (n - 1),

both in float64. Batches are merged by the update of Chan, Golub & LeVeque (1983),

    M = M_a + M_b + d d^T n_a n_b / (n_a + n_b),    d = m_b - m_a,

where M is the sum of squares about the mean, so nothing cancels however large the mean is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from leakmech.models.sites import Site


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the activations of one site, in float64.

    Vectors of ``z`` are flat: head h is the slice ``[h * d_head, (h + 1) * d_head)``.
    """

    site: Site
    count: Int[Tensor, "condition position"]
    """The number of vectors."""
    mean: Float[Tensor, "condition position layer width"]
    """NaN where there was no vector."""
    covariance: Float[Tensor, "condition position layer width width"] | None
    """Divided by n - 1; NaN where there were fewer than two vectors, None where only means were asked for."""
    conditions: tuple[str, ...]
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    model_hash: str = ""
    dataset_hash: str = ""


class RunningMoments:
    """Accumulates the moments of one site; memory does not grow with the number of vectors."""

    def __init__(self, shape: Sequence[int], width: int, *, covariance: bool) -> None:
        self.count = torch.zeros(*shape[:2], dtype=torch.long)
        self.mean = torch.zeros(*shape, width, dtype=torch.float64)
        squares = (*shape, width, width)
        self.squares = torch.zeros(squares, dtype=torch.float64) if covariance else None

    def add(
        self,
        values: Float[Tensor, "row position layer width"],
        present: Bool[Tensor, "row position"],
        conditions: Int[Tensor, " row"],
    ) -> None:
        """Merge a batch; `conditions` holds the index of each row's condition."""
        for condition in conditions.unique().tolist():
            for position in range(values.shape[1]):
                kept = (conditions == condition) & present[:, position]
                if bool(kept.any()):
                    self._merge(condition, position, values[kept, position].double())

    def _merge(self, condition: int, position: int, vectors: Float[Tensor, "row layer width"]) -> None:
        before, new = int(self.count[condition, position]), len(vectors)
        total = before + new
        mean = vectors.mean(dim=0)
        step = mean - self.mean[condition, position]
        if self.squares is not None:
            centred = rearrange(vectors - mean, "row layer width -> layer row width")
            shift = (before * new / total) ** 0.5 * step
            # The shift of the mean is one more row of deviations.
            deviations = torch.cat([centred, rearrange(shift, "layer width -> layer 1 width")], dim=1)
            self.squares[condition, position].baddbmm_(deviations.mT, deviations)
        self.mean[condition, position] += step * (new / total)
        self.count[condition, position] = total

    def finish(
        self,
    ) -> tuple[
        Int[Tensor, "condition position"],
        Float[Tensor, "condition position layer width"],
        Float[Tensor, "condition position layer width width"] | None,
    ]:
        """Give counts, means and covariances."""
        count, mean, squares = self.count, self.mean.clone(), self.squares
        mean[count == 0] = torch.nan
        if squares is None:
            return count, mean, None
        below = (count - 1).double().where(count > 1, torch.nan)
        return count, mean, squares.div(rearrange(below, "c p -> c p 1 1 1"))
