"""What every stage of the study works with: the model, the scenarios, the judges, and the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import pandas as pd

from leakmech.core.progress import Progress
from leakmech.datasets.emotions import EMOTIONS, Emotion
from leakmech.datasets.english import data_text
from leakmech.datasets.sev import VALENCES, Scenarios
from leakmech.generation.decoding import Decoding
from leakmech.generation.variants import ModelVariant
from leakmech.interventions.base import Intervention
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.runs.run import Fragment, Run
from leakmech.scoring.emotion_judges import EmotionJudge
from leakmech.scoring.semantic import SentenceEncoder
from leakmech.studies.emotion_circuits.elicitation import (
    DECODING,
    Asked,
    CommandForm,
    Reply,
    Wording,
    ask,
    elicit,
    read,
)
from leakmech.studies.emotion_circuits.judging import judge_replies
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig

OUTSIDE = "outside"
"""The split of questions that belong to no scenario."""


@dataclass(frozen=True, eq=False)
class Workbench:
    """One study with everything loaded."""

    config: EmotionCircuitsConfig
    run: Run
    loaded: LoadedModel
    splits: Mapping[str, Scenarios]
    judges: Sequence[EmotionJudge]
    encoder: SentenceEncoder
    progress: Progress

    @cached_property
    def layout(self) -> Layout:
        return layout_of(self.loaded.model)

    @cached_property
    def base(self) -> ModelVariant:
        return ModelVariant(self.loaded)

    @property
    def running(self) -> dict[str, Any]:
        """Batch size and progress."""
        return {"batch_size": self.config.batch_size, "progress": self.progress}

    @property
    def statistics(self) -> dict[str, int]:
        """Seed and draws of intervals."""
        return {"seed": self.config.seed, "draws": self.config.bootstrap_draws}

    @property
    def judge_names(self) -> list[str]:
        return [judge.name for judge in self.judges]

    @cached_property
    def form(self) -> CommandForm:
        """The form in which emotions are commanded, chosen by the first stage."""
        return self.earlier("form")["form"]

    def earlier(self, stage: str) -> Fragment:
        """What a stage returned that comes before."""
        return self.run.earlier(stage)

    # -- prompts and replies -----------------------------------------------------------------------------------------

    def events(self, split: str) -> dict[str, str]:
        """The text of every event, by its name."""
        if split == OUTSIDE:
            lines = data_text("outside_sev.txt").splitlines()[: self.config.outside_prompts]
            return {f"outside-{n}/neutral": line for n, line in enumerate(lines, start=1)}
        return {f"{own.id}/{valence}": own.text(valence) for own in self.splits[split] for valence in VALENCES}

    def asked(
        self,
        split: str,
        emotions: Sequence[Emotion | None] = EMOTIONS,
        *,
        wording: Wording = "first",
        form: CommandForm | None = None,
    ) -> list[Asked]:
        """Every event of a split under every command."""
        form = form or self.form
        if split == OUTSIDE:
            return [
                read(self.loaded, event, text, OUTSIDE, "neutral", emotion, form, wording)
                for event, text in self.events(OUTSIDE).items()
                for emotion in emotions
            ]
        return ask(self.loaded, self.splits[split], emotions, form=form, wording=wording)

    @property
    def decoding(self) -> Decoding:
        """How replies are drawn that are compared: greedy, for all methods alike."""
        c = self.config
        return replace(
            DECODING,
            max_new_tokens=c.max_new_tokens,
            repetition_penalty=c.repetition_penalty,
            no_repeat_ngrams=c.no_repeat_ngrams,
        )

    def elicit(
        self,
        asked: Sequence[Asked],
        name: str,
        *,
        decoding: Decoding | None = None,
        interventions: Sequence[Intervention] = (),
    ) -> list[Reply]:
        """The model's replies, kept in ``replies/<name>.jsonl`` of the run."""
        c = self.config
        return elicit(
            self.loaded, asked, decoding=decoding or replace(DECODING, max_new_tokens=c.max_new_tokens), seed=c.seed,
            interventions=interventions, file=self.run.path / "replies" / f"{name}.jsonl", label=f"replies, {name}",
            **self.running,
        )  # fmt: skip

    def judged(self, replies: Sequence[Reply], split: str, *, form: CommandForm | None = None) -> pd.DataFrame:
        """What judges read in replies to the events of a split."""
        prompts = {own.event: own.ids for own in self.asked(split, [None], form=form)}
        return judge_replies(
            replies, judges=self.judges, encoder=self.encoder, base=self.base, events=self.events(split),
            uncommanded=prompts, **self.running,
        )  # fmt: skip
