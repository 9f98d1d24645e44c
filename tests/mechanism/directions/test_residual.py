"""A direction loses what shifts that must stay have in common with it, the mean first."""

from __future__ import annotations

import pytest
import torch

from leakmech.core.errors import DirectionError
from leakmech.mechanism.directions.residual import kept_directions, residual_direction

LEAK = torch.tensor([3.0, 4.0, 12.0, 0.0])


def shifts():
    """Mean along the first axis, and what varies beside it along the second one only."""
    first, second = torch.eye(4)[:2]
    return torch.stack([2 * first + second, 2 * first - second, 2 * first + 3 * second, 2 * first - 3 * second])


def test_the_mean_shift_goes_first_and_then_what_varies_most():
    axes = torch.eye(4).double()
    for k, rest in ((0, [3, 4, 12, 0]), (1, [0, 4, 12, 0]), (2, [0, 0, 12, 0])):
        vector, share = residual_direction(LEAK, shifts(), k)
        expected = torch.tensor(rest).float()
        torch.testing.assert_close(vector, expected / expected.norm())
        assert share == pytest.approx(float(expected.norm()) / 13)
        kept = kept_directions(shifts(), k)
        torch.testing.assert_close(kept.T @ kept, torch.eye(k).double())
        torch.testing.assert_close(kept @ (kept.T @ axes[:k].T), axes[:k].T)


def test_a_leak_that_is_all_relevant_affect_has_no_residual():
    with pytest.raises(DirectionError, match="1 directions of what must stay hold all of it"):
        residual_direction(torch.tensor([5.0, 0.0, 0.0, 0.0]), shifts(), 1)
