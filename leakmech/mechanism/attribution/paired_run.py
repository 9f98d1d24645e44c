"""A batch of pairs run once: what attribution and patching start from.

Tokens with which all prompts of the batch start run once (:mod:`leakmech.mechanism.attribution.prefixes`), layers above
the target not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attribution.pairs import Pair
from leakmech.mechanism.attribution.prefixes import common_length, ending_after, head_cache, prefix_cache, run_columns
from leakmech.mechanism.attribution.replay import Replay
from leakmech.mechanism.attribution.targets import Target
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Pick, Recorded, Site, recording
from leakmech.prompts.locate import LocatedPrompt

Side = Literal["corrupt", "clean"]
"""Which of the two runs is changed: *denoising* changes the corrupt one, *noising* the clean one."""


@dataclass(frozen=True, eq=False)
class OneSide:
    """The clean or the corrupt sequences of a batch: their replay, activations of the suffix, and target values."""

    located: tuple[LocatedPrompt, ...]
    kept: Replay | None
    activations: Recorded
    taped_values: Float[Tensor, " row"]

    @property
    def values(self) -> Float[Tensor, " row"]:
        """Give the target of each sequence."""
        return self.taped_values.detach()

    @property
    def replay(self) -> Replay:
        """Give what can be run again; only sides for which that was asked have it."""
        assert self.kept is not None, "this side was not asked to be run again"
        return self.kept


class PairedRun:
    """Both sides of a batch of pairs, with activations of `sites` over the suffix in the layers that the target needs.

    Sides in `replayed` can be run again, `whole` from the first column on (for equalised pairs); the other one takes a
    single forward pass. Activations and target of the side `taped` are kept with what derivatives need.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        pairs: Sequence[Pair],
        target: Target,
        *,
        sites: Sequence[Site],
        replayed: Sequence[Side] = ("corrupt", "clean"),
        taped: Side | None = None,
        whole: bool = False,
    ) -> None:
        self.loaded = loaded
        self.layout: Layout = layout_of(loaded.model)
        self.pairs = tuple(pairs)
        self.target = target
        self.sites = tuple(sites)
        self.n_suffix = max(len(pair) if whole else pair.n_shared for pair in pairs)
        both = [prompt for pair in pairs for prompt in (pair.clean, pair.corrupt)]
        self._n_head = common_length(loaded, both, n_suffix=self.n_suffix)
        self._head = head_cache(loaded, both, self._n_head, n_layers=self.stop)
        self.corrupt = self._side(
            [pair.corrupt for pair in pairs], again="corrupt" in replayed, taped=taped == "corrupt"
        )
        self.clean = self._side([pair.clean for pair in pairs], again="clean" in replayed, taped=taped == "clean")
        self._head = None

    def _side(self, located: Sequence[LocatedPrompt], *, again: bool, taped: bool) -> OneSide:
        inputs = padded(located, self.loaded.device, n_head=self._n_head)
        replay, last = None, _last(self.n_suffix)
        with (
            recording(self.layout, sites=self.sites, layers=range(self.stop), pick=last) as recorded,
            torch.set_grad_enabled(taped),
        ):
            if again:
                replay = Replay(
                    self.loaded, inputs, n_suffix=self.n_suffix, taped=taped, head=self._head, n_layers=self.stop
                )
                stream = replay.streams[self.stop]
            else:
                stream = self._single_pass(inputs)
            values = self.target.values(stream, located)
        return OneSide(tuple(located), replay, recorded, values)

    def _single_pass(self, inputs: Mapping[str, Tensor]) -> Float[Tensor, "row pos d_model"]:
        """Compute the stream that the target reads."""
        width = inputs["input_ids"].shape[1]
        cache = prefix_cache(self.loaded, inputs, self._n_head, head=self._head)
        with (
            recording(
                self.layout, sites=["resid_post"], layers=[self.target.layer], pick=_last(self.n_suffix)
            ) as stream,
            ending_after(self.layout.block(self.target.layer).block),
        ):
            run_columns(self.loaded, inputs, self._n_head, width, cache=cache)
        return stream["resid_post", self.target.layer]

    @property
    def stop(self) -> int:
        """Give the number of layers that the target depends on."""
        return self.target.layer + 1

    def side(self, name: Side) -> OneSide:
        return self.clean if name == "clean" else self.corrupt

    @cached_property
    def shared(self) -> Bool[Tensor, "row pos 1"]:
        """Mark the columns of the suffix that are the same tokens on both sides."""
        n_shared = torch.tensor([pair.n_shared for pair in self.pairs])[:, None]
        column_from_right = torch.arange(self.n_suffix, 0, -1)[None]
        return (column_from_right <= n_shared)[..., None].to(self.loaded.device)

    @cached_property
    def weights(self) -> Float[Tensor, " row"]:
        return torch.tensor([pair.weight for pair in self.pairs], device=self.loaded.device)

    @property
    def shifts(self) -> Float[Tensor, " row"]:
        """Compute the weighted difference of the target between the two sides, clean minus corrupt, per pair."""
        return self.weights * (self.clean.values - self.corrupt.values)

    def value(self, hidden: Float[Tensor, "row pos d_model"], side: OneSide) -> Float[Tensor, " row"]:
        """Compute the target of `side`'s sequences at another residual stream."""
        return self.target.values(hidden, side.located)

    def difference(self, site: Site, layer: int) -> Float[Tensor, "row pos width"]:
        """Compute clean minus corrupt activations at the shared tokens, 0 elsewhere, in float32."""
        key = (site, layer)
        clean, corrupt = (side.activations[key].detach().float() for side in (self.clean, self.corrupt))
        return (clean - corrupt).mul_(self.shared)


def _last(n: int) -> Pick:
    """Keep a batch's last `n` columns; a batch with no more stays itself, so that it can be differentiated by."""
    return lambda hidden: hidden if hidden.shape[1] <= n else hidden[:, -n:]
