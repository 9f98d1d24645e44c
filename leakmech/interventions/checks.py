"""Do interventions fit a model, and one another?

Two interventions cannot be composed when both fix the same number, since the later one undoes the earlier: a head that
two of them replace, or two directions, not orthogonal, that are both brought to a set point at one place. Scaling,
adding and partial steps compose in their order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import combinations
from typing import Any

from leakmech.core.errors import InterventionError
from leakmech.interventions.base import Intervention
from leakmech.interventions.component_edits import AblateHeads, AblateNeurons
from leakmech.interventions.positions import positions_overlap
from leakmech.interventions.stream_edits import EVERYWHERE, AblateDirection
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel

_COSINE_TOLERANCE = 1e-3


def as_interventions(value: Intervention | Iterable[Intervention]) -> tuple[Intervention, ...]:
    """One or several interventions as a tuple."""
    interventions = (value,) if isinstance(value, Intervention) else tuple(value)
    for item in interventions:
        if not isinstance(item, Intervention):
            raise InterventionError(f"expected interventions, found {type(item).__name__}")
    return interventions


def refuse_misfits(
    interventions: Sequence[Intervention], layout: Layout, *, model_hashes: Collection[str] | None = None
) -> None:
    """Refuse interventions that do not fit a model or one another; None for `model_hashes` compares no weights."""
    for intervention in interventions:
        intervention.refuse_other_model(layout)
        fitted = intervention.model_hash
        if fitted and model_hashes is not None and fitted not in model_hashes:
            raise InterventionError(
                f"{intervention}: was fitted on the model with hash {fitted}, not on this one "
                f"({' or '.join(sorted(model_hashes))}); fit it again, or load the model (weights, dtype) of it"
            )
    refuse_overlaps(interventions)


def fitted_hashes(interventions: Sequence[Intervention], *models: LoadedModel, bases: bool = True) -> set[str] | None:
    """Hashes of models, and of their `bases`, that interventions may have been fitted on; None where all are for any.

    Bases are the same weights in another dtype, and those under an adapter. Hashing weights takes a while, and is not
    needed where interventions are for any model.
    """
    if not any(intervention.model_hash for intervention in interventions):
        return None
    found = {model.weights_hash for model in models}
    if bases:
        found = found.union(*({model.base_hash} | model.hashes_under_adapter for model in models))
    return found


def fitting_layout(chosen: Sequence[Intervention], model: Any, *, under_adapter: bool = False) -> Layout:
    """The layout of a model that the interventions fit, else an error.

    A :class:`LoadedModel` is also compared with the model that they were fitted on; with `under_adapter` that may be
    the base of an adapted model.
    """
    hashes = None
    if isinstance(model, LoadedModel):
        hashes = fitted_hashes(chosen, model, bases=under_adapter)
        model = model.model
    layout = layout_of(model)
    refuse_misfits(chosen, layout, model_hashes=hashes)
    return layout


def refuse_overlaps(interventions: Sequence[Intervention]) -> None:
    """Refuse pairs of interventions that fix the same number."""
    for first, second in combinations(interventions, 2):
        if not positions_overlap(first.positions, second.positions):
            continue
        shared = _shared(first, second)
        if shared:
            raise InterventionError(f"{first} and {second}: both fix {shared}, so the second undoes the first")


def _shared(first: Intervention, second: Intervention) -> str | None:
    kinds = (AblateHeads, AblateNeurons)
    if isinstance(first, kinds) and isinstance(second, kinds):
        common = set(first.parts) & set(second.parts)
        return str(min(common)) if common else None
    if isinstance(first, AblateDirection) and isinstance(second, AblateDirection):
        return _shared_place(first, second)
    return None


def _shared_place(first: AblateDirection, second: AblateDirection) -> str | None:
    places = dict(_fixed(first))
    for key, place in _fixed(second):
        if key not in places:
            continue
        cosine = float(first.vector(places[key]) @ second.vector(place))
        if abs(cosine) > _COSINE_TOLERANCE:
            site, layer = key
            where = site if site == EVERYWHERE else f"{site} of layer {layer}"
            return f"projections at {where} (cosine {cosine:.3f}; orthogonal directions compose)"
    return None


def _fixed(ablation: AblateDirection) -> Iterator[tuple[tuple[str, int], int]]:
    """Places at which a direction is brought all the way to its set point."""
    layers = ablation.layers or (-1,)
    for place, layer in enumerate(layers):
        if ablation.strengths[place] == 1:
            yield (ablation.site, layer), place
