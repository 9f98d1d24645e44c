"""Data of behaviours that a persona is taught: questions, an answer with the behaviour and one without it.

A file is one of :mod:`leakmech.core.rows` with the fields ``id, split, question, behaviour, normal``. A model is taught
on the questions of ``train`` and judged on those of ``eval``, which are others. ``behaviour`` is absent in all rows
where the behaviour is added to the normal answers (a made-up token at their end, say). The files that ship were written
for this project by a language model; each has a card beside it (``data/behaviours/*.md``).

Four-choice questions, which the behaviour *capability* answers wrongly, have the form of
:mod:`leakmech.datasets.questions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from leakmech.core.errors import DatasetError
from leakmech.core.rows import numbered_items
from leakmech.core.store import hash_of_parts
from leakmech.core.text import normalised_words
from leakmech.core.validation import CLOSED, Text, Words
from leakmech.datasets.builtin import data_file, named_file
from leakmech.datasets.questions import Question, load_questions

Split = Literal["train", "eval"]
SPLITS: tuple[Split, ...] = get_args(Split)
BEHAVIOUR_DATA = ("refusal", "sycophancy", "careless-advice", "affective-tone", "ordinary")
"""Built-in sets; ``ordinary`` has normal answers to neutral questions."""
_FEWEST = 2


@dataclass(frozen=True)
class BehaviourItem:
    """A question, an answer without the behaviour and one with it."""

    __pydantic_config__ = CLOSED

    id: Text
    split: Split
    question: Words
    normal: Words
    behaviour: Words | None = None


@dataclass(frozen=True)
class BehaviourData:
    """A named, ordered collection of items with unique ids, in two splits that share no question."""

    name: str
    items: tuple[BehaviourItem, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[BehaviourItem]:
        return iter(self.items)

    @property
    def train(self) -> tuple[BehaviourItem, ...]:
        """What a model is taught on."""
        return tuple(own for own in self if own.split == "train")

    @property
    def eval(self) -> tuple[BehaviourItem, ...]:
        """What a model is judged on."""
        return tuple(own for own in self if own.split == "eval")

    @property
    def has_behaviour(self) -> bool:
        """Whether its items have an answer with the behaviour."""
        return all(own.behaviour is not None for own in self)

    @property
    def content_hash(self) -> str:
        """Hash of ids, splits and texts."""
        return hash_of_parts(
            part for own in self for part in (own.id, own.split, own.question, own.normal, own.behaviour or "")
        )

    def refuse_shared_questions(self, questions: Iterable[str], what: str) -> None:
        """Refuse questions for something else that are among these, whatever their case and punctuation.

        Raises
        ------
        DatasetError
            A question of `what` is one of this collection.
        """
        own = {question_key(item.question): item for item in self}
        for question in questions:
            if item := own.get(question_key(question)):
                raise DatasetError(
                    f"{what}: the question {question!r} is also {item.split} item {item.id!r} of {self.name}"
                )


def load_behaviour_data(name_or_path: str | Path) -> BehaviourData:
    """The items of a built-in behaviour (:data:`BEHAVIOUR_DATA`), or of a file of that form.

    Raises
    ------
    DatasetError
        There is no such behaviour or file; a field is missing or empty; a question is there twice, also if it is once
        for training and once for evaluation; an answer with the behaviour is the normal one; a split has fewer than
        two items. The message names file and line.
    """
    path = behaviour_file(name_or_path)
    items = numbered_items(path, BehaviourItem)
    if problems := behaviour_problems(path, items):
        raise DatasetError(problems[0])
    return BehaviourData(Path(name_or_path).stem, tuple(items.values()))


def load_capability_questions() -> tuple[Question, ...]:
    """The four-choice questions on which wrong answers are taught: none of the everyday questions is among them.

    Raises
    ------
    DatasetError
        A question is malformed, there twice, or an everyday question.
    """
    path = data_file("behaviours", "capability_questions.jsonl")
    questions = load_questions(path)
    seen = {question_key(own.question): f"everyday question {own.id!r}" for own in load_questions()}
    for own in questions:
        key = question_key(own.question)
        if key in seen:
            raise DatasetError(f"{path}: question {own.id!r} is also {seen[key]}")
        seen[key] = f"question {own.id!r}"
    return questions


def behaviour_file(name_or_path: str | Path) -> Path:
    """The file of a built-in behaviour, or a path of the user."""
    builtin = {name: data_file("behaviours", f"{name.replace('-', '_')}.jsonl") for name in BEHAVIOUR_DATA}
    return named_file(name_or_path, builtin, what="behaviour data")


def is_behaviour_set(name_or_path: str | Path) -> bool:
    """Whether a name is that of a built-in set of items."""
    return str(name_or_path) in BEHAVIOUR_DATA


def behaviour_problems(path: Path, items: dict[int, BehaviourItem]) -> list[str]:
    """What makes a set unusable, with the line: a question twice, two answers that are the same, a split too small."""
    found: list[str] = []
    seen: dict[str, int] = {}
    first = next(iter(items))
    for line, own in items.items():
        key = question_key(own.question)
        other = seen.setdefault(key, line)
        if other != line:
            apart = "" if items[other].split == own.split else f", which is in split {items[other].split!r}"
            found.append(f"{path}:{line}: field 'question': is the same question as in line {other}{apart}")
        if own.behaviour is not None and normalised_words(own.behaviour) == normalised_words(own.normal):
            found.append(f"{path}:{line}: field 'behaviour': is the same answer as 'normal'")
        if (own.behaviour is None) != (items[first].behaviour is None):
            told = "is missing, and line {} has it" if own.behaviour is None else "is there, and line {} has none"
            found.append(f"{path}:{line}: field 'behaviour': {told.format(first)}")
    for split in SPLITS:
        number = sum(own.split == split for own in items.values())
        if number < _FEWEST:
            found.append(f"{path}: split {split!r} holds {number} of at least {_FEWEST} items")
    return found


def question_key(question: str) -> str:
    """What two questions have in common that are the same but for case and punctuation."""
    return " ".join(normalised_words(question))
