"""A direction of affect without what another kind of affect moves, too.

Let d be the mean shift of activations x_positive - x_negative of samples whose affect is to go, and S the shifts of
samples whose affect must stay, one a row. The directions that are kept out are the mean of S, then the first principal
directions of what is left of S beside it; with k of them as the orthonormal columns of R,

    v_k = (d - R R^T d) / |d - R R^T d|.

v_0 is d itself. Whatever moves along v_k leaves projections on the k directions as they are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import DirectionError

_LEAST = 1e-6
"""Of d: what is left of it below this share is rounding."""


def kept_directions(shifts: Float[Tensor, "n d_model"], k: int) -> Float[Tensor, "d_model k"]:
    """The orthonormal directions in which the shifts lie: their mean first, then principal ones; in float64."""
    rows = shifts.double()
    if not k:
        return rows.new_zeros(rows.shape[1], 0)
    first = torch.nn.functional.normalize(rows.mean(0), dim=0)
    rest = rows - (rows @ first)[:, None] * first
    principal = torch.linalg.svd(rest, full_matrices=False).Vh[: k - 1]
    return torch.linalg.qr(torch.cat([first[None], principal]).T).Q


def residual_direction(
    leak: Float[Tensor, " d_model"], shifts: Float[Tensor, "n d_model"], k: int
) -> tuple[Float[Tensor, " d_model"], float]:
    """The unit vector v_k, in float32, and the share of the length of `leak` that is left.

    Raises
    ------
    DirectionError
        Nothing is left of `leak`.
    """
    whole = leak.double()
    kept = kept_directions(shifts, k)
    rest = whole - kept @ (kept.T @ whole)
    share = float(rest.norm() / whole.norm())
    if not share > _LEAST:
        raise DirectionError(f"residual direction: {k} directions of what must stay hold all of it; keep fewer out")
    return (rest / rest.norm()).float(), share
