"""What a mitigation damages: every measure of this folder in one go, base against changed, each with a verdict.

    suite = SideEffectSuite(base, renderer, samples, Answers.of_run(base_run), controls, neutral, questions, encoder)
    effects = suite.measure(ModelVariant(loaded, change), Answers.of_run(changed_run))
    effects.to_frame()

=====================  ==============================================================  ===========  =======
measure                what                                                            unit         harm
=====================  ==============================================================  ===========  =======
perplexity_control     perplexity of the base model's own control generations          sample       up
kl                     KL(base || changed) over the tokens of those, nats a token      sample       up
perplexity_neutral     perplexity of neutral text                                      document     up
distinct_1, _2, _3     variety of the generations of a prompt                          sample       down
repeated, looping,     degeneration (:mod:`leakmech.side_effects.degeneration`)          sample       up
empty, compression
length                 tokens a generation                                             sample       either
relevance_to_stem,     similarity of meaning (:mod:`leakmech.side_effects.relevance`)    sample       down
relevance_to_base
capability             accuracy on everyday-knowledge questions                        question     down
seconds                seconds per generation                                          round        up
=====================  ==============================================================  ===========  =======

Leakage with the injection after the stem, and with two, is measured by benchmark runs of these arrangements
(:mod:`leakmech.prompts.arrangement`) and :func:`leakmech.side_effects.selectivity.leakage_reduction`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from leakmech.core.errors import UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import PromptSet
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.prompts.render import Prompt, Renderer
from leakmech.scoring.semantic import SentenceEncoder
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.answers import Answers, require_same_prompts
from leakmech.side_effects.capability import (
    AnyQuestion,
    Capability,
    capability,
    require_same_questions,
    with_count,
)
from leakmech.side_effects.degeneration import DISTINCT, Degeneration, degeneration
from leakmech.side_effects.equivalence import Columns, Harm, Margins, Scale, SideEffect, side_effect
from leakmech.side_effects.fluency import AnswerQuality, Fluency, answer_quality, fluency
from leakmech.side_effects.likelihood import LikelihoodComparison, compare_likelihoods
from leakmech.side_effects.relevance import KINDS, Relevance, relevance
from leakmech.side_effects.speed import Speed
from leakmech.side_effects.texts import prompt_continuations

Reached = Literal["controls", "neutral", "questions"]
REACHED: tuple[Reached, ...] = get_args(Reached)
"""Texts on which a change of the model is measured: control prompts with their answers, neutral texts, questions."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of one changed model; None for what was not."""

    control: LikelihoodComparison | None = None
    neutral: LikelihoodComparison | None = None
    degeneration: tuple[Degeneration, Degeneration] | None = None
    relevance: Relevance | None = None
    capability: tuple[Capability, Capability] | None = None
    speed: Speed | None = None


@dataclass(frozen=True, eq=False)
class SideEffects:
    """Every side effect of one changed model, in the order of the table at the head of this module."""

    effects: tuple[SideEffect, ...]
    margins: Margins
    measurements: Measurements
    fluency: Fluency | None = None
    """None where it was not measured."""
    quality: tuple[AnswerQuality, AnswerQuality] | None = None
    """What fluency was computed from, base and changed; for :func:`leakmech.side_effects.selectivity.selectivity`."""

    def __getitem__(self, name: str) -> SideEffect:
        found = {effect.name: effect for effect in self.effects}
        if name not in found:
            raise UsageError(f"side effect {name!r}: was not measured; measured: {', '.join(found)}")
        return found[name]

    @property
    def damaged(self) -> tuple[str, ...]:
        """Name what is worse."""
        return tuple(effect.name for effect in self.effects if effect.verdict == "worse")

    def to_frame(self) -> pd.DataFrame:
        """Make one row per side effect."""
        return pd.DataFrame([asdict(effect) for effect in self.effects])

    def to_dict(self) -> dict[str, Any]:
        """Make it JSON-ready."""
        return {
            "margins": self.margins.to_dict(),
            "effects": [asdict(effect) for effect in self.effects],
            "fluency": None if self.fluency is None else self.fluency.to_dict(),
        }


@dataclass(frozen=True)
class _Test:
    name: str
    scale: Scale
    harm: Harm
    margin: float
    base: Columns
    changed: Columns


def judge(
    measurements: Measurements, *, margins: Margins | None = None, seed: int = 0, draws: int = DRAWS
) -> tuple[SideEffect, ...]:
    """Give a verdict on everything that was measured, by default with :class:`Margins` as it stands."""
    margins = margins or Margins()
    return tuple(
        side_effect(
            test.name,
            test.base,
            test.changed,
            scale=test.scale,
            harm=test.harm,
            margin=test.margin,
            alpha=margins.alpha,
            seed=seed,
            draws=draws,
        )
        for test in _tests(measurements, margins)
    )


def _tests(found: Measurements, margins: Margins) -> list[_Test]:
    tests = []
    if found.control is not None:
        tests.append(_perplexity("perplexity_control", found.control, margins))
        kl = found.control.kl_columns
        no_kl = np.stack([np.zeros(len(kl)), kl[:, 1]], axis=1)
        tests.append(_Test("kl", "difference", "up", margins.kl, no_kl, kl))
    if found.neutral is not None:
        tests.append(_perplexity("perplexity_neutral", found.neutral, margins))
    if found.degeneration is not None:
        tests += _degeneration(*found.degeneration, margins)
    if found.relevance is not None:
        sides = found.relevance
        tests += [
            _Test(f"relevance_{kind}", "difference", "down", margins.relevance, sides.base[kind], sides.changed[kind])
            for kind in KINDS
        ]
    if found.capability is not None:
        require_same_questions(*found.capability)
        before, after = (with_count(side.correct) for side in found.capability)
        tests.append(_Test("capability", "difference", "down", margins.capability, before, after))
    if found.speed is not None:
        before, after = with_count(found.speed.base), with_count(found.speed.changed)
        tests.append(_Test("seconds", "ratio", "up", margins.seconds, before, after))
    return tests


def _perplexity(name: str, found: LikelihoodComparison, margins: Margins) -> _Test:
    before, after = found.nats_columns
    return _Test(name, "perplexity", "up", margins.perplexity, before, after)


def _degeneration(base: Degeneration, changed: Degeneration, margins: Margins) -> list[_Test]:
    if base.samples != changed.samples:
        raise UsageError("degeneration: base and changed model have generations of different samples")
    kinds: dict[str, tuple[Scale, Harm, float]] = {
        **{f"distinct_{n}": ("difference", "down", margins.distinct) for n in DISTINCT},
        "repeated": ("difference", "up", margins.repeated),
        "looping": ("difference", "up", margins.looping),
        "empty": ("difference", "up", margins.empty),
        "compression": ("ratio", "up", margins.compression),
        "length": ("ratio", "either", margins.length),
    }
    return [_Test(name, *settings, base.columns[name], changed.columns[name]) for name, settings in kinds.items()]


@dataclass(frozen=True, eq=False)
class SideEffectSuite:
    """Everything that measures side effects, set up once for a base model and then used on any number of changes.

    The base model and the changed ones answered the prompts of the same samples. What has no texts (`controls`,
    `neutral`), no questions or no encoder is not measured.
    """

    base: ModelVariant
    renderer: Renderer
    samples: PromptSet
    base_answers: Answers
    controls: Sequence[Continuation] = ()
    """Control generations of the base model (:func:`leakmech.side_effects.texts.prompt_continuations`)."""
    neutral: Sequence[Continuation] = ()
    """Neutral texts (:func:`leakmech.side_effects.texts.neutral_continuations`)."""
    questions: Sequence[AnyQuestion] = ()
    encoder: SentenceEncoder | None = None
    margins: Margins = field(default_factory=Margins)
    seed: int = 0
    draws: int = DRAWS
    batch_size: int | str = "auto"

    @cached_property
    def control_prompts(self) -> dict[str, Prompt]:
        """Render the control prompt of every sample."""
        return {sample.id: self.renderer.prompt(sample, "control") for sample in self.samples}

    @cached_property
    def base_quality(self) -> AnswerQuality:
        """Judge the base model's answers by itself, once."""
        return self.quality_of(self.base_answers)

    @cached_property
    def base_capability(self) -> Capability:
        """Let the base model answer the questions, once."""
        return capability(self.base, self.questions, renderer=self.renderer, batch_size=self.batch_size)

    def measure(
        self,
        changed: ModelVariant | None,
        answers: Answers,
        *,
        renderer: Renderer | None = None,
        speed: Speed | None = None,
        reached: Collection[Reached] = REACHED,
        progress: Progress = no_progress,
    ) -> SideEffects:
        """Measure one changed model, whose `answers` are to the prompts that the base model answered.

        None for `changed` measures no likelihoods, where only prompts or decoding change and they say nothing.
        `renderer` is given where a mitigation changes prompts: it renders them for the changed model. What the change
        cannot act on, and so does not stand in `reached`, is not measured.
        """
        require_same_prompts(self.base_answers, answers)
        measurements = Measurements(
            degeneration=(degeneration(self.base_answers), degeneration(answers)),
            relevance=self._relevance(answers),
            speed=speed,
        )
        if changed is not None:
            controls, neutral = (() if name not in reached else getattr(self, name) for name in ("controls", "neutral"))
            asked = "questions" in reached
            measurements = replace(
                measurements,
                control=self._compare(changed, controls, self._changed_prompts(renderer), progress),
                neutral=self._compare(changed, neutral, {}, progress),
                capability=self._capability(changed, renderer or self.renderer, progress) if asked else None,
            )
        quality = self.quality(answers, progress=progress)
        return SideEffects(
            effects=judge(measurements, margins=self.margins, seed=self.seed, draws=self.draws),
            margins=self.margins,
            measurements=measurements,
            fluency=fluency(*quality, seed=self.seed, draws=self.draws),
            quality=quality,
        )

    def quality(self, answers: Answers, *, progress: Progress = no_progress) -> tuple[AnswerQuality, AnswerQuality]:
        """Judge both models' answers by the base model."""
        return self.base_quality, self.quality_of(answers, progress=progress)

    def quality_of(self, answers: Answers, *, progress: Progress = no_progress) -> AnswerQuality:
        """Judge answers by the base model."""
        return answer_quality(
            self.base,
            answers,
            controls=self.control_prompts,
            renderer=self.renderer,
            batch_size=self.batch_size,
            progress=progress,
        )

    def _compare(
        self,
        changed: ModelVariant,
        texts: Sequence[Continuation],
        changed_prompts: Mapping[str, Continuation],
        progress: Progress,
    ) -> LikelihoodComparison | None:
        if not texts:
            return None
        return compare_likelihoods(
            self.base,
            changed,
            texts,
            changed_prompts=changed_prompts,
            batch_size=self.batch_size,
            progress=progress,
        )

    def _changed_prompts(self, renderer: Renderer | None) -> dict[str, Continuation]:
        """Put the control generations after the changed model's own prompts."""
        if renderer is None or not self.controls:
            return {}
        prompts = [renderer.prompt(sample, "control") for sample in self.samples]
        tokens = {continuation.id: continuation.tokens for continuation in self.controls}
        return {found.id: found for found in prompt_continuations(prompts, renderer, tokens=tokens)}

    def _relevance(self, answers: Answers) -> Relevance | None:
        if self.encoder is None:
            return None
        stems = {sample.id: sample.stem for sample in self.samples}
        return relevance(self.base_answers, answers, stems=stems, encoder=self.encoder)

    def _capability(
        self, changed: ModelVariant, renderer: Renderer, progress: Progress
    ) -> tuple[Capability, Capability] | None:
        if not self.questions:
            return None
        found = capability(changed, self.questions, renderer=renderer, batch_size=self.batch_size, progress=progress)
        return self.base_capability, found
