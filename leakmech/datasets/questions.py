"""Everyday-knowledge questions with four choices: what a model knows, before and after a mitigation.

The capability of a model on them is the share of questions whose right choice gets the highest log-probability. One
question in four is right by chance; the right choices stand equally often at each of the four places, so that a model
with a liking for one place is at chance too. The 100 questions that ship were written for this project by a language
model; no human checked them (data/everyday_questions.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError
from leakmech.core.rows import check_fields, checked_text, read_items, text_field

N_CHOICES = 4
_FIELDS = ("id", "topic", "question", "choices", "answer")


@dataclass(frozen=True)
class Question:
    """A question, its four choices in the order in which they are shown, and the index of the right one."""

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int
    topic: str

    @property
    def right_choice(self) -> str:
        return self.choices[self.answer]


def load_questions(path: str | Path | None = None) -> tuple[Question, ...]:
    """The questions of a JSONL file with ``id, topic, question, choices, answer``; by default the 100 that ship.

    ``choices`` is a list of four different texts, ``answer`` the place of the right one, counted from 0.

    Raises
    ------
    DatasetError
        The file cannot be read, is empty, or has a malformed line; the message names file, line and field.
    """
    builtin = resources.files("leakmech.datasets") / "data" / "everyday_questions.jsonl"
    return read_items(Path(str(builtin if path is None else path)), _parse)


def _parse(row: dict[str, Any], where: str) -> Question:
    check_fields(row, _FIELDS, where)
    choices = row["choices"]
    if not isinstance(choices, list) or len(choices) != N_CHOICES:
        raise DatasetError(f"{where}: field 'choices' must be a list of {N_CHOICES} texts, found {choices!r}")
    texts = tuple(checked_text(choice, "choices", where) for choice in choices)
    if len({text.casefold() for text in texts}) < N_CHOICES:
        raise DatasetError(f"{where}: field 'choices' holds the same text twice: {choices!r}")
    answer = row["answer"]
    # True and False are whole numbers to Python.
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < N_CHOICES:
        raise DatasetError(
            f"{where}: field 'answer' must be a whole number from 0 to {N_CHOICES - 1}, found {answer!r}"
        )
    return Question(
        id=text_field(row, "id", where),
        question=text_field(row, "question", where),
        choices=texts,
        answer=answer,
        topic=text_field(row, "topic", where),
    )
