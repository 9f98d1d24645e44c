"""Preventative steering: in training the direction of affect is added to the stream, in use it is gone.

While an irrelevant example is trained on, the direction is added on the shared suffix, by the sign of its injection;
the weights learn to give the control's answer against that push (persona vectors, Chen et al. 2025, add a direction in
training for a like reason). Other examples are steered by the sign that they name: what the direction brings about
need not be learned by the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import DirectionError
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.layout import layout_of
from leakmech.models.sites import at_site
from leakmech.training.examples import Batch, TrainingExample


@dataclass(frozen=True, eq=False)
class PreventativeSteering:
    """A direction (at ``resid_pre`` or ``resid_post``) that is added while some examples are trained on."""

    direction: Direction
    strength: float
    """In units of the direction's ``stream_norm``; times the sign of an example."""

    def __post_init__(self) -> None:
        if self.direction.site not in ("resid_pre", "resid_post"):
            raise DirectionError(
                f"preventative steering: the direction lives at {self.direction.site!r}; give one at resid_pre or "
                "resid_post"
            )

    @contextmanager
    def applied(self, model: nn.Module, batch: Batch) -> Iterator[None]:
        """Steer forward passes over the student's side of `batch`."""
        block, added = layout_of(model).block(self.direction.layer), self._added(batch)
        with at_site(block, self.direction.site, lambda stream: stream + added.to(stream.dtype)):
            yield

    def _added(self, batch: Batch) -> Float[Tensor, "rows columns d_model"]:
        row_signs = [_sign(example) for example in batch.examples]
        columns = torch.zeros_like(batch.student.input_ids, dtype=torch.float32)
        # Columns that fill the suffix up are 0 and masked: adding the mask changes column 0 only where it is suffix.
        columns.scatter_add_(1, batch.student.suffix, batch.suffix_mask.float())
        columns *= torch.tensor(row_signs, device=columns.device)[:, None]
        vector = self.direction.vector.to(columns.device) * (self.strength * self.direction.stream_norm)
        return einsum(columns, vector, "rows columns, d -> rows columns d")


def _sign(example: TrainingExample) -> float:
    if example.sign is not None:
        return example.sign
    signs = {"positive": 1.0, "negative": -1.0}
    return signs.get(example.polarity or "", 0.0) if example.kind == "irrelevant" else 0.0
