"""Settings of `mitigate`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, field_validator

from leakmech.core.errors import ConfigError, RunDirectoryError, nearest
from leakmech.datasets.samples import dataset_file
from leakmech.models.names import model_folder
from leakmech.prompts.arrangement import Arrangement
from leakmech.runs.settings import (
    DataSettings,
    DecodingSettings,
    FormSettings,
    InferenceSettings,
    ScoringSettings,
    Spelling,
    StatisticsSettings,
    refuse_missing_intervention,
)
from leakmech.studies.mitigation.catalogue import pinned

_TERMS = (
    "model", "revision", "diagnosis", "dataset", "relevant", "arrangements", "relevant_fit", "generations", "limit",
    "tune_generations", "tune_samples", "cleaning", "estimator", "encoder", "prompt_form", "system", "decoding",
    "margins", "alpha", "seed", "bootstrap_draws",
)  # fmt: skip
"""Settings that all that is compared shares, in the order in which runs have always been told apart by them."""

_NEWER_TERMS = ("facts", "tilt_completions", "fit", "tune", "quick")
"""The same, of later versions: at their defaults they leave no trace."""

QUICK = {
    "limit": 8, "generations": 1, "tune_generations": 1, "tune_samples": 3, "random_draws": 3, "tilt_completions": 5,
    "bootstrap_draws": 200,
}  # fmt: skip
"""The most that ``quick`` takes of each."""
_QUICK_FACTS, _QUICK_RELEVANT, _QUICK_TOKENS = 8, 4, 12
"""Of facts, of samples of each set of relevant affect, and of tokens of an answer."""

OWN = "own"
"""What stands for the path of a diagnosis that a run makes itself."""


class MitigateConfig(
    StatisticsSettings, ScoringSettings, DecodingSettings, FormSettings, DataSettings, InferenceSettings
):
    """Everything that decides the numbers of a comparison of mitigations, and where it runs."""

    command: ClassVar[str] = "mitigate"
    kind: ClassVar[str] = "mitigate"
    grows: ClassVar[Collection[str] | None] = (
        "families", "adapters", "interventions", "baselines", "random_draws", "claimed", "seeds",
    )  # fmt: skip
    newer: ClassVar[Collection[str]] = (
        "random_draws",
        "facts",
        "tilt_completions",
        "claimed",
        "seeds",
        "fit",
        "tune",
        "quick",
    )
    title: ClassVar[str] = "Mitigations"

    diagnosis: str | None = Field(
        None,
        description="directory of a finished diagnosis of the model, with a tune split, or own, which makes one in the "
        "run directory; null: own, unless there are only files to judge",
    )
    fit: str | None = Field(
        None, description="samples that the own diagnosis fits directions on; null: AEXL, built in the run directory"
    )
    tune: str | None = Field(
        None, description="samples that it chooses on, and strengths are chosen on; null: of AEXL, or a part of --fit"
    )
    limit: int | None = Field(None, ge=3, description="use only the first N samples of the leakage set")
    relevant: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        ("relevant-matched", "relevant-self"), min_length=1, description="sets of relevant affect, the headline first"
    )
    facts: str = Field(
        "facts-fit",
        description="facts that a model should still use: facts-fit (the half that nothing is chosen on), …",
    )
    arrangements: tuple[Arrangement, ...] = Field(
        (),
        description="also measure leakage in other arrangements (see bench --arrangement), for the base "
        "model, the oracle, the text-only baseline and the best two rows that are told nothing",
    )
    relevant_fit: Annotated[tuple[str, ...], Spelling(repeated=True)] = Field(
        ("relevant-fit", "relevant-train"),
        min_length=1,
        description="relevant affect to fit and choose on, marked fit and tune",
    )
    families: tuple[str, ...] = Field(
        (),
        description="kinds of mitigations to try, NAME=STRENGTH for one strength of it; empty: all, or one of each "
        "kind where the run is quick",
    )
    adapters: Annotated[tuple[str, ...], Spelling("--adapter", repeated=True)] = Field(
        (), description="PEFT adapter folders to judge in the same table"
    )
    interventions: Annotated[tuple[str, ...], Spelling("--intervention", repeated=True)] = Field(
        (), description="files of interventions to judge in the same table"
    )
    baselines: bool = Field(
        True, description="also shuffled labels, and random heads, neurons and directions of the size that was chosen"
    )
    random_draws: int = Field(20, ge=1, description="random draws of each kind, which the table shows as one band")
    claimed: tuple[str, ...] = Field(
        (), description="families, and rows of files, that a claim is made about: measured with several seeds, pooled"
    )
    seeds: int = Field(3, ge=2, description="generation seeds of what is claimed")
    generations: int = Field(4, ge=1, description="generations per prompt on the test sets")
    tune_generations: int = Field(2, ge=1, description="generations per prompt where strengths are chosen")
    tune_samples: int = Field(40, ge=3, description="samples of either set on which strengths are chosen")
    tilt_completions: int = Field(16, ge=5, description="completions of each stem for tilt")
    margins: Annotated[dict[str, float], Spelling("--margin")] = Field(
        default_factory=dict,
        description="margins within which a side effect counts as none: perplexity, kl, distinct, repeated, "
        "compression, length, empty, looping, relevance, capability, seconds, alpha",
    )
    alpha: float = Field(0.05, gt=0, lt=1, description="level of the tests")
    quick: bool = Field(
        False,
        description="run everything on 8 samples, one short generation, one strength and 3 random draws, and of side "
        "effects fluency and facts alone, to see it work: no measurement",
    )

    def refuse_missing(self) -> None:
        for name in self.families:
            pinned(name)
        super().refuse_missing()
        for name in filter(None, (self.fit, self.tune, *self.relevant, *self.relevant_fit)):
            dataset_file(name)
        for name in self.adapters:
            model_folder(name)
        for name in self.interventions:
            refuse_missing_intervention(name)
        if self.diagnosis not in (None, OWN) and not Path(str(self.diagnosis)).is_dir():
            raise RunDirectoryError(
                f"diagnosis: {self.diagnosis} is not the directory of a run; {self._how_to_diagnose}"
            )

    @property
    def _how_to_diagnose(self) -> str:
        """What makes the diagnosis that is named: a mitigation run has its own in a folder of that name."""
        folder = Path(str(self.diagnosis))
        if folder.name == "diagnosis":
            return f"make it with: leakmech mitigate configs/mitigate.yaml --out {folder.parent}"
        return f"make it with: leakmech diagnose configs/diagnose.yaml --out {folder}"

    @field_validator("margins")
    @classmethod
    def _known_margins(cls, value: dict[str, float]) -> dict[str, float]:
        from leakmech.side_effects.equivalence import Margins  # here: it needs more than settings do

        for name in value:
            if name not in Margins.__dataclass_fields__:
                raise ConfigError(f"margins: unknown {name!r}{nearest(name, Margins.__dataclass_fields__)}")
        Margins(**value)
        return value

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`; see :meth:`Settings.parse`."""
        config = super().parse(values, where=where)
        if config.quick:
            config = config._quick()
        if config.diagnosis is None and (config.families or config.fit or not config.judges_files):
            config = config.model_copy(update={"diagnosis": OWN})
        for name in ("fit", "tune"):
            if getattr(config, name) and config.diagnosis != OWN:
                raise ConfigError(
                    f"{where}: {name} is for a diagnosis that is made here, and one is named; leave it out"
                )
        if config.tune and not config.fit:
            raise ConfigError(f"{where}: tune is named and fit is not; name both")
        return config

    def _quick(self) -> Self:
        """The same with as little of everything as ``quick`` takes."""
        given = {name: getattr(self, name) for name in QUICK}
        least: dict[str, Any] = {
            name: most if given[name] is None else min(most, given[name]) for name, most in QUICK.items()
        }
        tokens = min(self.decoding.max_new_tokens, _QUICK_TOKENS)
        least["decoding"] = replace(self.decoding, max_new_tokens=tokens)
        usual = self.relevant_fit == type(self).model_fields["relevant_fit"].default
        return self.model_copy(update=least | ({"relevant_fit": self.relevant_fit[:1]} if usual else {}))

    @property
    def facts_limit(self) -> int | None:
        """How many facts are asked on test; None: all."""
        return _QUICK_FACTS if self.quick else None

    @property
    def relevant_limit(self) -> int | None:
        """How many samples of each set of relevant affect are judged on; None: all."""
        return min(_QUICK_RELEVANT, self.limit or _QUICK_RELEVANT) if self.quick else None

    @property
    def judges_files(self) -> bool:
        """Are there adapters or interventions to judge?"""
        return bool(self.adapters or self.interventions)

    def terms(self) -> dict[str, Any]:
        """What holds for everything that is compared: a run takes in more mitigations as long as this is the same."""
        identity = self.identity()
        return {name: identity[name] for name in (*_TERMS, *_NEWER_TERMS) if name in identity}
