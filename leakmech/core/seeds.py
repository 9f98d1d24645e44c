"""Seeds that depend on names: the same parts give the same number on every machine, in every process."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_hash(*parts: object) -> int:
    """A signed 64-bit integer that is the same for the same `parts` on every machine and in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def numpy_generator(*parts: object) -> np.random.Generator:
    """A NumPy generator seeded by :func:`stable_hash` of `parts`, for bootstrap and sampling of data."""
    return np.random.default_rng(stable_hash(*parts) & (2**64 - 1))


def request_seed(*parts: object) -> int:
    """A seed in [0, 2^63) made of :func:`stable_hash` of `parts`, for generators that are not ours."""
    return stable_hash(*parts) & (2**63 - 1)
