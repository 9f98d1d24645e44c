"""Settings of `bench`, `score` and `compare`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from leakmech.core.answers import REASONING, Markers, parse_markers
from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.core.store import slug
from leakmech.datasets.samples import CONDITIONS, POLARITIES, Condition
from leakmech.generation.contrast import Contrast, named_contrast
from leakmech.generation.engines import DEFAULT_ENGINE, ENGINES, Capabilities
from leakmech.models.names import refuse_unknown_device
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.instructions import resolve_instruction
from leakmech.prompts.rewrites import find_rewrite
from leakmech.prompts.told import Told, is_oracle, most_told
from leakmech.runs.settings import (
    AdaptedModelSettings,
    DataSettings,
    DecodingSettings,
    FormSettings,
    InstructionSettings,
    ScoringSettings,
    Settings,
    Spelling,
    StatisticsSettings,
    refuse_missing_intervention,
)
from leakmech.scoring.sentence import DEFAULT_ECHO_SIMILARITY, Cleaning

Statistic = Literal[
    "auc_el",
    "mu_el",
    "valence_shift",
    "contrast",
    "topic_free",
    "topic_free_contrast",
    "topic_free_valence_shift",
    "tilt",
]
"""What a comparison can be about; ``topic_free`` is auc_el of the topic-free answers, ``tilt`` the shift per token."""


class ArrangedSettings(DataSettings):
    """Samples in an arrangement."""

    arrangement: Arrangement = Field(
        "before",
        description="where injections stand, how many and which: before or after the stem, twice, in the middle of "
        "other sentences, inside a clause, in an earlier turn, opposed (of both polarities, in both orders), graded "
        "(nearer to the stem), sarcasm (wording against meaning)",
    )


class ScoringConfig(StatisticsSettings, ScoringSettings, InstructionSettings, ArrangedSettings):
    """What decides how generations are scored and summarised, wherever they come from."""

    title: ClassVar[str] = "Scoring"

    echo_similarity: float = Field(DEFAULT_ECHO_SIMILARITY, gt=0, le=1, description="threshold of near-verbatim echoes")
    bootstrap_draws: int = Field(10_000, ge=100, description="bootstrap resamples of every interval")
    device: str = Field("auto", description="cpu, cuda, mps; auto takes the best there is")

    def refuse_missing(self) -> None:
        super().refuse_missing()
        refuse_unknown_device(self.device)

    @property
    def markers(self) -> Markers:
        """What reasoning stands between, which is not scored."""
        return REASONING


class BenchConfig(ScoringConfig, DecodingSettings, FormSettings, AdaptedModelSettings):
    """Everything that decides the numbers of a benchmark run, and where it runs."""

    command: ClassVar[str] = "bench"
    title: ClassVar[str] = "Benchmark"
    newer: ClassVar[Collection[str]] = ("engine", "on_task", "tilt", "tilt_completions", "tilt_from")

    intervention: str | None = Field(None, description="file of interventions (.json) that the model runs under")
    engine: str = Field(
        DEFAULT_ENGINE,
        description="what draws: hf (Hugging Face modules), or vllm (an extra; no hooks, contrast or likelihoods)",
    )
    fold: Annotated[bool, Spelling("--fold/--hooks")] = Field(
        False, description="bake the interventions into the weights, or run hooks"
    )
    generations: int = Field(10, ge=1, description="generations per prompt (K)")
    prompt_rewrite: str | None = Field(
        None,
        description="rewrite prompts first: self, self-examples, last-sentence, drop-unrelated-text[:COSINE], control "
        "(oracle), …",
    )
    contrast: Annotated[Contrast | None, Spelling(preset=True)] = Field(
        None, description="contrastive decoding: subtract-context, away-from-context, …; none is plain decoding"
    )
    stop_at_first_sentence: Annotated[bool, Spelling("--first-sentence-stop/--full-length")] = Field(
        True, description="end a row once the text that is scored is complete"
    )
    noise_floor: bool = Field(True, description="generate a second set of control generations")
    conditions: tuple[Condition, ...] = Field(
        CONDITIONS, min_length=1, description="prompts that are completed; a number that needs others is not computed"
    )
    on_task: bool = Field(
        False, description="also say which answers the model could have given without the injection (likelihoods)"
    )
    tilt: bool = Field(
        False, description="also measure how injections shift the odds between the model's own glad and sad completions"
    )
    # At least leakmech.scoring.tilt.FEWEST_DISTINCT, which is not imported here: it needs torch, settings do not.
    tilt_completions: int = Field(16, ge=5, description="completions of each stem for tilt")
    tilt_from: str | None = Field(
        None, description="run of the base model whose completions tilt is measured on, to compare models on the same"
    )

    def refuse_missing(self) -> None:
        super().refuse_missing()
        refuse_missing_intervention(self.intervention)
        if self.tilt_from is not None and not Path(self.tilt_from).is_dir():
            raise RunDirectoryError(f"tilt_from: {self.tilt_from} is not the directory of a run")

    @field_validator("prompt_rewrite")
    @classmethod
    def _known_rewrite(cls, value: str | None) -> str | None:
        return None if value in (None, "none") else find_rewrite(value).name

    @field_validator("contrast", mode="before")
    @classmethod
    def _named_contrast(cls, value: Any) -> Any:
        return None if value == "none" else named_contrast(value)

    @model_validator(mode="after")
    def _can_tell_on_task(self) -> Self:
        if self.on_task and self.contrast is not None:
            raise ValueError(
                "on_task: contrastive decoding draws from several prompts at once, of which no likelihood is known"
            )
        if self.on_task and "control" not in self.conditions:
            raise ValueError("on_task: is told by control answers; add control to the conditions")
        return self

    @model_validator(mode="after")
    def _can_be_tilted(self) -> Self:
        if self.tilt_from is not None and not self.tilt:
            raise ValueError("tilt_from: names completions for tilt, which is not measured; add tilt")
        if self.tilt and self.contrast is not None:
            raise ValueError("tilt: contrastive decoding draws from several prompts, of which no likelihood is known")
        if self.tilt and not set(POLARITIES) <= set(self.conditions):
            raise ValueError("tilt: compares positive and negative prompts; add both to the conditions")
        return self

    @model_validator(mode="after")
    def _engine_suffices(self) -> Self:
        rewrite = None if self.prompt_rewrite is None else find_rewrite(self.prompt_rewrite)
        reading = {
            "on_task": self.on_task,
            "tilt": self.tilt,
            "prompt_rewrite": rewrite is not None and rewrite.gain is not None,
        }
        hooks = self.intervention is not None and not self.fold
        ENGINES.find(self.engine).refuse(
            Capabilities(hooks=hooks, contrast=self.contrast is not None),
            self.decoding,
            likelihoods_of=[name for name, wanted in reading.items() if wanted],
        )
        return self

    @property
    def markers(self) -> Markers:
        """What reasoning stands between, which is not scored."""
        return self.decoding.markers

    @property
    def told(self) -> Told:
        """What rewriting, contrast and instruction are told beside the text of the prompt."""
        rewrite = None if self.prompt_rewrite is None else find_rewrite(self.prompt_rewrite)
        parts = (resolve_instruction(self.instruction), rewrite, self.contrast)
        return most_told(part.told for part in parts if part is not None)

    @property
    def oracle(self) -> bool:
        """Does the run use what a user does not have, so that it bounds mitigations and is not one itself?"""
        return is_oracle(self.told)


class ScoreConfig(ScoringConfig):
    """Everything that decides the numbers of texts that were generated elsewhere."""

    command: ClassVar[str] = "score"
    title: ClassVar[str] = "Texts"

    model: str = Field("unknown", description="what the texts come from; a name for tables")
    allow_missing: bool = Field(False, description="count generations that are not in the file as not scored")
    reasoning_markers: str = Field(
        "", description="what reasoning stands between, beside the common markers, as OPENING…CLOSING"
    )

    newer: ClassVar[Collection[str]] = ("reasoning_markers",)

    @property
    def markers(self) -> Markers:
        """What reasoning stands between, which is not scored."""
        return parse_markers(self.reasoning_markers)


class CompareConfig(Settings):
    """How finished runs are compared."""

    command: ClassVar[str] = "compare"
    kind: ClassVar[str] = "compare"
    title: ClassVar[str] = "Comparison"

    baseline: int | str | None = Field(None, description="the run to compare with; null: the first")
    statistic: Statistic = Field(
        "auc_el", description="what is tested; topic_free is auc_el of answers that are not about the injection"
    )
    all_pairs: bool = Field(False, description="compare every pair of runs, the later one minus the earlier one")
    margin: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="also test equivalence: the largest difference in the statistic that does not matter",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="level of the verdicts")
    cleaning: Cleaning | None = Field(None, description="cleaning policy of the scores; null: that of the runs")
    any_estimator: bool = Field(False, description="also compare runs that different estimators scored")
    seed: int = Field(0, description="seed of bootstrap and permutations")
    draws: int = Field(10_000, ge=100, description="bootstrap resamples and permutations")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "compare") -> Self:
        """Validate `values`; see :meth:`Settings.parse`."""
        config = super().parse(values, where=where)
        if config.all_pairs and config.baseline is not None:
            raise UsageError("compare: all pairs have no common baseline; leave one of the two out")
        return config


def default_name(config: BenchConfig) -> str:
    """The name of the directory of a run for which none is named."""
    changed = f"-{slug(config.intervention)}{'-folded' if config.fold else ''}" if config.intervention else ""
    return f"{slug(config.model)}-{slug(config.dataset)}{changed}-seed{config.seed}"
