"""A steering plane: the direction most like the others, and the first principal component beside it."""

from __future__ import annotations

import pytest
import torch

from leakmech.core.errors import DirectionError
from leakmech.mechanism.directions.plane import steering_plane


def test_the_plane_of_directions_that_turn_from_layer_to_layer():
    axes = torch.eye(4)
    angles = torch.tensor([-0.6, -0.1, 0.0, 0.5])
    turning = angles.cos()[:, None] * axes[0] + angles.sin()[:, None] * axes[1]
    first, second = steering_plane(turning)
    torch.testing.assert_close(first, turning[1])  # angle -0.1: the mean cosine to the others is largest there
    assert abs(float(first @ second)) < 1e-6
    torch.testing.assert_close(second[2:], torch.zeros(2), atol=1e-6, rtol=0)


def test_directions_that_are_all_the_same_span_no_plane():
    with pytest.raises(DirectionError, match="do not span a plane"):
        steering_plane(torch.eye(4)[[0, 0, 0]])
