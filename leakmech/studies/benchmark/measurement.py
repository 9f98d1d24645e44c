"""The second half of every benchmark: from the generations of a run to its scores and its summary.

:mod:`leakmech.studies.benchmark.run` puts generations into a run directory by asking a model,
:mod:`leakmech.studies.benchmark.rescoring` by reading a file; from there on both are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.memory import give_back
from leakmech.core.progress import Progress
from leakmech.core.store import content_hash, write_parquet, write_parquet_parts
from leakmech.datasets.samples import FITTING_DATASETS, RELEVANT_DATASETS, PromptSet, load_dataset
from leakmech.prompts.arrangement import arrange, injection_place
from leakmech.prompts.bodies import ArrangedSample
from leakmech.runs.directory import RunDirectory
from leakmech.scoring.expression import Estimator, estimator_hash, estimator_names, load_estimator
from leakmech.scoring.leakage import LeakageScores, leakage_headline, leakage_statistics, main_statistics
from leakmech.scoring.on_task import on_task_statistics
from leakmech.scoring.order import order_statistics, without_polarity
from leakmech.scoring.paper import PAPER_CLEANING, paper_statistics
from leakmech.scoring.records import (
    ControlLikelihoods,
    Scorer,
    echo_rates,
    leakage_scores,
    log_p_by_condition,
    naming_injection,
    needed_columns,
    topic_ranks,
    whole_scores,
    with_on_task,
)
from leakmech.scoring.second_opinion import estimator_agreement
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.scoring.sentence import CLEANINGS, Cleaner, Cleaning
from leakmech.scoring.topic import (
    TOPIC_SHARE,
    Injections,
    Ranks,
    on_injection,
    too_few,
    topic_curve,
    topic_statistics,
)
from leakmech.studies.benchmark.settings import ScoringConfig

_ROWS_AT_ONCE = 5_000
"""Scores of so many generations are written together."""


@dataclass(frozen=True)
class Measurement:
    """What scores the generations of a run, loaded."""

    config: ScoringConfig
    samples: PromptSet
    """The data set, or the part of it that the run is about."""
    estimators: tuple[Estimator, ...]
    """Expression estimators, the headline's first."""
    encoder: SentenceEncoder
    """Sentence encoder of mu_L and of topic."""
    whole: PromptSet
    """The data set before any limit: an answer's own injection is ranked among all of its injections."""
    no_topic: str | None
    """Why topic is not told, where it is not."""

    @classmethod
    def load(cls, config: ScoringConfig, samples: PromptSet, *, whole: PromptSet, topic: bool = True) -> Measurement:
        """Load estimators and encoder.

        `whole` is the data set before any limit; without `topic` the answers should take up their injections.
        """
        device = None if config.device == "auto" else config.device
        encoder = load_encoder(config.encoder, device=device)
        names = estimator_names(config.estimator)
        estimators = tuple(load_estimator(name, encoder=encoder, device=device) for name in names)
        relevant = not topic or config.dataset in RELEVANT_DATASETS + FITTING_DATASETS
        reason = "injections of this data set should be taken up" if relevant else too_few(whole)
        return cls(config, samples, estimators, encoder, whole, reason)

    @property
    def cleaner(self) -> Cleaner:
        return Cleaner(self.config.echo_similarity, self.config.markers)

    @cached_property
    def injections(self) -> Injections | None:
        """What an answer's own injection is ranked among; None where topic is not told."""
        return None if self.no_topic else Injections.of(self.whole, self.encoder)

    def scorer(self, *, instruction_text: str, generations: int) -> Scorer:
        """What scores the generations of a run; see :meth:`measure`."""
        return Scorer(
            cleaner=self.cleaner,
            estimators=self.estimators,
            encoder=self.encoder,
            instruction=instruction_text,
            headline=self.config.cleaning,
            generations=generations,
            injections=self.injections,
            place=injection_place(self.config.arrangement),
        )

    def quick_scorer(self, *, instruction_text: str, generations: int) -> Scorer:
        """One for the headline alone: the first estimator, under one cleaning policy."""
        whole = self.scorer(instruction_text=instruction_text, generations=generations)
        return replace(whole, estimators=self.estimators[:1], policies=(whole.headline,), with_whole=False)

    def fingerprint(self) -> dict[str, str]:
        """Hashes of everything that decides a score."""
        first, *others = map(estimator_hash, self.estimators)
        return {
            "dataset": self.samples.content_hash,
            "estimator": first,
            **({"other_estimators": content_hash(*others)} if others else {}),
            "encoder": self.encoder.hash,
        }

    def provenance(self) -> dict[str, Any]:
        """What ``run.json`` says of estimators and encoder."""
        first, *others = (dict(estimator.details) for estimator in self.estimators)
        return {"estimator": first, **({"other_estimators": others} if others else {}), "encoder": self.encoder.details}

    def measure(
        self,
        files: RunDirectory,
        *,
        instruction_text: str,
        generations: int,
        n_rows: int,
        progress: Progress,
        log_p_control: ControlLikelihoods | str | None = None,
    ) -> dict[str, Any]:
        """Score all generations of a run, write its ``scores.parquet``, and return every number of its summary.

        Control generations from K = `generations` on are the noise floor. A generation that repeats `instruction_text`,
        which stood before injection and stem, is an echo. `log_p_control` tells which answers are on task, or why that
        is not known; None: nobody asked.
        """
        give_back()  # what was generated or read is in files by now
        scorer = self.scorer(instruction_text=instruction_text, generations=generations)
        with progress("scoring", total=n_rows, done=0) as advance:
            chunks = scorer.chunks(self.samples, files.generations_by_sample().rows, on_scored=advance)
            write_parquet_parts(files.scores_file, _joined(chunks))
        if isinstance(log_p_control, Mapping):
            write_parquet(files.scores_file, with_on_task(files.scores(), log_p_control))

        def read(policy: Cleaning) -> pd.DataFrame:
            return files.scores(needed_columns(policy))

        statistics = self._statistics(read, scorer.injections)
        if log_p_control is not None:
            found = log_p_control if isinstance(log_p_control, str) else read(self.config.cleaning)
            statistics |= self._on_task(statistics, found)
        return self._settings(generations) | statistics

    def _settings(self, generations: int) -> dict[str, Any]:
        c = self.config
        return {
            "dataset": c.dataset,
            "n_samples": len(self.samples),
            "generations": generations,
            "seed": c.seed,
            "instruction": c.instruction,
            "task": c.task,
            "arrangement": c.arrangement,
            "estimator": self.estimators[0].name,
            "estimators": [estimator.name for estimator in self.estimators],
            "encoder": c.encoder,
            "cleaning": c.cleaning,
            **relatedness_facts(self.whole),
        }

    def _statistics(self, read: Callable[[Cleaning], pd.DataFrame], injections: Injections | None) -> dict[str, Any]:
        """Every statistic; `read` gives what is needed for those of one cleaning policy."""
        c = self.config
        by_cleaning = {policy: _by_policy(read(policy), policy) for policy in CLEANINGS}
        cleaned = leakage_scores(read(PAPER_CLEANING), PAPER_CLEANING)
        paper = paper_statistics(cleaned, seed=c.seed, draws=c.bootstrap_draws)
        del cleaned  # one table is in memory at a time
        frame = read(c.cleaning)
        ranks = None if injections is None else topic_ranks(frame, c.cleaning)
        by_estimator = self._by_estimator(frame, ranks)
        statistics = by_estimator[self.estimators[0].name]
        for condition, values in statistics["conditions"].items():
            values["echo_rate"] = by_cleaning[c.cleaning]["echo_rates"][condition]
            values["empty_rate"] = by_cleaning[c.cleaning]["empty_rates"][condition]
        told = None if injections is None or ranks is None else self._topic(frame, ranks, injections)
        summary: dict[str, Any] = {"by_cleaning": by_cleaning, **statistics, "topic": told or {"reason": self.no_topic}}
        summary["paper"] = paper
        if len(self.estimators) > 1:
            summary |= {"by_estimator": by_estimator, "estimator_agreement": self._agreement(frame)}
        return without_polarity(summary) if c.arrangement == "opposed" else summary

    def _by_estimator(self, frame: pd.DataFrame, ranks: Ranks | None) -> dict[str, dict[str, Any]]:
        """Every statistic as each estimator sees it; topic does not depend on the estimator."""
        bootstrap = self._bootstrap
        flags = None if ranks is None else on_injection(ranks)
        found = {}
        for position, (name, scores) in enumerate(self._scores(frame).items()):
            whole = whole_scores(frame, estimator=name if position else None)
            found[name] = leakage_statistics(scores, **bootstrap) | {"whole": main_statistics(whole, **bootstrap)}
            if flags is not None:
                topic = topic_statistics(scores, flags, **bootstrap)
                for condition, rate in topic.pop("topic_rates").items():
                    found[name]["conditions"][condition]["topic_rate"] = rate
                found[name]["overall"] |= topic
            if self.config.arrangement == "opposed":
                found[name]["overall"] |= order_statistics(scores, flags, **bootstrap)
        return found

    def _topic(self, frame: pd.DataFrame, ranks: Ranks, injections: Injections) -> dict[str, Any]:
        """How topic was told, and what another threshold or a filter by words says."""
        scores, flags = leakage_scores(frame, self.config.cleaning), naming_injection(frame)
        by_words = topic_statistics(scores, flags, **self._bootstrap)
        del by_words["topic_rates"]
        return {
            "share": TOPIC_SHARE,
            "n_injections": {name: len(texts) for name, texts in injections.texts.items()},
            "curve": topic_curve(scores, ranks, **self._bootstrap),
            "by_words": by_words,
        }

    def _on_task(self, statistics: Mapping[str, Any], found: pd.DataFrame | str) -> dict[str, Any]:
        """Put on-task rates beside the other numbers, and say how they were told, or why not."""
        c = self.config
        if isinstance(found, str):
            return {"on_task": {"reason": found}}
        log_p, again = log_p_by_condition(found)
        told = on_task_statistics(log_p, again=again, seed=c.seed, draws=c.bootstrap_draws)
        for condition, rate in told.pop("on_task_rates", {}).items():
            statistics["conditions"][condition]["on_task_rate"] = rate
        own = {"on_task": told.pop("on_task")}
        statistics["overall"].update(told)
        return own

    def _agreement(self, frame: pd.DataFrame) -> list[Mapping[str, Any]]:
        """Agreement of every pair of estimators."""
        scores = list(self._scores(frame).items())
        return [
            {"first": a, "second": b} | estimator_agreement(first, second, **self._bootstrap)
            for i, (a, first) in enumerate(scores)
            for b, second in scores[i + 1 :]
        ]

    @property
    def _bootstrap(self) -> dict[str, int]:
        """Seed and number of resamples of every interval."""
        return {"seed": self.config.seed, "draws": self.config.bootstrap_draws}

    def _scores(self, frame: pd.DataFrame) -> dict[str, LeakageScores]:
        policy = self.config.cleaning
        return {
            estimator.name: leakage_scores(frame, policy, estimator=estimator.name if position else None)
            for position, estimator in enumerate(self.estimators)
        }


def _by_policy(frame: pd.DataFrame, policy: Cleaning) -> dict[str, Any]:
    """What every cleaning policy is told with."""
    return leakage_headline(leakage_scores(frame, policy)) | echo_rates(frame, policy)


def _joined(frames: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Frames put together until they have enough rows."""
    waiting: list[pd.DataFrame] = []
    for frame in frames:
        waiting.append(frame)
        if sum(map(len, waiting)) >= _ROWS_AT_ONCE:
            yield pd.concat(waiting, ignore_index=True)
            waiting = []
    if waiting:
        yield pd.concat(waiting, ignore_index=True)


def arranged_samples(config: ScoringConfig) -> PromptSet:
    """All samples of the data set in the arrangement of `config`.

    What is near is said by the embedded encoder, whichever scores the answers, so that all runs have the same samples.
    """
    encode = load_encoder() if config.arrangement == "graded" else None
    return arrange(load_dataset(config.dataset), config.arrangement, encode=encode)


def relatedness_facts(samples: PromptSet) -> dict[str, Any]:
    """How near stems and injections were and are where injections were chosen by that; nothing elsewhere."""
    pairs = [s.relatedness for s in samples if isinstance(s, ArrangedSample) and s.relatedness]
    if not pairs:
        return {}
    own, given = np.asarray(pairs).T
    ends = {
        "own": float(own.mean()),
        "given": float(given.mean()),
        "least": float(given.min()),
        "most": float(given.max()),
    }
    return {"relatedness": ends}
