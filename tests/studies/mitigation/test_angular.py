"""Angular steering against affect leads to the neutral angle of each layer, from the prompt's last token on."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from leakmech.mechanism.directions.data import SiteActivations
from leakmech.studies.mitigation.angular import angular, angular_adaptive
from leakmech.studies.mitigation.late_streams import LateStreams

AXES = torch.eye(6)


def parts():
    """Affect is read along axis 0 (and 1); neutral prompts lie at 60 degrees in layer 1, at 90 in layer 2."""
    turning = torch.tensor([[0.0], [0.1], [-0.1]])
    vectors = torch.nn.functional.normalize(AXES[0] + turning * AXES[1], dim=1)
    means = torch.stack([math.cos(math.pi / 3) * AXES[0] + math.sin(math.pi / 3) * AXES[1], 2 * AXES[1]])
    away = np.zeros((5, 3, 6), np.float32)
    away[..., 0] = 8.0
    return SimpleNamespace(
        directions=[SimpleNamespace(vector=vector) for vector in vectors],
        activations=SiteActivations(tuple("abcde"), (0, 1, 2), positive=away, negative=-away),
        late_streams=LateStreams((1, 2), {"last_prompt": means, "generated": means}),
        loaded=SimpleNamespace(base_hash=""),
    )


def test_the_angle_is_that_of_neutral_prompts():
    edits = angular(parts(), 0.5)
    assert [(edit.positions, edit.strength, edit.adaptive) for edit in edits] == [
        ("last_prompt", (0.5, 0.5), False),
        ("generated", (0.5, 0.5), False),
    ]
    torch.testing.assert_close(edits[0].vectors, AXES[0])
    sign = float(edits[0].second[1])  # a principal component has no sign
    assert edits[0].angle == pytest.approx((sign * 60.0, sign * 90.0), abs=1e-3)
    assert not any(edit.spans for edit in edits)


def test_the_adaptive_variant_turns_tokens_far_out_on_either_side_to_the_same_place():
    above, below = angular_adaptive(parts(), 1.0)[:2]
    torch.testing.assert_close(below.vectors, -above.vectors)
    assert above.threshold == pytest.approx((0.5 + 4, 4.0), abs=1e-3)  # a quarter of 16 beyond the neutral mean
    assert below.threshold == pytest.approx((-0.5 + 4, 4.0), abs=1e-3)
    for edit in (above, below):
        angles = torch.tensor(edit.angle).deg2rad()[:, None]
        places = angles.cos() * edit.vectors + angles.sin() * edit.second
        torch.testing.assert_close(places[0], math.cos(math.pi / 3) * AXES[0] + math.sin(math.pi / 3) * AXES[1])
        torch.testing.assert_close(places[1], AXES[1], atol=1e-5, rtol=0)
