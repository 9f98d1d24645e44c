"""The model of a benchmark run: loaded where its engine wants it, with its adapter, and folded if that is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from leakmech.generation.engine import Engine
from leakmech.generation.engines import ENGINES, EngineKind
from leakmech.interventions.base import Intervention
from leakmech.interventions.checks import fitted_hashes, refuse_misfits
from leakmech.interventions.fold import fold
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_adapter
from leakmech.studies.benchmark.settings import BenchConfig


@dataclass(frozen=True)
class Place:
    """Where a run draws, and where this process loads the model for it."""

    config: BenchConfig
    kind: EngineKind
    device: str
    dtype: str

    @classmethod
    def of(cls, config: BenchConfig) -> Place:
        """The place that a configuration names; ConfigError if its engine is not installed or does not run there."""
        kind = ENGINES.find(config.engine)
        return cls(config, kind, *kind.placement(device=config.device, dtype=config.dtype))

    def settings(self, model: Any = None) -> BenchConfig:
        """The configuration with which the model is loaded; a model object stays where and as it is."""
        moved = {"device": self.device, "dtype": self.dtype}
        return self.config.model_copy(update=moved) if model is None else self.config

    def engine(self, loaded: LoadedModel) -> Engine:
        """What draws with a loaded model."""
        return self.kind.engine(loaded)


def adapted(
    base: LoadedModel, config: BenchConfig, interventions: tuple[Intervention, ...], *, in_place: bool
) -> LoadedModel:
    """The model with its adapter and, if they are to be folded, its interventions.

    Where nothing else needs `base`, the adapter may be put on it `in_place`, which takes its memory only once.
    """
    loaded = load_adapter(base, config.adapter, in_place=in_place) if config.adapter else base
    if not interventions:
        return loaded
    # What was fitted on a model may be tried on the same model with an adapter.
    refuse_misfits(interventions, layout_of(loaded.model), model_hashes=fitted_hashes(interventions, loaded))
    if not config.fold:
        return loaded
    return replace(loaded, model=fold(loaded.model, interventions, share=True), folder=None)
