"""Interventions on disk: ``<name>.json`` says what is done, ``<name>.safetensors`` holds the tensors.

The description also states everything that would be silently wrong if it were wrong: the operation as a formula, the
site, which vector belongs to which layer, how layers are counted, signs and units, the model that the tensors were
fitted on, and the form of the prompts. What is stated must be what this version computes, or the file is refused. The
description is written last and holds a hash of the tensors, so that the two files belong together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakmech.core.errors import InterventionError, ModelError
from leakmech.core.tensor_files import TensorFormat
from leakmech.core.validation import shown, whole_number
from leakmech.interventions.checks import as_interventions, fitting_layout, refuse_overlaps
from leakmech.interventions.types import Intervention  # from there, so that every kind is known
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import ResolvedForm

_FORMAT = TensorFormat(
    what="interventions", version=1, error=InterventionError, kind="interventions", metadata={"format": "pt"}
)

_COUNTING = (
    "layers, heads and neurons from 0; heads are query heads; resid_pre of layer l is the residual stream before block "
    "l, resid_post behind it; attn_out and mlp_out are what is added to the stream"
)


def save_interventions(
    interventions: Intervention | Iterable[Intervention],
    path: str | Path,
    *,
    model: LoadedModel | None = None,
    prompt_form: ResolvedForm | None = None,
) -> Path:
    """Write interventions to ``path`` (``.json``) and, beside it, their tensors.

    Parameters
    ----------
    interventions
        One or several, in their order.
    path
        Path of the description; must end with ``.json``.
    model
        The model that they were fitted on. They are checked against it, and those with tensors get its hash if they
        have none.
    prompt_form
        Form of the prompts that they were fitted on (``plain``, ``chat``, ``prefill``); None: they suit any.

    Returns
    -------
    Path
        The path of the description.

    Raises
    ------
    InterventionError
        They do not fit the model or one another, or `path` has another ending.
    StorageError
        The file system refuses.
    """
    path = _checked_path(path)
    chosen = as_interventions(interventions)
    if not chosen:
        raise InterventionError(f"{path}: no interventions to save")
    refuse_overlaps(chosen)
    if model is not None:
        chosen = tuple(_stamped(intervention, model) for intervention in chosen)
        fitting_layout(chosen, model)
    tensors = {f"{i}.{name}": tensor for i, item in enumerate(chosen) for name, tensor in item.tensors().items()}
    description = {
        "counting": _COUNTING,
        "model": None if model is None else {"name": model.name, "weights_hash": model.weights_hash},
        **({} if prompt_form is None else {"prompt_form": prompt_form}),
        "interventions": [{**item.to_dict(), "stated": _stated(item)} for item in chosen],
    }
    _FORMAT.write(path, description, tensors)
    return path


def load_interventions(
    path: str | Path, *, model: LoadedModel | None = None, prompt_form: ResolvedForm | None = None
) -> tuple[Intervention, ...]:
    """Read what :func:`save_interventions` has written.

    Parameters
    ----------
    path
        Path of the description (``.json``).
    model
        The model that they are for; layers, heads, neurons, widths and the hash of the weights that their tensors were
        fitted on are checked against it. None: not checked.
    prompt_form
        Form of the prompts on which they shall act; those fitted on another form are refused. None: not checked.

    Returns
    -------
    tuple of Intervention
        In their order.

    Raises
    ------
    InterventionError
        A file is missing, damaged, of another version, states other conventions, or does not belong to the other
        file; or the interventions do not fit the model, the form of the prompts or one another.
    """
    path = _checked_path(path)
    if prompt_form is not None:
        refuse_other_form(path, prompt_form)
    description, tensors = _FORMAT.read(path)
    entries = _entries(description, tensors, path)
    try:
        chosen = tuple(_read_one(entry, _own(tensors, number)) for number, entry in enumerate(entries))
        left = [name for name in tensors if not 0 <= _number(name) < len(entries)]
        if left:
            raise InterventionError(f"tensor {left[0]!r} belongs to no intervention")
        refuse_overlaps(chosen)
        if model is not None:
            fitting_layout(chosen, model)
    except InterventionError as error:
        raise InterventionError(f"{path}: {error}") from error
    return chosen


def refuse_other_form(path: str | Path, prompt_form: ResolvedForm) -> None:
    """Refuse a file whose interventions were fitted on prompts in another form, by its description alone."""
    fitted = _FORMAT.read_description(Path(path)).get("prompt_form")  # files of earlier versions do not say it
    if fitted not in (None, prompt_form):
        raise InterventionError(
            f"{path}: was fitted on prompts in {fitted} form, here they are in {prompt_form} form; "
            f"use --prompt-form {fitted}, or fit it again"
        )


def _checked_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise InterventionError(f"{path}: name the .json file of the interventions (its tensors are beside it)")
    return path


def _stamped(intervention: Intervention, model: LoadedModel) -> Intervention:
    if intervention.model_hash or not intervention.tensors():
        return intervention
    return replace(intervention, model_hash=model.weights_hash)


def _stated(intervention: Intervention) -> dict[str, Any]:
    """Operation, site and conventions: what a reader must not get wrong, compared when the file is read."""
    stated: dict[str, Any] = {"operation": intervention.operation, "conventions": dict(intervention.conventions)}
    layers: Sequence[int] | None = getattr(intervention, "layers", None)
    if layers:
        vectors: Any = getattr(intervention, "vectors", None)
        own = isinstance(vectors, Tensor) and vectors.dim() == 2
        stated["layer_map"] = {str(layer): place if own else 0 for place, layer in enumerate(layers)}
    return stated


def _entries(description: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path) -> list[dict[str, Any]]:
    """The entries of the interventions, of files that state what this version would state."""
    if description.get("counting") != _COUNTING:
        raise InterventionError(f"{path}: counts layers, heads or neurons in another way than this leakmech")
    entries = description.get("interventions")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise InterventionError(f"{path}: holds no interventions")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise InterventionError(f"{path}: tensor {name!r} is {tensor.dtype}, expected float32")
    return entries


def _read_one(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
    fields = {key: value for key, value in entry.items() if key != "stated"}
    try:
        intervention = Intervention.from_dict(fields, tensors)
        stated = _stated(intervention)
    except (ModelError, TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        raise InterventionError(f"{shown(entry.get('kind'))}: a field is wrong ({error})") from error
    if entry.get("stated") != stated:
        raise InterventionError(f"{intervention}: the file states another operation or convention than is computed")
    return intervention


def _own(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    prefix = f"{number}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _number(name: str) -> int:
    number = whole_number(name.partition(".")[0])
    return -1 if number is None else number
