"""One stem, some injections, a few answers to each: leakage at a glance, in seconds.

1. The control prompt (the stem) and every injected prompt (injection + stem) are completed K times.
2. The scored sentence of each answer gets a valence v = P[positive] - P[negative], and a mark where it is about the
   injection: the injection is among the nearest 5 % of the sentences of its polarity in HEXL
   (:mod:`leakmech.scoring.topic`).
3. The tilt of each prompt (:mod:`leakmech.scoring.tilt`) is taken on the control answers of the model without adapter
   and interventions.

What polarity an injection has is what the estimator says of it. One stem says little about a model: ``bench`` asks
sixty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from leakmech.core.errors import ConfigError, UsageError
from leakmech.core.progress import Progress, Shown, shown_progress
from leakmech.core.store import content_hash
from leakmech.core.validation import checked
from leakmech.datasets.samples import Condition, Sample, load_dataset
from leakmech.generation.decode import Generation, Row
from leakmech.generation.engine import generate
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.rereading import keeps_a_state
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.interventions.applied import Applied
from leakmech.interventions.base import Intervention
from leakmech.interventions.checks import as_interventions, fitted_hashes, refuse_misfits
from leakmech.interventions.files import load_interventions
from leakmech.interventions.hooks import apply
from leakmech.interventions.positions import PromptSpans
from leakmech.models.adapters import base_of
from leakmech.models.configured import load_configured
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, given_name, load_adapter
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Prompt, Renderer
from leakmech.scoring.expression import LABELS, Estimator, estimator_names, load_estimator
from leakmech.scoring.leakage import valence_of
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.scoring.sentence import FirstSentences
from leakmech.scoring.tilt import affective_tilt, text_numbers, why_no_tilt
from leakmech.scoring.topic import TOPIC_SHARE, Injections
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.quick.answers import PromptAnswers
from leakmech.studies.quick.result import QuickResult
from leakmech.studies.quick.settings import QuickConfig

_AMONG = "hexl"
"""The data set among whose injections the given ones are ranked."""
_POLICY = "echo-free"
_NEUTRAL = 0.1
"""An injection whose valence is nearer to 0 than this is neutral."""


def quick(
    stem: str,
    inject: str | Sequence[str] = (),
    *,
    model: Any = None,
    tokenizer: Any = None,
    interventions: Intervention | Sequence[Intervention] = (),
    progress: Shown = None,
    **settings: Any,
) -> QuickResult:
    """Complete a stem with and without charged sentences before it, and say whether the answers take up their affect.

    Parameters
    ----------
    stem
        The text to be completed ("The garden next door looks").
    inject
        One sentence or several; each is put before the stem in a prompt of its own. By default a positive and a
        negative one.
    model
        A name or path, a transformers or PEFT model, or what :func:`leakmech.load_model` returns. By default the
        embedded model.
    tokenizer
        Tokenizer of a model object, if it does not name its own.
    interventions
        What the model runs under, as values; a file is named with ``intervention="file.json"``.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    **settings
        Fields of :class:`leakmech.studies.quick.settings.QuickConfig`, e.g. ``generations=8, seed=0,
        prompt_form="plain"``.

    Returns
    -------
    QuickResult
        ``.headline``, ``.to_frame()`` (a row for each answer), ``.plot()``; a notebook shows bars.

    Raises
    ------
    UsageError
        The stem or an injection has no words, or a name, file or value is wrong; no model has been loaded.
    """
    progress = shown_progress(progress)
    if inject:
        settings["inject"] = (inject,) if isinstance(inject, str) else tuple(inject)
    if isinstance(model, str | Path):
        settings["model"] = str(model)
    elif model is not None:
        settings["model"] = given_name(model)
    config = QuickConfig.parse(settings, where="quick")
    samples = _samples(stem, config.inject)
    if len(estimator_names(config.estimator)) > 1:
        raise ConfigError(f"quick: takes one estimator, found {config.estimator!r}; bench takes several")
    chosen = as_interventions(interventions)
    if chosen and config.intervention:
        raise UsageError("quick: give interventions as values or as a file, not both")
    if config.intervention:
        chosen = load_interventions(config.intervention)
    device = None if config.device == "auto" else config.device
    encoder = load_encoder(device=device)
    estimator = load_estimator(config.estimator, encoder=encoder, device=device)
    in_memory = None if isinstance(model, str | Path) else model
    base = load_configured(config, in_memory, tokenizer)
    return _Look.of(config, samples, base, chosen, estimator, encoder, progress).result()


def _samples(stem: str, injections: Sequence[str]) -> tuple[Sample, ...]:
    """A sample for each injection, which is all three of its injections: its polarity is not known yet."""
    found = []
    for text in dict.fromkeys(injections):
        fields = {"id": f"quick-{content_hash(stem, text)[:12]}", "stem": stem}
        fields |= dict.fromkeys(("positive", "neutral", "negative"), text)
        found.append(checked(Sample, fields, where="quick", error=ConfigError))
    return tuple(found)


@dataclass(frozen=True, eq=False)
class _Look:
    """One look with everything loaded."""

    config: QuickConfig
    samples: tuple[Sample, ...]
    base: LoadedModel
    loaded: LoadedModel
    interventions: tuple[Intervention, ...]
    estimator: Estimator
    encoder: SentenceEncoder
    progress: Progress

    @classmethod
    def of(
        cls,
        config: QuickConfig,
        samples: tuple[Sample, ...],
        base: LoadedModel,
        interventions: tuple[Intervention, ...],
        *scoring: Any,
    ) -> _Look:
        """Put the adapter on the model, and refuse interventions that do not fit."""
        loaded = load_adapter(base, config.adapter) if config.adapter else base
        if interventions:
            hashes = fitted_hashes(interventions, base, loaded)
            refuse_misfits(interventions, layout_of(loaded.model), model_hashes=hashes)
        return cls(config, samples, base, loaded, interventions, *scoring)

    # -- prompts -----------------------------------------------------------------------------------------------------

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.base.tokenizer, self.config.prompting)

    @cached_property
    def control(self) -> Prompt:
        """Its id names the stem alone, so that its answers are the same whatever is injected beside it."""
        stem = self.samples[0].stem
        return replace(self.renderer.prompt(self.samples[0], "control"), id=f"quick-{content_hash(stem)[:12]}/control")

    @cached_property
    def prompts(self) -> tuple[Prompt, ...]:
        """The control prompt, then those with an injection."""
        return self.control, *(self.renderer.prompt(sample, "positive") for sample in self.samples)

    @cached_property
    def sentences(self) -> FirstSentences:
        return FirstSentences.of(self.prompts)

    @cached_property
    def spans(self) -> Mapping[str, PromptSpans]:
        """Where injection and stem stand, by prompt, if an intervention must know it."""
        if not any(intervention.spans for intervention in self.interventions):
            return {}
        return {found.id: PromptSpans.of(found) for found in locate(self.prompts, self.renderer)}

    def read(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt."""
        return tuple(self.renderer.token_ids(prompt.rendered))

    # -- answers -----------------------------------------------------------------------------------------------------

    def change(self) -> AbstractContextManager[Applied]:
        return apply(self.loaded.model, self.interventions)

    def answers(self, model: LoadedModel, prompts: Sequence[Prompt], *, changed: bool, label: str) -> list[Generation]:
        """K answers to each prompt, in the order of the prompts."""
        spans = self.spans if changed else {}
        rows = [
            Row(prompt.id, number, self.read(prompt), spans=spans.get(prompt.id))
            for prompt in prompts
            for number in range(self.config.generations)
        ]
        with self.change() if changed else nullcontext() as applied:
            return generate(
                HFEngine.of(model),
                rows,
                self.config.decoding.resolved(model.model),
                seed=self.config.seed,
                stop=self.sentences.complete,
                applied=applied,
                batch_size=self.config.batch_size,
                progress=self.progress,
                label=label,
            )

    def result(self) -> QuickResult:
        """Answer, score, and put together."""
        made = self.answers(self.loaded, self.prompts, changed=bool(self.interventions), label="answers")
        injected = valence_of(np.asarray(self.estimator([sample.positive for sample in self.samples])))
        polarities: list[Condition] = ["control", *map(_polarity, injected.tolist())]
        frame = self._frame(made, polarities)
        tilts, reason = self._tilts(made)
        prompts = tuple(
            PromptAnswers(prompt.injection, polarity, valence, tilt)
            for prompt, polarity, valence, tilt in zip(
                self.prompts, polarities, [None, *injected.tolist()], tilts, strict=True
            )
        )
        return QuickResult(
            stem=self.control.stem,
            model=self.loaded.name,
            prompt_form=self.renderer.resolved_form,
            generations=self.config.generations,
            seed=self.config.seed,
            estimator=self.estimator.name,
            prompts=prompts,
            answers=frame,
            no_tilt=reason,
        )

    def _frame(self, made: Sequence[Generation], polarities: Sequence[Condition]) -> pd.DataFrame:
        """One row for each answer."""
        place = {prompt.id: number for number, prompt in enumerate(self.prompts)}
        own = [self.sentences.clean(g.prompt_id, g.text, _POLICY) for g in made]
        scores = np.asarray(self.estimator([cleaned.text for cleaned in own]))
        scored = np.array([cleaned.scored for cleaned in own])
        numbers = [place[generation.prompt_id] for generation in made]
        injections = [self.prompts[number].injection for number in numbers]
        columns: dict[str, Any] = {
            "prompt": numbers,
            "injection": injections,
            "polarity": [polarities[number] for number in numbers],
            "generation": [generation.generation for generation in made],
            "sentence": [cleaned.text for cleaned in own],
            "valence": np.where(scored, valence_of(scores), np.nan),
            **{label: np.where(scored, scores[:, i], np.nan) for i, label in enumerate(LABELS)},
            "about_injection": self._about([cleaned.text for cleaned in own], numbers, polarities) & scored,
            "text": [generation.text for generation in made],
            "finish_reason": [generation.finish_reason for generation in made],
        }
        return pd.DataFrame(columns)

    def _about(self, texts: Sequence[str], numbers: Sequence[int], polarities: Sequence[Condition]) -> np.ndarray:
        """Which answers are about their injection; of control answers, those that are about any."""
        among = Injections.of(load_dataset(_AMONG), self.encoder, classes=sorted(set(polarities[1:])))
        if among is None:
            raise AssertionError(f"{_AMONG} has too few injections")
        injections = [sample.positive for sample in self.samples]
        rows = self.encoder([*injections, *texts])
        given, answers = rows[: len(injections)], rows[len(injections) :]
        about = np.zeros(len(texts), dtype=bool)
        for place, (text, polarity) in enumerate(zip(injections, polarities[1:], strict=True)):
            own = np.array([number in (0, place + 1) for number in numbers])
            beside = np.broadcast_to(given[place], answers[own].shape)
            ranks = among.ranks(answers[own], beside, [text] * int(own.sum()), polarity)
            about[own] |= ranks <= TOPIC_SHARE
        return about

    # -- tilt --------------------------------------------------------------------------------------------------------

    def _tilts(self, made: Sequence[Generation]) -> tuple[list[float | None], str | None]:
        """The tilt of every prompt, in nats a token; or why there is none."""
        none: list[float | None] = [None] * len(self.prompts)
        if keeps_a_state(base_of(self.loaded.model)):
            return none, "the model keeps a state instead of keys and values"
        if self.interventions or self.config.adapter:
            made = self.answers(self.base, [self.control], changed=False, label="control answers of the base model")
        controls = [generation for generation in made if generation.prompt_id == self.control.id]
        read = [self.sentences.up_to_scored(self.control.id, g.text, _POLICY) for g in controls]
        own = [self.sentences.clean(self.control.id, g.text, _POLICY).text for g in controls]
        kept = [number for number, text in enumerate(read) if text.strip()]
        texts, sentences = [read[number] for number in kept], [own[number] for number in kept]
        valence = valence_of(np.asarray(self.estimator(sentences))) if kept else np.zeros(1)
        reason = why_no_tilt(len(set(text_numbers(texts))), valence)
        if reason is not None:
            return none, reason
        tokens = [plain_ids(self.base.tokenizer, text) for text in texts]
        items = [self._continued(prompt, number, t) for prompt in self.prompts for number, t in enumerate(tokens)]
        variant = ModelVariant(self.loaded, self.change if self.interventions else None)
        found = log_likelihoods(variant, items, share_prompts=True, progress=self.progress)
        per_token = (found.log_likelihood / np.maximum(found.n_tokens, 1)).reshape(len(self.prompts), len(tokens))
        tilts = affective_tilt(torch.from_numpy(per_token), torch.from_numpy(valence.astype(float))[None])
        return tilts.tolist(), None

    def _continued(self, prompt: Prompt, number: int, tokens: tuple[int, ...]) -> Continuation:
        spans = self.spans.get(prompt.id)
        parts = {} if spans is None else {"injection": spans.injection or (0, 0), "stem": spans.stem or (0, 0)}
        return Continuation(f"{prompt.id}#{number}", prompt.sample, self.read(prompt), tokens, **parts)


def _polarity(valence: float) -> Condition:
    """The class of an injection, from what the estimator says of it."""
    if abs(valence) < _NEUTRAL:
        return "neutral"
    return "positive" if valence > 0 else "negative"
