"""Can a model still be moved when it is asked to? Direct requests for emotional text, answered and scored.

    shift = mean valence of answers to positive requests - mean valence of answers to negative requests
    retention on requests = shift(changed) / shift(base)

Requests have no injection and no stem: an intervention on either does not act, one on a condition that reads either
never fires. They are put in chat form wherever the tokenizer has a chat template, also where prompts are plain texts or
answers are opened with the stem: that is how such a model is asked. The interval resamples requests within their
polarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from leakmech.core.seeds import stable_hash
from leakmech.datasets.emotional_requests import EmotionalRequest
from leakmech.generation.decode import Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import Engine, generate
from leakmech.interventions.applied import Applied
from leakmech.interventions.positions import PromptSpans
from leakmech.prompts.render import Renderer
from leakmech.scoring.expression import Estimator
from leakmech.scoring.sentence import Cleaner, Cleaning, FirstSentences, PromptText
from leakmech.scoring.statistics import DRAWS, divide
from leakmech.side_effects.equivalence import Estimate, estimate

NEGATIVE, POSITIVE = 0, 2
"""Columns of an estimator's output."""


@dataclass(frozen=True, eq=False)
class RequestAnswers:
    """What a model answered to requests."""

    ids: tuple[str, ...]
    positive: tuple[bool, ...]
    """Whether the answer should be positive; else it should be negative."""
    texts: tuple[tuple[str, ...], ...]
    """Scored sentences, by request and generation."""
    valence: Float[np.ndarray, " requests"]
    """Mean over the generations that have a scored sentence; NaN where none has."""

    @property
    def shift(self) -> float:
        """Compute the mean valence of positive requests minus that of negative ones."""
        return float(_shift(self._columns.sum(axis=0, keepdims=True))[0, 0])

    @property
    def _columns(self) -> Float[np.ndarray, "requests 4"]:
        """Give valence and number, of positive and of negative requests."""
        positive = np.array(self.positive)
        there = np.isfinite(self.valence)
        valence = np.where(there, self.valence, 0.0)
        return np.stack([valence * positive, there & positive, valence * ~positive, there & ~positive], axis=1).astype(
            np.float64
        )


def answer_requests(
    engine: Engine,
    requests: Sequence[EmotionalRequest],
    *,
    renderer: Renderer,
    estimator: Estimator,
    generations: int,
    decoding: Decoding,
    cleaner: Cleaner,
    cleaning: Cleaning = "echo-free",
    applied: Applied | None = None,
    seed: int = 0,
) -> RequestAnswers:
    """Let a model answer requests and score the first sentence that does not echo the request.

    An instruction stands around the request as it does around a stem. The caller enters the hooks of interventions and
    hands on what they know as `applied`.
    """
    renderer = renderer.asking
    instruction = renderer.resolved_instruction
    asked = {request.id: _around(request.request, instruction) for request in requests}
    sentences = FirstSentences({request.id: PromptText(request.request) for request in requests}, cleaner)
    rows = []
    for name, text in asked.items():
        tokens = tuple(renderer.token_ids(renderer.render(text)))
        spans = PromptSpans(len(tokens), (0, 0), (0, 0), stable_hash(*tokens))
        rows += [Row(name, number, tokens, spans=spans) for number in range(generations)]
    said: dict[str, list[str]] = {name: [] for name in asked}
    for made in generate(engine, rows, decoding, seed=seed, stop=sentences.complete, applied=applied):
        said[made.prompt_id].append(sentences.clean(made.prompt_id, made.text, cleaning).text)
    answers = tuple(tuple(said[request.id]) for request in requests)
    return RequestAnswers(
        ids=tuple(request.id for request in requests),
        positive=tuple(request.polarity == "positive" for request in requests),
        texts=answers,
        valence=_valences(answers, estimator),
    )


def request_retention(base: RequestAnswers, changed: RequestAnswers, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Divide the changed model's shift by the base model's; NaN where the latter is not above 0."""
    columns = np.hstack([base._columns, changed._columns])

    def statistic(sums: Float[np.ndarray, "rows 8"]) -> Float[np.ndarray, "rows 1"]:
        before, after = (_shift(side) for side in np.split(sums, 2, axis=1))
        return divide(after, np.where(before > 0, before, 0.0))

    return estimate(columns, statistic, seed=seed, draws=draws)


def _around(request: str, instruction: Any) -> str:
    """Put what the instruction says around the request, without the task of completing a sentence."""
    before = f"{instruction.before}. " if instruction.before else ""
    after = f"\n\n{instruction.after}." if instruction.after else ""
    return f"{before}{request}{after}"


def _valences(answers: Sequence[Sequence[str]], estimator: Estimator) -> Float[np.ndarray, " requests"]:
    filled = [text for texts in answers for text in texts if text.strip()]
    scores = np.asarray(estimator(filled)) if filled else np.zeros((0, 3))
    by_text = dict(zip(filled, scores[:, POSITIVE] - scores[:, NEGATIVE], strict=True))
    return np.array(
        [
            np.mean([by_text[text] for text in texts if text.strip()])
            if any(text.strip() for text in texts)
            else np.nan
            for texts in answers
        ]
    )


def _shift(sums: Float[np.ndarray, "rows 4"]) -> Float[np.ndarray, "rows 1"]:
    return divide(sums[:, :1], sums[:, 1:2]) - divide(sums[:, 2:3], sums[:, 3:4])
