"""Everyday-knowledge questions with four choices: what a model knows, before and after a mitigation.

The capability of a model on them is the share of questions whose right choice gets the highest log-probability. One
question in four is right by chance; the right choices are equally often at each of the four places, so that a model
that prefers one place is at chance too. The 100 questions that ship were written for this project by a language
model; no human checked them (data/everyday_questions.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from leakmech.core.rows import read_items
from leakmech.core.validation import CLOSED, Text, whole

N_CHOICES = 4


def _four_different(choices: tuple[str, ...]) -> tuple[str, ...]:
    if len(choices) != N_CHOICES:
        raise ValueError(f"must be a list of {N_CHOICES} texts, found {list(choices)}")
    if len({text.casefold() for text in choices}) < N_CHOICES:
        raise ValueError(f"holds the same text twice: {list(choices)}")
    return choices


@dataclass(frozen=True)
class Question:
    """A question, its four choices in the order in which they are shown, and the index of the right one."""

    __pydantic_config__ = CLOSED

    id: Text
    question: Text
    choices: Annotated[tuple[Text, ...], AfterValidator(_four_different)]
    answer: Annotated[int, whole(0, N_CHOICES - 1)]
    topic: Text


def load_questions(path: str | Path | None = None) -> tuple[Question, ...]:
    """The questions of a JSONL file with ``id, topic, question, choices, answer``; by default the 100 that ship.

    ``choices`` is a list of four different texts, ``answer`` the place of the right one, counted from 0.
    """
    builtin = resources.files("leakmech.datasets") / "data" / "everyday_questions.jsonl"
    return read_items(Path(str(builtin if path is None else path)), Question)
