"""Directions of affect in the residual stream: fitted, chosen, judged and saved.

A direction is a unit vector v at a site, layer and position; v^T x is how positive an activation x is (the sign
convention: positive affect projects higher). It is fitted on one set of samples, layer and method are chosen on
a second, and it is reported on a third. Kinds are kept apart: *read* affect, from prompts with an injection,
*expressed* affect, from the model's own generations, *commanded* emotions, from prompts that ask for one, and a
*behaviour*, from answers that show it less those that do not.

On disk a direction is ``<name>.safetensors`` (the vector) and ``<name>.json`` (all else, written last).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import DirectionError, UsageError, nearest
from leakmech.core.progress import Progress, no_progress
from leakmech.core.shown import figure_named, table_html
from leakmech.core.tensor_files import TensorFormat
from leakmech.datasets.samples import CONDITIONS
from leakmech.mechanism.directions.data import SPLITS, DirectionKind, SiteActivations, check_kind, check_splits
from leakmech.mechanism.directions.fits import DEFAULT_METHODS, METHODS, Fit, FitOptions, Interchange, fit_method
from leakmech.mechanism.directions.quality import CRITERIA, Criterion, DirectionTable, direction_table, thresholds
from leakmech.scoring.statistics import DRAWS

_FORMAT = TensorFormat(what="a direction", version=1, error=DirectionError, hash_key="vector_hash")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_UNIT_TOLERANCE = 1e-4


@dataclass(frozen=True, eq=False, repr=False)
class Direction:
    """A unit vector along which affect lies, and what it was fitted on.

    Attributes
    ----------
    vector
        The unit vector, float32 on the CPU, shape (d_model,); positive affect has the larger projection.
    site, layer, position
        The place of the activations, for example ``resid_post``, 20, ``last_prompt``.
    method
        How it was found: a name of :data:`leakmech.mechanism.directions.fits.METHODS`.
    kind
        ``read`` (affect of injections that the model reads), ``expressed`` (of its own generations), ``commanded``
        (an emotion that the model was told to express) or ``behaviour`` (answers that show one, less normal ones).
    stream_norm
        Root mean square length of the activations that it was fitted on; steps along it are measured in it.
    projections
        Mean projection by condition, in the units of the stream: set points for interventions.
    threshold
        The projection above which an activation counts as positive.
    label
        What it is a direction of, for kinds that are not positive against negative: an emotion.
    model_hash, data_hash, fit_hash
        Hashes of the model's weights, of the data set, and of the ids of the samples that were fitted on.
    format_version
        Version of the format on disk.

    Raises
    ------
    DirectionError
        The vector is not a unit vector in float32 on the CPU, the kind or a condition is unknown, or a number is not
        finite.
    """

    vector: Float[Tensor, " d_model"]
    site: str
    layer: int
    position: str
    method: str
    kind: DirectionKind
    stream_norm: float
    projections: dict[str, float]
    threshold: float
    model_hash: str = ""
    data_hash: str = ""
    fit_hash: str = ""
    label: str = ""
    format_version: int = _FORMAT.version

    def __post_init__(self) -> None:
        where = f"direction ({self.method}, {self.site} layer {self.layer})"
        check_kind(self.kind, where=where)
        vector = self.vector
        if vector.dim() != 1 or vector.dtype != torch.float32 or vector.device.type != "cpu":
            raise DirectionError(
                f"{where}: the vector must be float32 of shape (d_model,) on the CPU, found {vector.dtype} of shape "
                f"{tuple(vector.shape)} on {vector.device}"
            )
        if not abs(float(vector.norm()) - 1) < _UNIT_TOLERANCE:
            raise DirectionError(f"{where}: the vector must have length 1, found {float(vector.norm()):.4g}")
        unknown = sorted(set(self.projections) - set(CONDITIONS))
        if unknown:
            raise DirectionError(
                f"{where}: projection of unknown condition {unknown[0]!r}{nearest(unknown[0], CONDITIONS)}"
            )
        numbers = (self.stream_norm, self.threshold, *self.projections.values())
        if not all(math.isfinite(number) for number in numbers):
            raise DirectionError(f"{where}: a projection, threshold or norm is not finite")

    def __repr__(self) -> str:
        label = f" of {self.label}" if self.label else ""
        place = f"{self.site} of layer {self.layer} at {self.position}"
        return f"Direction({self.kind}{label}, {place}, by {self.method}, {self.d_model} dimensions)"

    def _repr_html_(self) -> str:
        rows = [(name, f"{value:.4g}") for name, value in self.projections.items()]
        rows += [("threshold", f"{self.threshold:.4g}"), ("length of the activations", f"{self.stream_norm:.4g}")]
        return table_html(repr(self), ("mean projection", ""), rows)

    @property
    def d_model(self) -> int:
        """Give the width of the residual stream."""
        return self.vector.shape[0]

    def project(self, activations: Float[Tensor, "*batch d_model"]) -> Float[Tensor, " *batch"]:
        """Project activations on the direction, in their dtype and on their device."""
        return einsum(activations, self.vector.to(activations), "... d_model, d_model -> ...")

    def cosine(self, other: Direction) -> float:
        """Compute the cosine with another direction of the same model.

        Raises
        ------
        DirectionError
            The directions belong to two models.
        """
        if self.d_model != other.d_model or self.model_hash != other.model_hash:
            raise DirectionError(
                f"directions of two models ({self.model_hash or 'no hash'}, {other.model_hash or 'no hash'}; widths "
                f"{self.d_model}, {other.d_model}) have no common space"
            )
        return float(self.vector.double() @ other.vector.double())

    def save(self, folder: Path | str, name: str) -> Path:
        """Write ``<name>.safetensors`` and then ``<name>.json`` into `folder`; returns the path of the latter.

        Raises
        ------
        DirectionError
            `name` has characters other than letters, digits, dots, dashes and underscores.
        StorageError
            The file system refuses.
        """
        if not _NAME.fullmatch(name):
            raise DirectionError(f"direction name {name!r}: use letters, digits, '.', '-' and '_' only")
        path = Path(folder) / f"{name}.json"
        _FORMAT.write(path, {**self.description(), "name": name}, {"vector": self.vector.contiguous()})
        return path

    def description(self) -> dict[str, Any]:
        """Give all but the vector, JSON-ready."""
        left_out = ("vector",) if self.label else ("vector", "label")
        fields = {key: value for key, value in vars(self).items() if key not in left_out}
        return {"format_version": self.format_version, **fields, "d_model": self.d_model}


_SAVED_TYPES: dict[str, type | tuple[type, ...]] = {
    "site": str,
    "layer": int,
    "position": str,
    "method": str,
    "kind": str,
    "stream_norm": (int, float),
    "projections": dict,
    "threshold": (int, float),
    "model_hash": str,
    "data_hash": str,
    "fit_hash": str,
}


def load_direction(path: Path | str, *, model_hash: str | None = None) -> Direction:
    """Load a saved direction.

    Parameters
    ----------
    path
        Either of its two files, or their path without suffix.
    model_hash
        ``LoadedModel.weights_hash`` of the model that it is for; None compares nothing.

    Returns
    -------
    Direction
        The direction, with what it was fitted on.

    Raises
    ------
    DirectionError
        A file is missing, damaged, of another format version, does not belong to the other file, or the direction
        was fitted on another model.
    """
    stem = Path(re.sub(r"\.(json|safetensors)$", "", str(path)))
    described = stem.with_name(f"{stem.name}.json")
    description, tensors = _FORMAT.read(described)
    for key, expected in _SAVED_TYPES.items():
        if not isinstance(description.get(key), expected) or isinstance(description[key], bool):
            raise DirectionError(f"{described}: field {key!r} is missing or of the wrong type")
    try:
        label = str(description.get("label", ""))
        direction = Direction(vector=tensors["vector"], label=label, **{key: description[key] for key in _SAVED_TYPES})
    except (DirectionError, TypeError, KeyError) as problem:
        raise DirectionError(f"{described}: damaged ({problem}); save the direction again") from problem
    if model_hash is not None and direction.model_hash != model_hash:
        raise DirectionError(
            f"{described}: was fitted on the model with hash {direction.model_hash or '(none)'}, not on this one "
            f"({model_hash}); fit it again, or load the model (weights, dtype, adapter) that it was fitted on"
        )
    return direction


@dataclass(frozen=True, eq=False, repr=False)
class FittedDirections:
    """What :func:`fit_directions` found: every method in every layer, and how good each is.

    Attributes
    ----------
    table
        Separation on ``tune`` and ``test``, baselines, cosines, and the chosen row.
    fits
        Unit vectors in all layers, by method.
    """

    table: DirectionTable
    fits: dict[str, Fit]
    _activations: SiteActivations = field(repr=False)

    def __repr__(self) -> str:
        return f"FittedDirections({self.table.headline})"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()

    def to_frame(self) -> pd.DataFrame:
        """One row per method and layer, see :class:`DirectionTable`."""
        return self.table.to_frame()

    def plot(self, path: str | Path | None = None, *, title: str | None = None, width: Any = None) -> Any:
        """Draw separation by layer and method; see :meth:`leakmech.runs.result.Result.plot`."""
        return figure_named("directions", "layer_curves")(self.to_frame(), path, title=title, width=width)

    @property
    def chosen(self) -> Direction:
        """Give the direction that was best on ``tune``."""
        return self.direction(self.table.chosen.method, self.table.chosen.layer)

    def direction(self, method: str, layer: int) -> Direction:
        """Give the direction of one method in one layer.

        Raises
        ------
        DirectionError
            It was not fitted.
        """
        if method not in self.fits or layer not in self.table.layers:
            raise DirectionError(
                f"no direction was fitted by {method!r} in layer {layer}; there are {', '.join(self.fits)} in layers "
                f"{self.table.layers[0]} to {self.table.layers[-1]}"
            )
        return make_direction(self.fits[method], method, layer=layer, activations=self._activations)


def make_direction(fit: Fit, method: str, *, layer: int, activations: SiteActivations) -> Direction:
    """Make the direction of `fit` in `layer`, with its scale taken from the activations that it was fitted on."""
    index = activations.layers.index(layer)
    vector = fit.vectors[index]
    squares, projections = [], {}
    for condition, _ in activations.conditions():
        values = activations.layer(index, condition)
        squares.append((values**2).sum(axis=1).mean())
        projections[condition] = float((values @ vector).mean())
    return Direction(
        vector=torch.from_numpy(vector).float(),
        site=activations.site,
        layer=layer,
        position=activations.position,
        method=method,
        kind=activations.kind,
        stream_norm=float(np.sqrt(np.mean(squares))),
        projections=projections,
        threshold=float(thresholds(fit.vectors, activations)[index]),
        model_hash=activations.model_hash,
        data_hash=activations.data_hash,
        fit_hash=activations.samples_hash,
    )


def fit_directions(
    fit: SiteActivations,
    tune: SiteActivations,
    test: SiteActivations,
    *,
    methods: Sequence[str] = DEFAULT_METHODS,
    criterion: Criterion = "auc",
    interchange: Interchange | None = None,
    das_steps: int = FitOptions.das_steps,
    random_draws: int = 1000,
    shuffles: int = 20,
    seed: int = 0,
    draws: int = DRAWS,
    progress: Progress = no_progress,
) -> FittedDirections:
    """Fit directions on `fit`, choose layer and method on `tune`, report them on `test`.

    `random_draws` and `shuffles` are numbers of random directions and of fits to shuffled labels; 0 leaves a baseline
    out. `interchange` and `das_steps` are for the method ``das``.
    """
    splits = dict(zip(SPLITS, (fit, tune, test), strict=True))
    check_splits(splits)
    if criterion not in CRITERIA:
        raise UsageError(f"criterion {criterion!r}{nearest(criterion, CRITERIA)}")
    for method in methods:
        METHODS.find(method)
    options = FitOptions(seed=seed, interchange=interchange, das_steps=das_steps, progress=progress)
    fits = {method: fit_method(method, fit, options=options) for method in methods}
    table = direction_table(
        fits,
        splits,
        criterion=criterion,
        random_draws=random_draws,
        shuffles=shuffles,
        options=replace(options, progress=no_progress),
        seed=seed,
        draws=draws,
    )
    return FittedDirections(table=table, fits=fits, _activations=fit)


def cosine_matrix(directions: dict[str, Direction]) -> pd.DataFrame:
    """Compute cosines between named directions of one model, for example of *read* and *expressed* affect."""
    values = [[a.cosine(b) for b in directions.values()] for a in directions.values()]
    return pd.DataFrame(values, index=list(directions), columns=list(directions))
