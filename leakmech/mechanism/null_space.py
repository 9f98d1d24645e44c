"""A linear map that takes something out of activations and leaves others alone: the null-space projector.

After AlphaSteer (Sheng et al. 2025). Let K hold activations that must stay, one a column, X those that shall change,
and Y what they shall become. The eigenvectors of K K^T with the least eigenvalues, as many as have together at most a
given share of the energy tr(K K^T), span the directions U that what must stay hardly uses; P = U U^T. The map is

    x -> x + D P x,    D = argmin |D P X - (Y - X)|^2 + l |D P|^2,

in closed form, with Z = U^T X,

    D P = M U^T,    M = (Y - X) Z^T (Z Z^T + l I)^-1,    l = ridge * tr(Z Z^T) / dim U.

For k in the span of the directions that were kept out, D P k = 0: it stays exactly. The map is cut to a given rank by
the principal directions of its own fitted values (reduced-rank regression), which leaves U^T on the right.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import ActivationError

RIDGE = 0.1
RANK = 16


@dataclass(frozen=True, eq=False)
class NullSpaceMap:
    """x -> x + writes @ reads @ x."""

    writes: Float[Tensor, "d_model rank"]
    reads: Float[Tensor, "rank d_model"]
    free: int
    """Number of directions that what must stay hardly uses: dim U."""

    def __call__(self, x: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """Apply it to rows."""
        return x + (x @ self.reads.to(x).T) @ self.writes.to(x).T


def fit_null_space_map(
    kept: Float[Tensor, "k d_model"],
    found: Float[Tensor, "n d_model"],
    wanted: Float[Tensor, "n d_model"],
    *,
    share: float,
    ridge: float = RIDGE,
    rank: int = RANK,
) -> NullSpaceMap:
    """Fit the map from `found` to `wanted` that leaves `kept` alone; in float64.

    Parameters
    ----------
    kept
        Activations that must stay, one a row.
    found, wanted
        Activations that shall change, and what each shall become.
    share
        Largest share of the energy of `kept` that the directions may hold in which the map reads.
    ridge
        Strength of the penalty, as a share of the mean energy of a direction.
    rank
        Largest rank of the map.

    Returns
    -------
    NullSpaceMap
        Matrices in float32, of rank `rank` (or d_model) whatever the number of free directions, to be stacked by layer.

    Raises
    ------
    ActivationError
        No direction is free at this share.
    """
    free = free_directions(kept, share)
    if not free.shape[1]:
        raise ActivationError(
            f"null space: no direction holds less than {share:g} of the energy of what must stay; allow a larger share"
        )
    x, step = found.double(), wanted.double() - found.double()
    z = x @ free
    gram = z.T @ z
    gram += torch.eye(len(gram), dtype=gram.dtype) * (ridge * gram.diagonal().mean()).clamp_min(1e-12)
    m = torch.linalg.solve(gram, z.T @ step).T
    strongest = torch.linalg.eigh(m @ gram @ m.T).eigenvectors.flip(1)[:, :rank]
    writes, reads = strongest, strongest.T @ m @ free.T
    return NullSpaceMap(writes.float().contiguous(), reads.float().contiguous(), free.shape[1])


def free_directions(kept: Float[Tensor, "k d_model"], share: float) -> Float[Tensor, "d_model free"]:
    """Orthonormal directions that together hold at most `share` of the energy of `kept`."""
    vectors = kept.double()
    values, directions = torch.linalg.eigh(vectors.T @ vectors)  # ascending
    held = values.clamp_min(0).cumsum(0) / values.clamp_min(0).sum()
    return directions[:, held <= max(share, 1e-12)]


def relative_change(made: NullSpaceMap, x: Float[Tensor, "n d_model"]) -> float:
    """Length of what the map adds to `x`, as a share of the length of `x` (root mean squares)."""
    x = x.float()
    return float((made(x) - x).norm() / x.norm())
