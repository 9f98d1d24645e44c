"""Samples, a random direction and a comparison of tables that the tests of mechanisms share."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from leakmech.datasets.samples import PromptSet, Sample, load_dataset
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


def assert_same_tables(theirs: pd.DataFrame, ours: pd.DataFrame) -> None:
    """Equal to 1e-4; to 1e-2 at the ends of intervals, which a handful of samples makes of the last digits."""
    ends = [name for name in ours.columns if str(name).endswith(("low", "high"))]
    pd.testing.assert_frame_equal(theirs.drop(columns=ends), ours.drop(columns=ends), rtol=1e-4, atol=1e-4)
    pd.testing.assert_frame_equal(theirs[ends], ours[ends], rtol=1e-2, atol=1e-2)


def few_to_fit(folder: Path) -> str:
    """A file of 24 samples to fit directions on, of which a part is marked to choose on."""
    path = folder / "few.jsonl"
    whole = load_dataset("relevant-fit")
    few = (*whole.split("fit").spread(16), *whole.split("tune").spread(8))
    PromptSet("few", few).save(path)
    return str(path)
