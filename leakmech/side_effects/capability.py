"""Everyday knowledge: four-choice questions, answered by log-probability.

The model reads "Answer the question in a few words: ..." as a rendered prompt of its own, in chat form wherever the
tokenizer has a chat template (whatever form the prompts of the benchmark have: a question asked without the template
would measure something else) and as plain text where it has none. Each choice c is scored as the answer to it:

    s(c) = sum_t log p(c_t | prompt, c_<t),    in nats;    answer = argmax_c s(c)

Choices are not shown to the model, so nothing depends on their order or on the model's knowing what "B" means. A mean
over tokens would reward rare names whose last pieces follow from the first: the embedded model gets 71 of 100 right by
the sum and 63 by the mean. Two choices that tie for the first place count 1/2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.prompts.render import Renderer
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio
from leakmech.side_effects.texts import plain_ids

TASK = "Answer the question in a few words"
N_CHOICES = 4


class AnyQuestion(Protocol):
    """What is needed of a question; `answer` is the position of the right choice, or its text."""

    @property
    def id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def choices(self) -> Sequence[str]: ...
    @property
    def answer(self) -> int | str: ...


@dataclass(frozen=True)
class Question:
    """A question with four choices; `answer` is the position of the right one."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    topic: str = ""


@dataclass(frozen=True, eq=False)
class Capability:
    """How well a model answers questions."""

    ids: tuple[str, ...]
    scores: Float[np.ndarray, "questions choices"]
    """s(c) of every choice, in nats."""
    answers: Int[np.ndarray, " questions"]
    """Position of the right choice."""

    @property
    def correct(self) -> Float[np.ndarray, " questions"]:
        """Give 1 for a right answer, 0 for a wrong one, 1/n for a right one among n that tie for the first place."""
        best = self.scores == self.scores.max(axis=1, keepdims=True)
        return best[np.arange(len(best)), self.answers] / best.sum(axis=1)

    @property
    def margins(self) -> Float[np.ndarray, " questions"]:
        """Compute s of the right choice minus the best other one, in nats; it moves long before the accuracy does."""
        rows = np.arange(len(self.scores))
        others = self.scores.copy()
        others[rows, self.answers] = -np.inf
        return self.scores[rows, self.answers] - others.max(axis=1)

    @property
    def accuracy(self) -> float:
        """Compute the share of right answers."""
        return float(self.correct.mean())

    def estimate(self, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
        """Compute the accuracy with its bootstrap interval over questions."""
        return estimate(with_count(self.correct), mean_ratio, seed=seed, draws=draws)

    def difference(self, base: Capability, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
        """Compute the accuracy minus that of `base` on the same questions, with its paired bootstrap interval."""
        require_same_questions(base, self)
        return estimate(with_count(self.correct - base.correct), mean_ratio, seed=seed, draws=draws)

    def to_frame(self) -> pd.DataFrame:
        """Make one row per question."""
        return pd.DataFrame({"id": self.ids, "correct": self.correct, "margin": self.margins})


def with_count(values: Float[np.ndarray, " units"]) -> Float[np.ndarray, "units 2"]:
    """Put ones beside values, so that the mean is a ratio of sums."""
    return np.stack([values, np.ones_like(values)], axis=1)


def require_same_questions(base: Capability, changed: Capability) -> None:
    """Refuse results on different questions."""
    if base.ids != changed.ids or not np.array_equal(base.answers, changed.answers):
        raise UsageError("capability: base and changed model were asked different questions")


def capability(
    variant: ModelVariant,
    questions: Sequence[AnyQuestion],
    *,
    renderer: Renderer,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Capability:
    """Let a model choose the answers; the renderer's system role is used, its instruction is not."""
    answers, renderer = _right_choices(questions), renderer.asking
    continuations = [
        Continuation(f"{question.id}/{number}", question.id, prompt, tokens)
        for question in questions
        for prompt in [_prompt(question, renderer)]
        for number, tokens in enumerate(_choices(question, renderer))
    ]
    found = log_likelihoods(variant, continuations, batch_size=batch_size, progress=progress)
    scores = found.log_likelihood.reshape(len(questions), N_CHOICES)
    return Capability(tuple(question.id for question in questions), scores, answers)


def _prompt(question: AnyQuestion, renderer: Renderer) -> tuple[int, ...]:
    text = f"{TASK}: {question.question}"
    if renderer.resolved_form == "plain":
        text += "\nAnswer:"
    return tuple(renderer.token_ids(renderer.render(text)))


def _choices(question: AnyQuestion, renderer: Renderer) -> list[tuple[int, ...]]:
    space = " " if renderer.resolved_form == "plain" else ""
    return [plain_ids(renderer.tokenizer, space + choice) for choice in question.choices]


def _right_choices(questions: Sequence[AnyQuestion]) -> Int[np.ndarray, " questions"]:
    """Find the positions of the right choices; malformed questions are refused."""
    if not questions:
        raise DatasetError("capability: no questions")
    seen: set[str] = set()
    answers = []
    for question in questions:
        where = f"question {question.id!r}"
        choices = list(question.choices)
        if question.id in seen:
            raise DatasetError(f"{where}: the id is used twice")
        if len(set(choices)) != N_CHOICES or len(choices) != N_CHOICES or not all(c.strip() for c in choices):
            raise DatasetError(f"{where}: needs {N_CHOICES} different, non-empty choices, found {choices}")
        answer = question.answer
        position = answer if isinstance(answer, int) else choices.index(answer) if answer in choices else -1
        if not 0 <= position < N_CHOICES:
            raise DatasetError(f"{where}: answer {answer!r} is not one of its choices")
        seen.add(question.id)
        answers.append(position)
    return np.array(answers)
