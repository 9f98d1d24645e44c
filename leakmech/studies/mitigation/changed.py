"""The model under a mitigation: with its adapter, its interventions, and whatever hook it enters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from leakmech.generation.variants import ModelVariant
from leakmech.interventions.applied import Applied
from leakmech.interventions.base import Intervention
from leakmech.interventions.files import load_interventions
from leakmech.interventions.hooks import apply
from leakmech.models.load import LoadedModel, load_adapter
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.mitigation import Mitigation


def changed_model(
    mitigation: Mitigation, config: BenchConfig, loaded: LoadedModel
) -> tuple[LoadedModel, tuple[Intervention, ...]]:
    """The model with the mitigation's adapter, and the interventions that it runs under."""
    changed = mitigation.configure(config)
    adapted = load_adapter(loaded, changed.adapter) if changed.adapter else loaded
    interventions = mitigation.interventions
    if changed.intervention and not interventions:
        interventions = load_interventions(changed.intervention)
    return adapted, interventions


def variant_under(mitigation: Mitigation, config: BenchConfig, loaded: LoadedModel) -> ModelVariant:
    """The model as the mitigation changes its forward pass."""
    adapted, interventions = changed_model(mitigation, config, loaded)
    if not interventions and mitigation.hook is None:
        return ModelVariant(adapted)

    @contextmanager
    def change() -> Iterator[Applied]:
        with mitigation.around(adapted.model), apply(adapted.model, interventions) as applied:
            yield applied

    return ModelVariant(adapted, change)
