"""Settings of ``study emotion-circuits``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator

from leakmech.core.errors import ConfigError
from leakmech.runs.settings import InferenceSettings, StatisticsSettings
from leakmech.studies.emotion_circuits.assembly import CAP

Form = Literal["auto", "chat", "plain"]
LEAST_STRENGTHS = 3

QUICK = {
    "fit_scenarios": 8, "tune_scenarios": 1, "test_scenarios": 2, "random_draws": 3, "random_circuits": 1,
    "influence_events": 1, "judged_events": 1, "outside_prompts": 0, "max_new_tokens": 8, "bootstrap_draws": 200,
    "leakage_samples": 4, "leakage_generations": 1, "leakage_draws": 1,
}  # fmt: skip
"""The most that ``quick`` takes of each."""
_QUICK_STRENGTHS = slice(1, 2)  # one alone, so that nothing is chosen


class EmotionCircuitsConfig(StatisticsSettings, InferenceSettings):
    """Everything that decides the numbers of the study of emotion circuits, and where it runs."""

    command: ClassVar[str] = "study emotion-circuits"
    kind: ClassVar[str] = "study"
    grows: ClassVar[Collection[str] | None] = ("diagnosis",)
    title: ClassVar[str] = "Emotion circuits"

    dataset: str = Field("sev", description="scenarios with splits fit and tune: sev, or a file of that form")
    test: str = Field("sev-test", description="scenarios that everything is reported on: sev-test, or a file")
    form: Form = Field(
        "auto",
        description="how an emotion is commanded: chat (in the system role), plain (text that ends with an open "
        "quotation), or auto: the one in which the first judge reads it more often on tune events",
    )
    judges: tuple[str, ...] = Field(
        ("encoder", "lexicon"),
        min_length=1,
        description="judges of emotion, the headline first: encoder, lexicon, hub:<id>; none is told the command",
    )
    encoder: str = Field("embedded", description="sentence encoder of relevance: embedded, hub:<id>, or a folder")
    fit_scenarios: int | None = Field(None, ge=2, description="scenarios of fit, at even distances; null: all")
    tune_scenarios: int = Field(8, ge=1, description="scenarios of tune, on which form and strengths are chosen")
    test_scenarios: int | None = Field(None, ge=2, description="scenarios of the test file; null: all")
    outside_prompts: int = Field(24, ge=0, le=24, description="questions outside of the scenarios; 0: none")
    max_new_tokens: int = Field(60, ge=1, description="longest reply in tokens")
    repetition_penalty: float = Field(1.1, gt=0, description="of the replies that are compared; 1 is none")
    no_repeat_ngrams: int = Field(3, ge=0, description="token sequences that they may not repeat; 0: none")
    late_tokens: int = Field(5, ge=1, description="tokens of a reply that directions of late tokens leave out")
    head_share: float = Field(168 / (28 * 24), gt=0, le=CAP, description="share of all heads in a circuit")
    neuron_share: float = Field(392 / (28 * 8192), gt=0, le=CAP, description="share of all neurons in a circuit")
    influence_strengths: tuple[float, ...] = Field(
        (0.1, 0.3, 0.5, 0.7), min_length=1, description="lengths of what is injected into sublayers, in stream RMS"
    )
    influence_events: int = Field(4, ge=1, description="tune events for that")
    judged_events: int = Field(12, ge=1, description="tune events on which sets of units are judged by projection")
    random_draws: int = Field(20, ge=1, description="random sets of as many units per layer beside each")
    random_circuits: int = Field(3, ge=1, description="random circuits in the comparison")
    modulation_scales: tuple[float, ...] = Field(
        (0.5, 1.0, 2.0, 4.0), description="factors of what a circuit adds that are tried on tune"
    )
    steering_strengths: tuple[float, ...] = Field(
        (0.025, 0.05, 0.1, 0.2),
        description="steps of steering a layer, in stream lengths, that are tried on tune",
    )
    fluency_bound: float = Field(
        2.0, gt=1, description="perplexity over that of uncommanded replies up to which a strength may be chosen"
    )
    diagnosis: str | None = Field(
        None, description="finished diagnosis of the same model, for the bridge to leakage; null: no bridge"
    )
    leakage: str = Field("hexl", description="samples on which leakage is measured with the circuits dampened")
    leakage_samples: int = Field(60, ge=3, description="how many of them")
    leakage_generations: int = Field(2, ge=1, description="answers per prompt there")
    leakage_completions: int = Field(8, ge=5, description="completions of each stem for tilt there")
    leakage_draws: int = Field(2, ge=1, description="random unions of units that are dampened beside the circuits")
    quick: bool = Field(
        False,
        description="run everything on a few scenarios, short replies and few draws, to see it work: no measurement",
    )
    dtype: str = Field("float32", description="float32; in bfloat16 effects of single units drown in rounding; or auto")
    batch_size: int | str = Field("auto", description="prompts that run together; auto")

    @field_validator("modulation_scales", "steering_strengths")
    @classmethod
    def _enough(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) < LEAST_STRENGTHS or min(value) <= 0:
            raise ConfigError(f"strengths: give at least {LEAST_STRENGTHS} different ones above 0, found {list(value)}")
        return tuple(sorted(value))

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`; see :meth:`Settings.parse`."""
        config = super().parse(values, where=where)
        if not config.quick:
            return config
        given = {name: getattr(config, name) for name in QUICK}
        least = {name: most if given[name] is None else min(most, given[name]) for name, most in QUICK.items()}
        fewer = {name: getattr(config, name)[_QUICK_STRENGTHS] for name in ("modulation_scales", "steering_strengths")}
        return config.model_copy(update=least | fewer | {"influence_strengths": config.influence_strengths[:1]})
