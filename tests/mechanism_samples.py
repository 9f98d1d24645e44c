"""Samples and a random direction that the tests of ``mechanism`` share."""

from __future__ import annotations

import torch

from leakmech.datasets.samples import PromptSet, Sample
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.layout import layout_of

SAMPLES = PromptSet(
    "small",
    (
        Sample("a", "The café is", "We won.", "It was Tuesday.", "Our dog has died today."),
        Sample("b", "Her passion is", "The sun came out at last.", "A bus went by.", "I lost my keys."),
        Sample("c", "The train", "What joy!", "He sat.", "They wept for days… in vain."),
    ),
)


def direction(loaded, *, layer: int = 2, seed: int = 0) -> Direction:
    """A random direction."""
    vector = torch.randn(layout_of(loaded.model).d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(
        vector=vector / vector.norm(), site="resid_post", layer=layer, position="last_prompt", method="random",
        kind="read", stream_norm=1.0, projections={}, threshold=0.0, model_hash=loaded.weights_hash,
    )  # fmt: skip
