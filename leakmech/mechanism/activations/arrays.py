"""Arrays of activations with labels on their axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from leakmech.core.errors import ActivationError, ConfigError, nearest
from leakmech.core.shown import cut, table_html
from leakmech.mechanism.activations.positions import labels_of
from leakmech.models.device import dtype_name
from leakmech.models.sites import Site


@dataclass(frozen=True, eq=False, repr=False)
class Activations:
    """Activations of one site.

    Attributes
    ----------
    site
        Name of the site, for example ``resid_post``.
    values
        Activations on the CPU, in the dtype of the model; NaN where not present. Vectors of ``z`` have two axes,
        (n_heads, d_head).
    samples, conditions, positions, layers
        Labels of the first four axes.
    present
        Which positions each prompt has.
    model_hash, dataset_hash
        Hashes of the model's weights and of the data set's content.
    """

    site: Site
    values: Float[Tensor, "sample condition position layer *width"]
    samples: tuple[str, ...]
    conditions: tuple[str, ...]
    positions: tuple[str, ...]
    layers: tuple[int, ...]
    present: Bool[Tensor, "sample condition position"]
    model_hash: str = ""
    dataset_hash: str = ""

    def __repr__(self) -> str:
        names = ("samples", "conditions", "positions", "layers")
        counts = " x ".join(f"{len(getattr(self, name))} {name}" for name in names)
        width = " x ".join(map(str, self.values.shape[len(names) :]))
        return f"Activations({self.site}: {counts} x {width}, {dtype_name(self.values.dtype)})"

    def _repr_html_(self) -> str:
        names = ("samples", "conditions", "positions", "layers")
        rows = [(name, cut(", ".join(map(str, getattr(self, name))))) for name in names]
        return table_html(repr(self), ("axis", ""), rows)

    def select(
        self,
        *,
        samples: Sequence[str] | None = None,
        conditions: Sequence[str] | str | None = None,
        positions: Sequence[str] | str | None = None,
        layers: Sequence[int] | int | None = None,
    ) -> Activations:
        """Keep the named entries, in the order in which they are named; None keeps all of an axis.

        The name of a part (``stem``) stands for all its tokens (``stem:-2``, ``stem:-1``).

        Raises
        ------
        ConfigError
            A label is not there.
        """
        chosen = Choice.of(self, samples=samples, conditions=conditions, positions=positions, layers=layers)
        values, present = self.values, self.present
        for axis, indices in enumerate((chosen.samples, chosen.conditions, chosen.positions, chosen.layers)):
            if indices is not None:
                values = values.index_select(axis, torch.tensor(indices))
                present = present.index_select(axis, torch.tensor(indices)) if axis < present.dim() else present
        return replace(self, values=values, present=present, **chosen.labels(self))

    def matrix(self, *, condition: str, position: str) -> Float[np.ndarray, "sample layer *width"]:
        """Give the values of one condition at one position, as float32 for NumPy.

        Raises
        ------
        ConfigError
            A label is not there, or stands for several tokens.
        ActivationError
            A prompt of this condition does not have this position.
        """
        chosen = self.select(conditions=condition, positions=position)
        if len(chosen.positions) != 1:
            raise ConfigError(f"position {position!r} is {len(chosen.positions)} tokens here; name one of them")
        if not bool(chosen.present.all()):
            absent = self.samples[int((~chosen.present[:, 0, 0]).nonzero()[0])]
            raise ActivationError(f"sample {absent!r} has no position {position!r} under condition {condition!r}")
        return chosen.values[:, 0, 0].float().numpy()


class Labelled(Protocol):
    """Anything that has the four labelled axes."""

    @property
    def samples(self) -> tuple[str, ...]: ...
    @property
    def conditions(self) -> tuple[str, ...]: ...
    @property
    def positions(self) -> tuple[str, ...]: ...
    @property
    def layers(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Choice:
    """Indices along each labelled axis; None takes all of it."""

    samples: list[int] | None
    conditions: list[int] | None
    positions: list[int] | None
    layers: list[int] | None

    @classmethod
    def of(
        cls,
        labelled: Labelled,
        *,
        samples: Sequence[str] | None,
        conditions: Sequence[str] | str | None,
        positions: Sequence[str] | str | None,
        layers: Sequence[int] | int | None,
    ) -> Choice:
        """Look up where labels stand; a label that is not there raises a :class:`ConfigError`."""
        if positions is not None:
            named = [positions] if isinstance(positions, str) else positions
            positions = [label for name in named for label in labels_of(name, labelled.positions) or [name]]
        return cls(
            samples=_indices("samples", samples, labelled.samples),
            conditions=_indices("conditions", conditions, labelled.conditions),
            positions=_indices("positions", positions, labelled.positions),
            layers=_indices("layers", layers, labelled.layers),
        )

    def labels(self, labelled: Labelled) -> dict[str, tuple[Any, ...]]:
        """Give the chosen labels of each axis."""
        return {
            axis: labels if indices is None else tuple(labels[index] for index in indices)
            for axis, indices in vars(self).items()
            for labels in [getattr(labelled, axis)]
        }


def _indices(axis: str, wanted: Any, labels: Sequence[Any]) -> list[int] | None:
    if wanted is None:
        return None
    wanted = [wanted] if isinstance(wanted, str | int) else list(wanted)
    index = {label: number for number, label in enumerate(labels)}
    for label in wanted:
        if label not in index:
            raise ConfigError(f"{axis}: {label!r} is not there{nearest(str(label), [str(known) for known in labels])}")
    return [index[label] for label in wanted]
