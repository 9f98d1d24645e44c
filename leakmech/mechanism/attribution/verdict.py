"""Do the components that a ranking puts first account for more of the shift than random ones of the same layers?

Every component of a set C takes over, at the tokens that both prompts share (stem and scored text), the output that it
has under the other injection: *interchange* (noising, :mod:`leakmech.mechanism.attribution.patching`). With m the
target, clean and corrupt the two prompts of a sample, and sums over samples,

    share(C) = sum [m(clean) - m(clean with C from corrupt)] / sum [m(clean) - m(corrupt)].

Beside it stand N random sets with as many components in every layer as C has, drawn from all components of the layer.
If the ranking knew nothing within layers, C would be one more of these, so

    p = (1 + number of random sets whose share is not below that of C) / (N + 1).

A direction v is judged in the same way: the projection on v is interchanged after a layer, and the random sets are
random unit vectors in that place. Samples are others than those on which components were ranked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.progress import Progress, no_progress
from leakmech.core.seeds import numpy_generator
from leakmech.mechanism.attribution.pairs import Pair
from leakmech.mechanism.attribution.patching import Patching, patch_components, patch_directions
from leakmech.mechanism.attribution.scores import share_intervals
from leakmech.mechanism.attribution.targets import Target
from leakmech.models.components import Component
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.scoring.statistics import DRAWS, Interval


@dataclass(frozen=True, eq=False)
class Verdict:
    """One set beside its random sets."""

    name: str
    size: int
    """Number of components."""
    effects: Float[np.ndarray, "sample set"]
    """What each set takes away of the target, the judged one first."""
    shifts: Float[np.ndarray, " sample"]

    @property
    def shares(self) -> Float[np.ndarray, " set"]:
        """Give the share of the shift that each set accounts for, the judged one first."""
        return self.effects.sum(axis=0) / self.shifts.sum()

    @property
    def share(self) -> float:
        """Give the share of the judged set."""
        return float(self.shares[0])

    @property
    def p(self) -> float | None:
        """Give the rank of the judged set among all as a probability; None without random sets."""
        return rank_p(self.share, self.shares[1:])

    def interval(self, *, seed: int = 0, draws: int = DRAWS) -> Interval:
        """Compute the 95 % BCa interval of the judged share over samples."""
        return share_intervals(self.effects[:, :1], self.shifts, seed=seed, draws=draws)[0]


def rank_p(observed: float, random: Float[np.ndarray, " set"]) -> float | None:
    """Compute the one-sided p value of a value among random ones; None if there are none."""
    return (1 + int((random >= observed).sum())) / (len(random) + 1) if len(random) else None


def same_layer_sets(chosen: Sequence[Component], layout: Layout, *, n: int, seed: int) -> list[tuple[Component, ...]]:
    """Draw `n` sets with as many components in every layer as `chosen` has, which are heads or neurons."""
    kind = chosen[0].kind
    per_layer = layout.n_heads if kind == "head" else layout.d_mlp
    counts = sorted(Counter(component.layer for component in chosen).items())
    sets = []
    for number in range(n):
        generator = numpy_generator(f"same layers, {kind}s", seed, len(chosen), number)
        sets.append(
            tuple(
                Component(layer, kind, int(index))
                for layer, count in counts
                for index in sorted(generator.choice(per_layer, size=count, replace=False).tolist())
            )
        )
    return sets


def judge_components(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    chosen: Mapping[str, Sequence[Component]],
    *,
    random_sets: int,
    seed: int = 0,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> list[Verdict]:
    """Judge sets of heads or of neurons, each beside `random_sets` random ones (0 for none).

    Pairs are of samples on which the sets were not chosen.
    """
    layout = layout_of(model.model)
    groups: list[tuple[tuple[int, int | str], Sequence[Component]]] = []
    for name, own in chosen.items():
        drawn = same_layer_sets(own, layout, n=random_sets, seed=seed)
        groups += [((0, f"{name} {number}"), components) for number, components in enumerate([tuple(own), *drawn])]
    found = patch_components(model, pairs, target, groups, side="clean", batch_size=batch_size, progress=progress)
    width = 1 + random_sets
    return [
        Verdict(name, len(own), found.effects[:, place * width : (place + 1) * width], found.shifts)
        for place, (name, own) in enumerate(chosen.items())
    ]


def judge_direction(
    model: LoadedModel,
    pairs: Sequence[Pair],
    target: Target,
    vector: Float[Tensor, " d_model"],
    *,
    layer: int,
    random_sets: int,
    seed: int = 0,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Verdict:
    """Judge a unit vector in the stream after `layer` beside random ones."""
    drawn = numpy_generator("random directions, interchange", seed, layer).standard_normal((random_sets, len(vector)))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    vectors = torch.cat([vector[None].float(), torch.from_numpy(drawn).float()])
    found: Patching = patch_directions(
        model, pairs, target, vectors, layer=layer, side="clean", batch_size=batch_size, progress=progress
    )
    return Verdict(f"direction after layer {layer}", 1, found.effects, found.shifts)
