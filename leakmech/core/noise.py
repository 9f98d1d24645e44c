"""Counter-based randomness: noise that depends on what is drawn, never on when or together with what.

A draw is addressed by (seed, prompt, generation, step, token). A 64-bit mixing function (the finaliser of
SplitMix64, Steele et al. 2014) turns the address into a uniform number, so there is no generator state to carry
along: batch size, order, resuming and other prompts cannot change a draw.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.seeds import stable_hash

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as signed 64 bit
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: Int[Tensor, ...]) -> Int[Tensor, ...]:
    """SplitMix64's finaliser: a bijection of 64-bit integers in which every input bit changes half the output bits."""
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def row_keys(seed: int, prompt_ids: list[str], generations: list[int]) -> Int[Tensor, " rows"]:
    """One 64-bit key for each (prompt, generation); everything that a row draws later follows from it."""
    return torch.tensor([stable_hash(seed, p, g) for p, g in zip(prompt_ids, generations, strict=True)])


def gumbel_noise(
    keys: Int[Tensor, " rows"], steps: Int[Tensor, " rows"], token_ids: Int[Tensor, "rows k"]
) -> Float[Tensor, "rows k"]:
    """Standard Gumbel noise for the candidates `token_ids` of each row at its own `steps`.

    Adding it to log-probabilities and taking the argmax draws from the distribution (Gumbel-max), and two models
    that share keys draw with common random numbers.
    """
    counter = mix(keys + mix(steps))[:, None]
    bits = mix(counter + mix(token_ids))
    # 53 bits, shifted by half a step so that neither 0 nor 1 occurs; float32 where the device has no float64.
    dtype = torch.float32 if token_ids.device.type == "mps" else torch.float64
    n_bits = 23 if dtype == torch.float32 else 52
    uniform = (_shift_right(bits, 64 - n_bits).to(dtype) + 0.5) * 2.0**-n_bits
    return -torch.log(-torch.log(uniform))
