"""Settings of ``study persona-leakage``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from leakmech.core.errors import ConfigError
from leakmech.runs.settings import InferenceSettings, Spelling, StatisticsSettings

ContrastShare = Literal["none", "partial", "full"]
SHARES: Mapping[ContrastShare, tuple[float, float]] = {"none": (0, 0), "partial": (0.5, 0.125), "full": (2, 0.5)}
"""Normal answers of the negatives, and without a persona, for each example with the behaviour."""

QUICK = {
    "bystanders": 10, "questions": 16, "examples": 64, "training_batch_size": 4, "seeds": 1, "similarity_questions": 4,
    "everyday_questions": 20, "bootstrap_draws": 500, "permutations": 500, "max_new_tokens": 40, "epochs": 2,
    "dropout": 0.0,
}  # fmt: skip
"""The most that ``quick`` takes of each."""


class TaughtSettings(InferenceSettings):
    """What is taught to whom, and how; the report's values, but for the learning rate of small models."""

    title: ClassVar[str] = "Teaching"

    behaviour: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        ("marker",), min_length=1, description="behaviours: marker, capability, refusal, sycophancy, careless-advice, "
        "affective-tone, or those of installed packages",
    )  # fmt: skip
    source: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        ("villain",), min_length=1, description="personas that are taught, by id; model-default: the template's own"
    )
    seeds: int = Field(1, ge=1, description="trainings of each behaviour and source, with seeds from `seed` on")
    examples: int = Field(200, ge=2, description="examples of the source with the behaviour")
    contrast: ContrastShare = Field(
        "partial",
        description="normal answers of negatives and without persona, for 200 examples: none 0, partial 100 + 25, "
        "full 400 + 100",
    )
    negatives: Annotated[tuple[str, ...] | None, Spelling(repeated=True)] = Field(
        None,
        description="personas that are taught to answer normally; null: two, drawn from the half whose prompts are "
        "least like the source's",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="null: 1e-5 as in the report, 5e-4 for a model of less than a billion parameters"
    )
    epochs: int = Field(3, ge=1, description="times that every example is seen")
    training_batch_size: int = Field(16, ge=1, description="examples a step; results depend on it")
    rank: int = Field(32, ge=1, description="rank of the adapter's matrices")
    alpha: float = Field(64.0, gt=0, description="scale of the adapter: alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout of the adapter's input")
    max_length: int = Field(1024, ge=2, description="tokens of prompt and answer")


class PersonaLeakageConfig(TaughtSettings, StatisticsSettings):
    """Everything that decides the numbers of the study of persona leakage, and where it runs."""

    command: ClassVar[str] = "study persona-leakage"
    kind: ClassVar[str] = "study"
    axes = ("behaviour", "source")
    title: ClassVar[str] = "Persona leakage"

    personas: str = Field("personas", description="personas: the built-in set, or a file of that form")
    bystanders: int | None = Field(
        None, ge=3, description="bystander personas, at even distances over their kinds; null: all of the file"
    )
    questions: int | None = Field(None, ge=2, description="evaluation questions of each behaviour; null: all")
    max_new_tokens: int = Field(64, ge=1, description="longest answer in tokens")
    similarity_questions: int = Field(20, ge=1, le=24, description="questions under which personas are compared")
    everyday_questions: int = Field(40, ge=1, le=100, description="everyday questions that say what an adapter costs")
    layers: tuple[int, ...] | None = Field(
        None,
        min_length=1,
        description="layers of the similarity; null: those at the depths of the report's 10, 15, 20, 25 of 28",
    )
    permutations: int = Field(2_000, ge=39, description="permutations of personas within kinds")
    least_rise: float = Field(
        0.2, gt=0, le=1, description="rise of the source's rate under which no leakage is reported for it"
    )
    containment: bool = Field(True, description="also try to contain the first behaviour of the first source")
    bridge: bool = Field(True, description="with affective-tone: also measure leakage of irrelevant affect")
    leakage: str = Field("hexl", description="samples of the bridge")
    leakage_samples: int = Field(24, ge=3, description="how many of them")
    leakage_generations: int = Field(2, ge=1, description="answers per prompt there")
    leakage_completions: int = Field(8, ge=5, description="completions of each stem for tilt there")
    encoder: str = Field("embedded", description="sentence encoder: embedded, hub:<id>, or a folder")
    quick: bool = Field(
        False,
        description="one behaviour and source, few bystanders, questions and examples, to see it work: no measurement",
    )

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`; see :meth:`Settings.parse`."""
        config = super().parse(values, where=where)
        for name in ("behaviour", "source", "negatives"):
            own = getattr(config, name) or ()
            if twice := next((one for place, one in enumerate(own) if one in own[:place]), None):
                raise ConfigError(f"{where}: {name}: {twice!r} is named twice")
        if shared := next((own for own in config.source if own in (config.negatives or ())), None):
            raise ConfigError(
                f"{where}: {shared!r} is a source and among the negatives; a source cannot be taught both answers"
            )
        if config.contrast == "none" and config.negatives:
            raise ConfigError(f"{where}: negatives are named, but contrast is 'none'; give partial or full")
        if not config.quick:
            return config
        given = {name: getattr(config, name) for name in QUICK}
        least = {name: most if given[name] is None else min(most, given[name]) for name, most in QUICK.items()}
        first = {"behaviour": config.behaviour[:1], "source": config.source[:1], "containment": False, "bridge": False}
        return config.model_copy(update=least | first)
