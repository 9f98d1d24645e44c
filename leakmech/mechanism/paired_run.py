"""A batch of pairs run once: what attribution and patching start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.mechanism.activation_run import padded
from leakmech.mechanism.pairs import Pair
from leakmech.mechanism.positions import LocatedPrompt
from leakmech.mechanism.replay import Replay
from leakmech.mechanism.sites import Pick, Recorded, Site, recording
from leakmech.mechanism.targets import Target
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel

Side = Literal["corrupt", "clean"]
"""Which of the two runs is changed: *denoising* changes the corrupt one, *noising* the clean one."""


@dataclass(frozen=True, eq=False)
class OneSide:
    """The clean or the corrupt sequences of a batch: their replay, activations of the suffix, and target values."""

    located: tuple[LocatedPrompt, ...]
    replay: Replay
    activations: Recorded
    values: Float[Tensor, " row"]


class PairedRun:
    """Both sides of a batch of pairs.

    Parameters
    ----------
    loaded, target
        What runs, and what it is asked.
    pairs
        The batch.
    sites
        Whose activations are kept, over the suffix, in the layers that the target depends on.
    whole
        Whether all columns can be run again, not only the shared suffix; for equalised pairs.
    """

    def __init__(
        self, loaded: LoadedModel, pairs: Sequence[Pair], target: Target, *, sites: Sequence[Site], whole: bool = False
    ) -> None:
        self.loaded = loaded
        self.layout: Layout = layout_of(loaded.model)
        self.pairs = tuple(pairs)
        self.target = target
        self.sites = tuple(sites)
        self.n_suffix = max(len(pair) if whole else pair.n_shared for pair in pairs)
        self.corrupt = self._side([pair.corrupt for pair in pairs])
        self.clean = self._side([pair.clean for pair in pairs])

    def _side(self, located: Sequence[LocatedPrompt]) -> OneSide:
        inputs = padded(located, self.loaded.device)
        with recording(self.layout, sites=self.sites, layers=range(self.stop), pick=_last(self.n_suffix)) as recorded:
            replay = Replay(self.loaded, inputs, n_suffix=self.n_suffix)
        with torch.no_grad():
            values = self.target.values(replay.streams[self.stop], located)
        return OneSide(tuple(located), replay, recorded, values)

    @property
    def stop(self) -> int:
        """Number of layers that the target depends on."""
        return self.target.layer + 1

    def side(self, name: Side) -> OneSide:
        return self.clean if name == "clean" else self.corrupt

    @cached_property
    def shared(self) -> Bool[Tensor, "row pos 1"]:
        """Which columns of the suffix are the same tokens on both sides."""
        n_shared = torch.tensor([pair.n_shared for pair in self.pairs])[:, None]
        column_from_right = torch.arange(self.n_suffix, 0, -1)[None]
        return (column_from_right <= n_shared)[..., None].to(self.loaded.device)

    @cached_property
    def weights(self) -> Float[Tensor, " row"]:
        """Weights of the pairs."""
        return torch.tensor([pair.weight for pair in self.pairs], device=self.loaded.device)

    @property
    def shifts(self) -> Float[Tensor, " row"]:
        """Weighted difference of the target between the two sides, per pair."""
        return self.weights * (self.clean.values - self.corrupt.values)

    def value(self, hidden: Float[Tensor, "row pos d_model"], side: OneSide) -> Float[Tensor, " row"]:
        """The target of `side`'s sequences at another residual stream."""
        return self.target.values(hidden, side.located)

    def difference(self, site: Site, layer: int) -> Float[Tensor, "row pos width"]:
        """Clean minus corrupt activations at the shared tokens, 0 elsewhere, in float32."""
        key = (site, layer)
        return (self.clean.activations[key].float() - self.corrupt.activations[key].float()) * self.shared


def _last(n: int) -> Pick:
    """Keeps a batch's last `n` columns; the pass over the tokens before leaves nothing in memory."""
    return lambda hidden: hidden[:, -n:]
