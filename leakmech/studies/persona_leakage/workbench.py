"""What every stage of the study works with: the model, who is asked, what is taught, and the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float

from leakmech.core.errors import ConfigError, UsageError
from leakmech.core.progress import Progress
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.english import data_text
from leakmech.datasets.personas import Persona, Personas, load_personas
from leakmech.datasets.samples import spread_out
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.persona import PersonaRenderer
from leakmech.runs.run import Fragment, Run
from leakmech.scoring.semantic import SentenceEncoder
from leakmech.side_effects.capability import with_count
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio
from leakmech.studies.persona_leakage.analysis import LEAST_PERSONAS
from leakmech.studies.persona_leakage.behaviours import BEHAVIOURS, Behaviour, Task, Tasks
from leakmech.studies.persona_leakage.evaluators import Evaluator
from leakmech.studies.persona_leakage.measuring import Asking, Measuring
from leakmech.studies.persona_leakage.settings import SHARES, PersonaLeakageConfig

MODEL_DEFAULT = "model-default"
"""The persona that the chat template writes where there is no system role."""
SOURCE, NEGATIVE, BYSTANDER = "source", "negative", "bystander"
N_NEGATIVES = 2
_DEPTHS = (10 / 28, 15 / 28, 20 / 28, 25 / 28)
HEADLINE_DEPTH = 2
"""Place of the layer of the headline's similarity among the layers: the report's 20 of 28."""
SMALL, SMALL_RATE, REPORT_RATE = 1e9, 5e-4, 1e-5


@dataclass(frozen=True)
class Cast:
    """Who plays what: sources, the personas that each is contrasted with, and everybody who is asked."""

    sources: tuple[Persona, ...]
    negatives: Mapping[str, tuple[Persona, ...]]
    """By source: personas that are trained to answer normally."""
    everybody: Personas
    bare: bool
    """Whether normal answers without a persona are trained: the prompts of the model's default, if there is one."""

    def place(self, persona: str) -> int:
        """Where a persona stands among all."""
        return self.everybody.ids.index(persona)

    def role(self, source: str, persona: str) -> str:
        """What a persona is to a source: itself, trained to answer normally, or a bystander."""
        if persona == source:
            return SOURCE
        trained = {own.id for own in self.negatives[source]} | ({MODEL_DEFAULT} if self.bare else set())
        return NEGATIVE if persona in trained else BYSTANDER

    def kept(self, source: str) -> Bool[np.ndarray, " persona"]:
        """Where the bystanders of a source are."""
        return np.array([self.role(source, own.id) == BYSTANDER for own in self.everybody])


def cast(config: PersonaLeakageConfig, encoder: SentenceEncoder, default: str | None) -> Cast:
    """Choose who is asked.

    Raises
    ------
    ConfigError
        There is no persona of an id.
    UsageError
        Fewer than three bystanders are left.
    """
    own = load_personas(config.personas)
    if MODEL_DEFAULT in own.ids:
        raise ConfigError(f"personas {config.personas!r}: the id {MODEL_DEFAULT!r} is that of the template's own")
    if default is not None:
        own = Personas(own.name, (*own, Persona(MODEL_DEFAULT, "original", "the model's default", default)))
    elif MODEL_DEFAULT in (*config.source, *(config.negatives or ())):
        raise ConfigError(f"persona {MODEL_DEFAULT!r}: this model's chat template writes no system text of its own")
    sources = tuple(own.of(config.source))
    negatives = {source.id: _negatives(config, own, source, encoder) for source in sources}
    named = dict.fromkeys([*config.source, *(n.id for chosen in negatives.values() for n in chosen)])
    rest = own.without(named)
    if config.bystanders is not None:
        rest = _spread(rest, config.bystanders)
    everybody = Personas(own.name, tuple(one for one in own if one.id in named or one.id in rest.ids))
    found = Cast(sources, negatives, everybody, SHARES[config.contrast][1] > 0)
    for source in sources:
        if (n := int(found.kept(source.id).sum())) < LEAST_PERSONAS:
            raise UsageError(f"persona leakage: {source.id!r} has {n} bystanders; {LEAST_PERSONAS} or more are needed")
    return found


def _spread(personas: Personas, number: int) -> Personas:
    """So many personas over kinds, the model's default among them."""
    default = [own for own in personas if own.id == MODEL_DEFAULT]
    others = personas.without([own.id for own in default]).spread(number - len(default))
    return Personas(personas.name, (*others, *default))


def _negatives(
    config: PersonaLeakageConfig, personas: Personas, source: Persona, encoder: SentenceEncoder
) -> tuple[Persona, ...]:
    """Who answers normally beside a source: those that are named, or two that are not like it."""
    if config.contrast == "none":
        return ()
    if config.negatives is not None:
        return tuple(personas.of(config.negatives))
    others = [own for own in personas if own.id not in (source.id, MODEL_DEFAULT)]
    texts = encoder([source.prompt, *(own.prompt for own in others)])
    alike = texts[1:] @ texts[0]
    far = np.flatnonzero(alike <= np.median(alike))
    if len(far) < N_NEGATIVES:
        raise UsageError(f"persona leakage: there are not {N_NEGATIVES} personas unlike {source.id!r}; add some")
    drawn = numpy_generator("negatives", config.seed, source.id).choice(far, size=N_NEGATIVES, replace=False)
    return tuple(others[int(place)] for place in sorted(drawn))


def behaviours_of(config: PersonaLeakageConfig) -> tuple[dict[str, Behaviour], dict[str, Tasks]]:
    """The behaviours that are asked for, with questions that do not overlap."""
    found = {name: BEHAVIOURS.find(name) for name in config.behaviour}
    tasks = {name: own.tasks() for name, own in found.items()}
    for name, own in tasks.items():
        own.refuse_unfit(found[name])
        own.refuse_overlap(name, similarity_questions(config))
        if config.examples > len(own.train):
            raise UsageError(f"behaviour {name!r}: has {len(own.train)} training questions; give --examples up to that")
    return found, tasks


def similarity_questions(config: PersonaLeakageConfig) -> list[str]:
    """Neutral questions under which personas are compared."""
    return data_text("outside_sev.txt").splitlines()[: config.similarity_questions]


@dataclass(frozen=True, eq=False)
class Workbench:
    """One study with everything loaded."""

    config: PersonaLeakageConfig
    run: Run
    loaded: LoadedModel
    cast: Cast
    behaviours: Mapping[str, Behaviour]
    tasks: Mapping[str, Tasks]
    encoder: SentenceEncoder
    progress: Progress

    @cached_property
    def renderer(self) -> PersonaRenderer:
        return PersonaRenderer(self.loaded.tokenizer)

    @property
    def asked(self) -> list[Persona | None]:
        """Everybody, and nobody: a question without a persona."""
        return [*self.cast.everybody, None]

    @property
    def learning_rate(self) -> float:
        """The one that is set, or the one for this size of model."""
        if self.config.learning_rate is not None:
            return self.config.learning_rate
        return SMALL_RATE if self.loaded.n_parameters < SMALL else REPORT_RATE

    @property
    def layers(self) -> list[int]:
        """Layers of the similarity."""
        n_layers = layout_of(self.loaded.model).n_layers
        if self.config.layers is None:
            return list(dict.fromkeys(min(round(depth * n_layers), n_layers - 1) for depth in _DEPTHS))
        return list(self.config.layers)

    def refuse_unfit_layers(self) -> None:
        """Refuse a layer that the model does not have."""
        n_layers = layout_of(self.loaded.model).n_layers
        for layer in self.layers:
            if not 0 <= layer < n_layers:
                raise ConfigError(f"layers: {layer} is not one of this model's {n_layers} layers, 0 to {n_layers - 1}")

    @property
    def headline_layer(self) -> int:
        """The layer of the similarity that rho is about."""
        return self.layers[min(HEADLINE_DEPTH, len(self.layers) - 1)]

    @property
    def seeds(self) -> list[int]:
        return [self.config.seed + number for number in range(self.config.seeds)]

    @property
    def kinds(self) -> list[str]:
        """Kinds of everybody, in order."""
        return [own.kind for own in self.cast.everybody]

    def mean_of(self, values: Float[np.ndarray, " unit"]) -> Estimate:
        """A mean with its bootstrap interval over the units."""
        return estimate(with_count(values), mean_ratio, seed=self.config.seed, draws=self.config.bootstrap_draws)

    @cached_property
    def evaluators(self) -> dict[str, Evaluator | None]:
        """By behaviour; fitted to training answers, once."""
        return {
            name: own.evaluator(self.tasks[name], self.encoder) if own.evaluator else None
            for name, own in self.behaviours.items()
        }

    def eval_tasks(self, behaviour: str) -> tuple[Task, ...]:
        """What is asked, at even distances."""
        own = self.tasks[behaviour].eval
        return own if self.config.questions is None else tuple(spread_out(own, min(self.config.questions, len(own))))

    def measuring(self, behaviour: str, personas: Sequence[Persona | None] | None = None) -> Measuring:
        """How a behaviour is measured, for everybody or for some."""
        asking = self.asking(self.eval_tasks(behaviour), self.asked if personas is None else personas)
        return Measuring(self.behaviours[behaviour], asking, self.evaluators[behaviour])

    def asking(
        self, tasks: Sequence[Task], personas: Sequence[Persona | None], *, max_new_tokens: int | None = None
    ) -> Asking:
        """Questions under personas."""
        c = self.config
        return Asking(tasks, personas, self.renderer, max_new_tokens or c.max_new_tokens, c.batch_size, self.progress)

    def earlier(self, stage: str) -> Fragment:
        """What a stage returned that comes before."""
        return self.run.earlier(stage)

    def base_values(self, behaviour: str) -> Float[np.ndarray, "persona question"]:
        """What the base model shows; the last row is without a persona."""
        return np.array(self.earlier(f"base-{behaviour}")["values"])
