"""How near two texts are, from their embeddings."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def cosine_similarity(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
    """Cosine of the angle between row i of `a` and row i of `b`, in [-1, 1]; zero where a row is zero."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    products = np.einsum("nd,nd->n", a, b)
    cosines = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return np.clip(cosines, -1.0, 1.0)
