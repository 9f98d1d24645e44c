"""The model under a mitigation: with its adapter, its interventions, and whatever hook it enters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from leakmech.datasets.emotional_requests import load_emotional_requests
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.variants import ModelVariant
from leakmech.interventions.applied import Applied
from leakmech.interventions.base import Intervention
from leakmech.interventions.files import load_interventions
from leakmech.interventions.hooks import apply
from leakmech.models.load import LoadedModel, load_adapter
from leakmech.prompts.render import Renderer
from leakmech.scoring.expression import Estimator
from leakmech.scoring.sentence import Cleaner
from leakmech.side_effects.requests import RequestAnswers, answer_requests
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


def requests_under(
    mitigation: Mitigation, config: BenchConfig, loaded: LoadedModel, *, renderer: Renderer, estimator: Estimator
) -> RequestAnswers:
    """What the model answers to direct requests for emotional text under the mitigation."""
    changed = mitigation.configure(config)
    decoding = changed.decoding.resolved(loaded.model)
    adapted, interventions = changed_model(mitigation, config, loaded)
    with mitigation.around(adapted.model), apply(adapted.model, interventions) as applied:
        return answer_requests(
            HFEngine.of(adapted),
            load_emotional_requests(),
            renderer=renderer,
            estimator=estimator,
            generations=changed.generations,
            decoding=decoding,
            cleaner=Cleaner(changed.echo_similarity, changed.markers),
            cleaning=changed.cleaning,
            applied=applied,
            seed=changed.seed,
        )
