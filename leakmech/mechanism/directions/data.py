"""Activations of one site at one position, paired by sample: what directions are fitted on and judged by.

For sample j, layer l and condition c there is one vector x_c[j, l] of the width of the residual stream. The conditions
of a sample share its stem, so differences are taken within samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import DirectionError, nearest
from leakmech.core.store import content_hash
from leakmech.datasets.samples import CONDITIONS, Condition

DirectionKind = Literal["read", "expressed", "commanded", "behaviour"]
Split = Literal["fit", "tune", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

# Five folds of cross-validation; d_z with an interval.
MINIMUM_SAMPLES: dict[Split, int] = {"fit": 5, "tune": 3, "test": 3}


@dataclass(frozen=True, eq=False)
class SiteActivations:
    """Activations of one site at one position, in several layers; row j of each array belongs to sample j.

    Shapes that do not fit, repeated sample ids and activations that are not finite raise a :class:`DirectionError`.
    """

    sample_ids: tuple[str, ...]
    layers: tuple[int, ...]
    positive: Float[np.ndarray, "samples layers d_model"]
    negative: Float[np.ndarray, "samples layers d_model"]
    neutral: Float[np.ndarray, "samples layers d_model"] | None = None
    control: Float[np.ndarray, "samples layers d_model"] | None = None
    site: str = "resid_post"
    position: str = "last_prompt"
    kind: DirectionKind = "read"
    model_hash: str = ""
    data_hash: str = ""

    def __post_init__(self) -> None:
        check_kind(self.kind, where=self.where())
        repeated = len(self.sample_ids) - len(set(self.sample_ids))
        if repeated or len(set(self.layers)) < len(self.layers):
            raise DirectionError(f"{self.where()}: {repeated} sample ids or some layers are there twice; keep one each")
        for condition, values in self.conditions():
            expected = (len(self.sample_ids), len(self.layers), self.d_model)
            if values.shape != expected or 0 in expected:
                raise DirectionError(
                    f"{self.where()}: {condition} activations have shape {values.shape}; expected (samples, layers, "
                    f"d_model) = {expected}, none of them 0"
                )
            self._refuse_holes(condition, values)

    def _refuse_holes(self, condition: Condition, values: Float[np.ndarray, "samples layers d_model"]) -> None:
        for index, layer in enumerate(self.layers):
            bad = int((~np.isfinite(values[:, index])).any(axis=1).sum())
            if bad:
                raise DirectionError(
                    f"{self.where(layer)}: {bad} of {len(values)} {condition} activations are NaN or infinite; "
                    "run the model in float32 or bfloat16, or leave the layer out"
                )

    @property
    def d_model(self) -> int:
        return self.positive.shape[-1]

    def __len__(self) -> int:
        return len(self.sample_ids)

    def where(self, layer: int | None = None) -> str:
        """Name what is spoken of, for messages: ``resid_post layer 3 at last_prompt``."""
        return f"{self.site}{'' if layer is None else f' layer {layer}'} at {self.position}"

    def conditions(self) -> Iterator[tuple[Condition, Float[np.ndarray, "samples layers d_model"]]]:
        """Yield the conditions that are there, in the order of :data:`CONDITIONS`, with their activations."""
        for condition in CONDITIONS:
            values = getattr(self, condition)
            if values is not None:
                yield condition, values

    def layer(self, index: int, condition: Condition) -> Float[np.ndarray, "samples d_model"]:
        """Give the activations of the `index`-th of the layers, in float64."""
        return np.asarray(getattr(self, condition)[:, index], np.float64)

    def rows(self, sample_ids: Sequence[str]) -> SiteActivations:
        """Keep the named samples, in that order."""
        index = {sample: row for row, sample in enumerate(self.sample_ids)}
        missing = [sample for sample in sample_ids if sample not in index]
        if missing:
            raise DirectionError(
                f"{self.where()}: no activations of sample {missing[0]!r}{nearest(missing[0], list(index)[:20])}"
            )
        chosen = [index[sample] for sample in sample_ids]
        taken = {condition: values[chosen] for condition, values in self.conditions()}
        return replace(self, sample_ids=tuple(sample_ids), **taken)

    def swapped(self, swap: Sequence[bool] | np.ndarray) -> SiteActivations:
        """Exchange positive and negative in the samples where `swap` is true."""
        mask = np.asarray(swap, bool)[:, None, None]
        positive = np.where(mask, self.negative, self.positive)
        return replace(self, positive=positive, negative=np.where(mask, self.positive, self.negative))

    @property
    def samples_hash(self) -> str:
        """Hash the sample ids, whatever their order."""
        return content_hash(*sorted(self.sample_ids))


def check_kind(kind: str, *, where: str) -> None:
    """Refuse what is not a kind of direction."""
    if kind not in get_args(DirectionKind):
        raise DirectionError(f"{where}: unknown kind {kind!r}{nearest(kind, get_args(DirectionKind))}")


def check_splits(splits: dict[Split, SiteActivations]) -> None:
    """Refuse splits that share samples, are too small, or are not activations of the same thing."""
    fit = splits["fit"]
    for split, part in splits.items():
        if len(part) < MINIMUM_SAMPLES[split]:
            raise DirectionError(
                f"split {split!r}: {len(part)} samples; at least {MINIMUM_SAMPLES[split]} are needed, add samples"
            )
        for field in ("site", "position", "kind", "layers", "d_model", "model_hash"):
            if getattr(part, field) != getattr(fit, field):
                raise DirectionError(
                    f"split {split!r}: {field} is {getattr(part, field)!r} and that of 'fit' is {getattr(fit, field)!r}"
                )
    refuse_shared({split: part.sample_ids for split, part in splits.items()})


def refuse_shared(sample_ids: Mapping[Split, Sequence[str]]) -> None:
    """Refuse splits that share samples, by their ids."""
    for first, second in combinations(sample_ids, 2):
        shared = sorted(set(sample_ids[first]) & set(sample_ids[second]))
        if shared:
            raise DirectionError(
                f"splits {first!r} and {second!r} share {len(shared)} samples (for example {shared[0]!r}); "
                "a direction must be judged on samples that it was not fitted on"
            )
