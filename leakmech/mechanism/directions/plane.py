"""The plane in which a model is steered by an angle, from the directions of all layers.

After Vu & Nguyen 2025 (arXiv 2510.26243): the first axis is the direction that is most like all others (largest mean
cosine), the second is the first principal component of the directions of all layers, made orthogonal to it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import DirectionError


def steering_plane(
    directions: Float[Tensor, "layer d_model"],
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """Two orthogonal unit vectors in float32, from the unit vectors of at least three layers.

    Raises
    ------
    DirectionError
        The directions do not span a plane.
    """
    vectors = directions.double()
    first = vectors[(vectors @ vectors.T).mean(1).argmax()]
    principal = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False).Vh[0]
    second = principal - (principal @ first) * first
    if not float(second.norm()) > 1e-6 or len(vectors) < 3:
        raise DirectionError(f"steering plane: {len(vectors)} directions do not span a plane; use those of more layers")
    return first.float(), (second / second.norm()).float()
