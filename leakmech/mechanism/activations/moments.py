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

from leakmech.core.errors import ActivationError, ConfigError, nearest
from leakmech.models.sites import Site


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and covariance of the activations of one site.

    Attributes
    ----------
    site
        For example ``resid_post``. Vectors of ``z`` are flat: head h is the slice ``[h * d_head, (h + 1) * d_head)``.
    count
        Vectors per condition and position.
    mean
        float64; NaN where there was no vector.
    covariance
        float64, with n - 1 below; NaN where there were fewer than two vectors. None where only means were asked for.
    conditions, positions, layers
        Labels of the axes.
    model_hash, dataset_hash
        What was run, and on what.
    """

    site: Site
    count: Int[Tensor, "condition position"]
    mean: Float[Tensor, "condition position layer width"]
    covariance: Float[Tensor, "condition position layer width width"] | None
    conditions: tuple[str, ...]
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    model_hash: str = ""
    dataset_hash: str = ""

    def mean_of(self, *, condition: str, position: str) -> Float[Tensor, "layer width"]:
        """Mean vectors of one condition at one position.

        Raises
        ------
        ConfigError
            A label is not there.
        ActivationError
            There were no vectors.
        """
        at = []
        for axis, label, known in (("condition", condition, self.conditions), ("position", position, self.positions)):
            if label not in known:
                raise ConfigError(f"{axis} {label!r} is not there{nearest(label, known)}")
            at.append(known.index(label))
        if int(self.count[at[0], at[1]]) == 0:
            raise ActivationError(f"no prompt has position {position!r} under condition {condition!r}")
        return self.mean[at[0], at[1]]


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
        """Merge a batch; rows are of the conditions of those indices."""
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
        """Counts, means and covariances."""
        count, mean, squares = self.count, self.mean.clone(), self.squares
        mean[count == 0] = torch.nan
        if squares is None:
            return count, mean, None
        below = (count - 1).double().where(count > 1, torch.nan)
        return count, mean, squares.div(rearrange(below, "c p -> c p 1 1 1"))
