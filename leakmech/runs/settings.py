"""Settings: validated values, read from YAML or given as keywords, with errors a reader can act on.

A study's settings are a class that takes the groups of this module it needs and adds its own fields. The fields and
their descriptions make the options of the command and its ``--help``, and how a report says to repeat a run
(:mod:`leakmech.runs.options`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator

from leakmech.core.errors import ConfigError, InterventionError
from leakmech.core.validation import checked
from leakmech.datasets.samples import dataset_file
from leakmech.generation.decoding import NEWER, Decoding
from leakmech.models.names import model_folder, refuse_unknown_device, refuse_unknown_dtype
from leakmech.prompts.instructions import DEFAULT_TASK, resolve_instruction, resolve_task
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm
from leakmech.scoring.estimators import estimator_names, refuse_unknown_estimator
from leakmech.scoring.sentence import Cleaning

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"


@dataclass(frozen=True)
class Spelling:
    """For ``Annotated``: how a setting is spelled as an option, if that does not follow from its name and type."""

    names: str = ""
    """``--name``, or ``--yes/--no`` of a switch."""
    prefix: str | None = None
    """What the options of a group's fields begin with; by default the group's name."""
    preset: bool = False
    """The group may also be given by the name of a preset."""
    repeated: bool = False
    """Several values are given by repeating the option, not with commas, because they may be paths."""


class Settings(BaseModel):
    """Settings of a command that makes a run.

    The fields in `place` say where and how fast a run computes; they may differ when a run is continued.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    command: ClassVar[str]
    kind: ClassVar[str] = "bench"
    place: ClassVar[Collection[str]] = ("device", "dtype", "batch_size", "trust_remote_code")
    grows: ClassVar[Collection[str] | None] = None
    """Settings that may differ when a run takes in more, finished or not; None: a finished run is only read."""
    newer: ClassVar[Collection[str]] = ()
    """Settings that runs of earlier versions do not know, beside those of the groups: at their defaults they leave no
    trace. ``group.field`` is a field of a group."""
    axes: ClassVar[Collection[str]] = ()
    """Settings with several values, each of which a sweep may take alone: parts that do not depend on one another."""
    title: ClassVar[str] = "Settings"
    """What the fields that a class adds are about: the heading of their options."""

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`; ConfigError names a value out of range, or an unknown key and the nearest valid one."""
        return checked(cls, dict(values), where=where, error=ConfigError, noun="key")

    @classmethod
    def stored(cls, out: Path) -> dict[str, Any]:
        """The settings of the run in `out`, so that naming it is enough to continue it; none if there is no run."""
        from leakmech.runs.directory import stored_settings  # here: it needs more than settings do

        return stored_settings(out, command=cls.command)

    def refuse_missing(self) -> None:
        """Refuse names and files that are not there, as far as that can be said without torch.

        Every group says so of its own fields; what can only be said by loading a model is said then.
        """

    def identity(self) -> dict[str, Any]:
        """The settings that decide results, JSON-ready."""
        newer = {name for kind in type(self).__mro__ for name in vars(kind).get("newer", ())}
        exclude: dict[str, Any] = dict.fromkeys(self.place, True)
        for name in newer:
            group, _, field = name.rpartition(".")
            owner = getattr(self, group) if group else self
            if getattr(owner, field) == _default(owner, field):
                exclude |= {group: {*exclude.get(group, ()), field}} if group else {field: True}
        return self.model_dump(mode="json", exclude=exclude)


def _default(owner: Any, field: str) -> Any:
    """The default of a field of settings, or of a value among them that is a dataclass."""
    kind: Any = type(owner)
    return (kind.model_fields if isinstance(owner, BaseModel) else kind.__dataclass_fields__)[field].default


IN_MEMORY = "in memory"
"""What stands, in stored settings, for interventions that a script gave as values; their hash follows."""


def refuse_missing_intervention(name: str | None) -> None:
    """Refuse a file of interventions that is not there; None and what a script gave as values name none."""
    if name is not None and not name.startswith(IN_MEMORY) and not Path(name).is_file():
        raise InterventionError(f"{name}: no such file; interventions are .json files, with tensors beside them")


# -- groups of settings that studies share ---------------------------------------------------------------------------


class ModelSettings(Settings):
    """Which model, and where it runs."""

    title: ClassVar[str] = "Model"

    model: str = Field(DEFAULT_MODEL, description="hub id, local folder, adapter folder, or embedded:<name>")
    revision: str | None = Field(None, description="commit, tag or branch of a hub model")
    device: str = Field("auto", description="cpu, cuda, mps; auto takes the best there is")
    dtype: str = Field("auto", description="float32, bfloat16, float16; auto takes bfloat16 where it is fast")

    def refuse_missing(self) -> None:
        super().refuse_missing()
        model_folder(self.model, revision=self.revision)
        refuse_unknown_device(self.device)
        refuse_unknown_dtype(self.dtype)


class InferenceSettings(ModelSettings):
    """A model that is run, not trained."""

    batch_size: int | str = Field("auto", description="rows that step together; auto fits them to memory")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")

    @field_validator("batch_size")
    @classmethod
    def _number_or_auto(cls, value: int | str) -> int | str:
        from leakmech.models.batching import parse_batch_size  # here: it needs torch, settings do not

        parse_batch_size(value)
        return value


class AdaptedModelSettings(InferenceSettings):
    """A model that may have an adapter."""

    adapter: str | None = Field(None, description="PEFT adapter folder to put on the model")

    def refuse_missing(self) -> None:
        super().refuse_missing()
        if self.adapter is not None:
            model_folder(self.adapter)


class DataSettings(Settings):
    """The samples on which a study reports."""

    title: ClassVar[str] = "Data"

    dataset: str = Field("hexl", description="samples to report on: built-in name, or a JSONL / CSV file")
    limit: int | None = Field(None, ge=1, description="use only the first N samples")

    def refuse_missing(self) -> None:
        super().refuse_missing()
        dataset_file(self.dataset)


class FormSettings(Settings):
    """How a prompt is put to the model."""

    title: ClassVar[str] = "Prompts"

    prompt_form: PromptForm = Field(
        "auto",
        description="chat template, the same with an answer that opens with the stem (prefill), plain text, or auto: "
        "chat if the tokenizer has a template, else plain",
    )
    system: str | None = Field(
        DEFAULT_SYSTEM, description="text of the system role in chat and prefill form; none leaves it out"
    )


class InstructionSettings(Settings):
    """What the model is told to do."""

    title: ClassVar[str] = "Prompts"

    newer: ClassVar[Collection[str]] = ("task",)

    instruction: str = Field(
        "none", description="a name (none, ignore-irrelevant, self-reminder, …), or any text added before every prompt"
    )
    task: str = Field(
        DEFAULT_TASK,
        description="how the completion is asked for: complete, finish, continue, write-end, fill-in, how-it-goes-on, "
        "or any text",
    )

    @field_validator("instruction")
    @classmethod
    def _known_instruction(cls, value: str) -> str:
        resolve_instruction(value)
        return value

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        resolve_task(value)
        return value


class DecodingSettings(Settings):
    """How answers are drawn."""

    title: ClassVar[str] = "Decoding"
    newer: ClassVar[Collection[str]] = tuple(f"decoding.{name}" for name in NEWER)

    decoding: Annotated[Decoding, Spelling(prefix="")] = Field(
        default_factory=Decoding, description="sampling settings"
    )


class EstimatorSettings(Settings):
    """What says how much affect a sentence expresses."""

    title: ClassVar[str] = "Scoring"

    estimator: str = Field(
        "embedded",
        description="expression estimator: embedded, vader, ngrams, hub:<id>; several with commas, headline first",
    )

    def refuse_missing(self) -> None:
        super().refuse_missing()
        for name in estimator_names(self.estimator):
            refuse_unknown_estimator(name)


class ScoringSettings(EstimatorSettings):
    """How answers are scored."""

    encoder: str = Field("embedded", description="sentence encoder of mu_L: embedded, hub:<id>, or a folder")
    cleaning: Cleaning = Field("echo-free", description="the policy of the headline numbers; all three are computed")


class StatisticsSettings(Settings):
    """What is drawn at random, and how often."""

    title: ClassVar[str] = "Seed and statistics"

    seed: int = Field(0, description="seed of everything that is drawn, and of the bootstrap")
    bootstrap_draws: int = Field(2_000, ge=100, description="bootstrap resamples of every interval")
