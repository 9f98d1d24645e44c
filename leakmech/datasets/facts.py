"""Prompts whose right completion needs an earlier, neutral sentence: whether a changed model still listens.

A mitigation of expression leakage that makes a model ignore what stands before the stem loses more than affect. Here
the sentence before the stem is a plain fact, and the stem asks for it. A model is right where the answer has a higher
log-probability after fact and stem than each of three wrong completions of the same kind. 240 prompts ship in two
sets, written for this project by a language model; no human checked them (data/facts.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from leakmech.core.rows import read_items
from leakmech.core.validation import CLOSED, Text
from leakmech.datasets.samples import Sample

N_WRONG = 3
_BUILTIN = {"facts-fit": "facts_fit.jsonl", "facts-frozen": "facts_frozen.jsonl"}
FROZEN_FACTS = "facts-frozen"
"""Built-in facts that are kept for a last evaluation: nothing is fitted, chosen or looked at on them before."""


def _different(wrong: tuple[str, ...]) -> tuple[str, ...]:
    if len(wrong) != N_WRONG:
        raise ValueError(f"must be a list of {N_WRONG} texts, found {list(wrong)}")
    if len({text.casefold() for text in wrong}) < N_WRONG:
        raise ValueError(f"holds the same text twice: {list(wrong)}")
    return wrong


@dataclass(frozen=True)
class Fact:
    """A neutral sentence, a stem that asks for what it says, the right completion and three wrong ones."""

    __pydantic_config__ = CLOSED

    id: Text
    fact: Text
    stem: Text
    answer: Text
    wrong: Annotated[tuple[Text, ...], AfterValidator(_different)]
    theme: Text | None = None

    def __post_init__(self) -> None:
        if self.answer.casefold() in {text.casefold() for text in self.wrong}:
            raise ValueError(f"the answer {self.answer!r} is among the wrong completions")

    @property
    def sample(self) -> Sample:
        """The fact as what stands before the stem; it has no polarity, so all three injections are the same."""
        return Sample(self.id, self.stem, self.fact, self.fact, self.fact, theme=self.theme)

    @property
    def completions(self) -> tuple[str, ...]:
        """The answer, then the wrong completions."""
        return (self.answer, *self.wrong)


def load_facts(name_or_path: str | Path = "facts-fit") -> tuple[Fact, ...]:
    """Facts of a built-in set (``facts-fit``, ``facts-frozen``), or of a JSONL file of the user's.

    A line has ``id, fact, stem, answer, wrong`` and optionally ``theme``; ``wrong`` is a list of three different texts.

    Raises
    ------
    DatasetError
        The file cannot be read, is empty, or has a malformed line; the message names file, line and field.
    """
    folder = resources.files("leakmech.datasets") / "data"
    builtin = _BUILTIN.get(str(name_or_path))
    return read_items(Path(str(folder / builtin)) if builtin else Path(name_or_path), Fact)


def facts_to_choose_on(facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """Every other fact, from the first on: for fitting and choosing where the set is also reported on."""
    return facts[::2]


def facts_to_report_on(facts: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """The facts that :func:`facts_to_choose_on` leaves."""
    return facts[1::2]
