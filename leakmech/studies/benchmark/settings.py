"""Settings of `bench` and `score`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator

from leakmech.datasets.samples import CONDITIONS, Condition
from leakmech.generation.contrast import Contrast, named_contrast
from leakmech.generation.rewriting import find_rewrite
from leakmech.generation.sampler import Decoding
from leakmech.models.batching import parse_batch_size
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.instructions import resolve_instruction
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm
from leakmech.runs.settings import DEFAULT_MODEL, Settings
from leakmech.scoring.sentence import DEFAULT_ECHO_SIMILARITY, Cleaning


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
