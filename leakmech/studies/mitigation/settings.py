"""Settings of `mitigate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field

from leakmech.core.errors import ConfigError
from leakmech.generation.sampler import Decoding
from leakmech.prompts.arrangement import Arrangement
from leakmech.prompts.render import DEFAULT_SYSTEM, PromptForm
from leakmech.runs.settings import DEFAULT_MODEL, Settings
from leakmech.scoring.sentence import Cleaning


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
