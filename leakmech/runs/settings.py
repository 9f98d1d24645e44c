"""Configurations: validated values, read from YAML or given as keywords, with errors a reader can act on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leakmech.core.errors import ConfigError, nearest
from leakmech.datasets.samples import CONDITIONS, Condition
from leakmech.generation.contrast import Contrast, named_contrast
from leakmech.generation.rewriting import find_rewrite
from leakmech.generation.sampler import Decoding
from leakmech.models.batching import parse_batch_size
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.instructions import resolve_instruction
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm
from leakmech.scoring.sentence import DEFAULT_ECHO_SIMILARITY, Cleaning

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"


class Settings(BaseModel):
    """Settings of a command that makes a run.

    The fields in `place` say where and how fast a run computes; they may differ when a run is continued.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    command: ClassVar[str]
    kind: ClassVar[str] = "bench"
    place: ClassVar[Collection[str]] = ("device", "dtype", "batch_size", "trust_remote_code")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`.

        Raises
        ------
        ConfigError
            A key is unknown (the nearest valid one is named) or a value is out of range.
        """
        _refuse_unknown(values, cls.model_fields, where)
        for name, known in cls._groups().items():
            if isinstance(values.get(name), Mapping):
                _refuse_unknown(values[name], known, where, prefix=f"{name}.")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{where}: {field}: {first['msg']}, found {first['input']!r}") from error

    def identity(self) -> dict[str, Any]:
        """The settings that decide results, JSON-ready."""
        return self.model_dump(mode="json", exclude=set(self.place))

    @classmethod
    def _groups(cls) -> dict[str, Collection[str]]:
        """Settings that are groups of settings, and the names of these."""
        found: dict[str, Collection[str]] = {}
        for name, field in cls.model_fields.items():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found[name] = kind.model_fields
                elif kind is Decoding:
                    found[name] = Decoding.__dataclass_fields__
        return found


def _refuse_unknown(values: Mapping[str, Any], known: Collection[str], where: str, *, prefix: str = "") -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {prefix + str(key)!r}{nearest(str(key), known)}")


class ScoringConfig(Settings):
    """What decides how generations are scored and summarised, wherever they come from."""

    dataset: str = Field("hexl", description="built-in name, or a JSONL / CSV file of samples")
    limit: int | None = Field(None, ge=1, description="use only the first N samples")
    seed: int = Field(0, description="seed of the coupled sampling and of the bootstrap")
    arrangement: Arrangement = Field("before", description="injection before or after the stem, or two of them (twice)")
    instruction: str = Field(
        "none", description="a name (none, ignore-irrelevant, …), or any text added before every prompt"
    )
    cleaning: Cleaning = Field("echo-free", description="the policy of the headline numbers; all three are computed")
    echo_similarity: float = Field(DEFAULT_ECHO_SIMILARITY, gt=0, le=1, description="threshold of near-verbatim echoes")
    estimator: str = Field(
        "embedded", description="expression estimator: embedded, vader, hub:<id>; several with commas, headline first"
    )
    encoder: str = Field("embedded", description="sentence encoder of mu_L: embedded, hub:<id>, or a folder")
    bootstrap_draws: int = Field(10_000, ge=100, description="bootstrap resamples behind every interval")
    device: str = Field("auto", description="cpu, cuda, mps; auto takes the best there is")

    @field_validator("instruction")
    @classmethod
    def _known_instruction(cls, value: str) -> str:
        resolve_instruction(value)
        return value


class BenchConfig(ScoringConfig):
    """Everything that decides the numbers of a benchmark run, and where it runs."""

    command: ClassVar[str] = "bench"

    model: str = Field(DEFAULT_MODEL, description="hub id, local folder, adapter folder, or embedded:<name>")
    adapter: str | None = Field(None, description="PEFT adapter folder to put on the model")
    intervention: str | None = Field(None, description="file of interventions (.json) that the model runs under")
    fold: bool = Field(False, description="bake the interventions into the weights instead of running hooks")
    revision: str | None = Field(None, description="commit, tag or branch of a hub model")
    generations: int = Field(10, ge=1, description="generations per prompt (K)")
    prompt_form: PromptForm = Field("auto", description="chat template, plain text, or whichever the tokenizer has")
    system: str | None = Field(DEFAULT_SYSTEM, description="text of the system role in chat form; null leaves it out")
    prompt_rewrite: str | None = Field(None, description="rewrite prompts before they are completed: self, control, …")
    contrast: Contrast | None = Field(None, description="contrastive decoding: a preset's name, or its settings")
    decoding: Decoding = Field(default_factory=Decoding, description="sampling settings")
    stop_at_first_sentence: bool = Field(True, description="end a row once the text that is scored is complete")
    noise_floor: bool = Field(True, description="generate a second set of control generations")
    conditions: tuple[Condition, ...] = Field(
        CONDITIONS, min_length=1, description="prompts that are completed; a number that needs others is not computed"
    )
    dtype: str = Field("auto", description="float32, bfloat16, float16; auto takes bfloat16 where it is fast")
    batch_size: int | str = Field("auto", description="rows that step together; auto fits them to memory")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`; see :meth:`Settings.parse`."""
        config = super().parse(values, where=where)
        parse_batch_size(config.batch_size)
        return config

    @field_validator("prompt_rewrite")
    @classmethod
    def _known_rewrite(cls, value: str | None) -> str | None:
        return None if value in (None, "none") else find_rewrite(value).name

    @field_validator("contrast", mode="before")
    @classmethod
    def _named_contrast(cls, value: Any) -> Any:
        return None if value == "none" else named_contrast(value)

    @property
    def oracle(self) -> bool:
        """Does the run use what a user does not have, so that it bounds mitigations and is none itself?"""
        by_rewrite = self.prompt_rewrite is not None and find_rewrite(self.prompt_rewrite).oracle
        return by_rewrite or (self.contrast is not None and self.contrast.oracle)


class ScoreConfig(ScoringConfig):
    """Everything that decides the numbers of texts that were generated elsewhere."""

    command: ClassVar[str] = "score"

    model: str = Field("unknown", description="what the texts come from; a name for tables")
    allow_missing: bool = Field(False, description="count generations that are not in the file as not scored")


class DiagnoseConfig(Settings):
    """Everything that decides the numbers of a diagnosis, and where it runs."""

    command: ClassVar[str] = "diagnose"
    kind: ClassVar[str] = "diagnose"

    model: str = Field(DEFAULT_MODEL, description="hub id, local folder, adapter folder, or embedded:<name>")
    adapter: str | None = Field(None, description="PEFT adapter folder to put on the model")
    revision: str | None = Field(None, description="commit, tag or branch of a hub model")
    fit: str = Field(description="samples on which directions are fitted: built-in name, or a JSONL / CSV file")
    tune: str | None = Field(None, description="samples on which layers, methods and components are chosen")
    dataset: str = Field("hexl", description="samples on which everything is reported")
    limit: int | None = Field(None, ge=3, description="use only the first N samples of the data set")
    target: Literal["direction", "behaviour"] = Field("direction", description="what ranks and curves are about")
    target_layer: int | None = Field(None, ge=0, description="layer of the target direction; null: the last one")
    methods: tuple[str, ...] = Field(
        ("difference_of_means", "logistic", "pca", "two_means"), description="how directions are fitted"
    )
    estimator: str = Field("embedded", description="says which of the model's own sentences are positive")
    exact_samples: int = Field(8, ge=2, description="samples on which every head is patched exactly")
    circuit_samples: int = Field(16, ge=2, description="samples on which circuits are measured")
    continuations: int = Field(1, ge=1, description="own continuations per prompt for the behavioural target")
    integrated_steps: int = Field(8, ge=1, description="steps of integrated gradients")
    random_rankings: int = Field(5, ge=2, description="random rankings beside every circuit curve")
    top: int = Field(20, ge=1, description="heads in the headline circuit")
    prompt_form: PromptForm = Field("auto", description="chat template, plain text, or whichever the tokenizer has")
    system: str | None = Field(DEFAULT_SYSTEM, description="text of the system role in chat form; null leaves it out")
    instruction: str = Field(
        "none", description="a name (none, ignore-irrelevant, …), or any text added before every prompt"
    )
    seed: int = Field(0, description="seed of fits, baselines, continuations and the bootstrap")
    bootstrap_draws: int = Field(2_000, ge=100, description="bootstrap resamples behind every interval")
    device: str = Field("auto", description="cpu, cuda, mps; auto takes the best there is")
    dtype: str = Field("float32", description="float32; in bfloat16 effects of single heads drown in rounding; or auto")
    batch_size: int | str = Field("auto", description="pairs of prompts that run together; auto goes by the device")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")


class MitigateConfig(Settings):
    """Everything that decides the numbers of a comparison of mitigations, and where it runs."""

    command: ClassVar[str] = "mitigate"
    kind: ClassVar[str] = "mitigate"

    model: str = Field(DEFAULT_MODEL, description="hub id, local folder, adapter folder, or embedded:<name>")
    revision: str | None = Field(None, description="commit, tag or branch of a hub model")
    diagnosis: str | None = Field(
        None, description="directory of a finished diagnosis of the model, with a tune split; null: judge files only"
    )
    dataset: str = Field("hexl", description="leakage set on which everything is reported")
    relevant: tuple[str, ...] = Field(
        ("relevant-matched", "relevant-self"), min_length=1, description="sets of relevant affect, the headline first"
    )
    arrangements: tuple[Arrangement, ...] = Field(
        (), description="also measure leakage with injections after the stem, or two of them (twice)"
    )
    relevant_fit: tuple[str, ...] = Field(
        ("relevant-fit", "relevant-train"),
        min_length=1,
        description="relevant affect to fit and choose on, marked fit and tune",
    )
    families: tuple[str, ...] = Field((), description="kinds of mitigations to try; empty: all")
    adapters: tuple[str, ...] = Field((), description="PEFT adapter folders to judge in the same table")
    interventions: tuple[str, ...] = Field((), description="files of interventions to judge in the same table")
    baselines: bool = Field(True, description="also random directions, heads and neurons, and shuffled labels")
    generations: int = Field(4, ge=1, description="generations per prompt on the test sets")
    limit: int | None = Field(None, ge=3, description="use only the first N samples of the leakage set")
    tune_generations: int = Field(2, ge=1, description="generations per prompt where strengths are chosen")
    tune_samples: int = Field(40, ge=3, description="samples of either set on which strengths are chosen")
    cleaning: Cleaning = Field("echo-free", description="the policy of the headline numbers")
    estimator: str = Field("embedded", description="expression estimator: embedded, vader, hub:<id>")
    encoder: str = Field("embedded", description="sentence encoder: embedded, hub:<id>, or a folder")
    prompt_form: PromptForm = Field("auto", description="chat template, plain text, or whichever the tokenizer has")
    system: str | None = Field(DEFAULT_SYSTEM, description="text of the system role in chat form; null leaves it out")
    decoding: Decoding = Field(default_factory=Decoding, description="sampling settings")
    margins: dict[str, float] = Field(
        default_factory=dict, description="within which a side effect counts as none; see `leakmech mitigate --help`"
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="level of the tests")
    seed: int = Field(0, description="of the coupled sampling, baselines and the bootstrap")
    bootstrap_draws: int = Field(2_000, ge=100, description="bootstrap resamples behind every interval")
    device: str = Field("auto", description="cpu, cuda, mps; auto takes the best there is")
    dtype: str = Field("auto", description="float32, bfloat16, float16; auto takes bfloat16 where it is fast")
    batch_size: int | str = Field("auto", description="rows that step together; auto fits them to memory")
    trust_remote_code: bool = Field(False, description="run code that comes with a hub model")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`.

        Raises
        ------
        ConfigError
            A key is unknown (the nearest valid one is named), a value is out of range, or there is nothing to judge.
        """
        config = super().parse(values, where=where)
        if config.diagnosis is None and config.families:
            raise ConfigError(
                f"{where}: families need a finished diagnosis (--diagnosis; make one with leakmech diagnose)"
            )
        if config.diagnosis is None and not (config.adapters or config.interventions):
            raise ConfigError(
                f"{where}: nothing to judge; name a finished diagnosis (--diagnosis), adapters (--adapter) or "
                "interventions (--intervention)"
            )
        return config

    def terms(self) -> dict[str, Any]:
        """What holds for everything that is compared: a run takes in more mitigations as long as this is the same."""
        return {key: value for key, value in self.identity().items() if key not in COMPARED}


COMPARED = {"families", "adapters", "interventions", "baselines"}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises
    ------
    ConfigError
        It is missing, no valid YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values
