"""What leakage looks like so far, said while a run generates.

An estimate is made of samples whose control, positive and negative answers are all there. Blocks of samples are drawn
without replacement (:mod:`leakmech.studies.benchmark.prompts`), so that those which are finished are a random part of
the data set, and the interval is that of a run on so many samples. It is an interim one: it is stored nowhere, and
stopping a run because one looks good would make the interval too narrow.

An estimate is said after 20 seconds and whenever the time since the start has doubled. To be cheap it takes the first
four generations of a prompt, scores every finished sample once, with the first estimator under the headline's cleaning
policy only, and no more samples than 4 % of that time allow. At most a thousand samples wait for that: where more are
finished than can be scored, the others are left out, which samples in random order allow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from leakmech.datasets.samples import POLARITIES, PromptSet
from leakmech.reports.cells import percent, with_interval
from leakmech.scoring.leakage import overall_leakage
from leakmech.scoring.records import Record, Scorer, leakage_scores, topic_ranks
from leakmech.scoring.statistics import bootstrap_ratio
from leakmech.scoring.topic import on_injection, topic_statistics

NEEDED = frozenset({"control", *POLARITIES})
"""Conditions without which there is no estimate."""
FEWEST_SAMPLES = 5
MOST_GENERATIONS = 4

_MOST_WAITING = 1000
_FIRST_AFTER = 20.0
_LARGEST_SHARE = 0.04
_DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """All-pairs leakage and topic of `n_samples` samples; topic is None where it is not told."""

    n_samples: int
    auc_el: float
    auc_el_ci: list[float] | None
    topic: dict[str, Any] | None

    def __str__(self) -> str:
        told = [_part("leakage (all pairs)", self.auc_el, self.auc_el_ci)]
        if self.topic is not None:
            free, rate = self.topic["topic_free"], self.topic["topic_rate"]
            told += [
                _part("topic-free", free["auc_el"], free["auc_el_ci"]),
                _part("topic", rate, self.topic["topic_rate_ci"], show=lambda share: percent(share, decimals=0)),
            ]
        return ", ".join(told)


class Interim:
    """Takes in the generations of a run and says estimates when they are due.

    `scorer` scores the first :attr:`~leakmech.scoring.records.Scorer.generations` of a prompt, `n_rows` is how many
    generations the run will have, `say` takes a line, `clock` gives seconds.
    """

    def __init__(
        self,
        scorer: Scorer,
        samples: PromptSet,
        *,
        n_rows: int,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scorer = scorer
        self.samples = {sample.id: sample for sample in samples}
        self.n_rows = n_rows
        self.say = say
        self.clock = clock
        self.spent = 0.0
        """Seconds that estimates have taken."""
        self._name = samples.name
        self._waiting: dict[str, list[Record]] = {}
        self._complete: list[list[Record]] = []  # of samples that are not scored yet
        self._frames: list[pd.DataFrame] = []
        self._n_scored = 0
        self._started = clock()
        self._due = _FIRST_AFTER
        self._n_before = self._n_done = 0

    def begin(self, records: Iterable[Record]) -> None:
        """Take in what the run has already; its time counts from here."""
        self._take(records)
        self._n_before = self._n_done
        self._started = self.clock()

    def add(self, records: Iterable[Record]) -> None:
        """Take in new generations, and say an estimate if it is due."""
        self._take(records)
        elapsed = self.clock() - self._started
        too_early = elapsed < self._due or self._n_scored + len(self._complete) < FEWEST_SAMPLES
        if too_early or self._n_done == self.n_rows:
            return
        self._due = 2 * elapsed
        estimate = self._estimate(self._started + elapsed)
        left = (elapsed - self.spent) / (self._n_done - self._n_before) * (self.n_rows - self._n_done)
        self.spent += self.clock() - self._started - elapsed
        self.say(
            f"so far, from {estimate.n_samples} of {len(self.samples)} samples x "
            f"{self.scorer.generations} generations (interim): {estimate}; "
            f"{self._n_done} of {self.n_rows} generations, about {_duration(left)} left"
        )

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            self._n_done += 1
            if record["condition"] in NEEDED and record["generation"] < self.scorer.generations:
                own = self._waiting.setdefault(record["sample"], [])
                own.append(record)
                if len(own) == len(NEEDED) * self.scorer.generations:
                    del self._waiting[record["sample"]]
                    if len(self._complete) < _MOST_WAITING:
                        self._complete.append(own)

    def _estimate(self, began: float) -> Estimate:
        """Score what there is time for and estimate from all that is scored."""
        while self._complete:
            chunk, self._complete = self._complete[:FEWEST_SAMPLES], self._complete[FEWEST_SAMPLES:]
            own = PromptSet(self._name, tuple(self.samples[records[0]["sample"]] for records in chunk))
            self._frames.append(self.scorer.score(own, [record for records in chunk for record in records]))
            self._n_scored += len(chunk)
            now = self.clock()
            if self.spent + now - began > _LARGEST_SHARE * (now - self._started):
                break
        return interim_estimate(pd.concat(self._frames, ignore_index=True), self.scorer)


def interim_estimate(frame: pd.DataFrame, scorer: Scorer) -> Estimate:
    """Leakage and topic of scored generations, with intervals of few draws."""
    scores = leakage_scores(frame, scorer.headline)
    auc = overall_leakage(scores, pairing="all")
    interval = bootstrap_ratio(auc.numerator, auc.denominator, seed=0, draws=_DRAWS)
    topic = None
    if scorer.injections is not None:
        topic = topic_statistics(scores, on_injection(topic_ranks(frame, scorer.headline)), seed=0, draws=_DRAWS)
    return Estimate(len(scores.samples), auc.value, interval.to_json(), topic)


def _part(name: str, value: Any, interval: list[float] | None, **how: Any) -> str:
    low, high = interval or (None, None)
    return f"{name} {with_interval(value, low, high, **how)}"


def _duration(seconds: float) -> str:
    """A time to go, with no more precision than it has."""
    if seconds < 90:
        return f"{max(10, round(seconds, -1)):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
