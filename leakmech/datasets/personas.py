"""Personas: system prompts that say who a model is, 110 of them in eleven kinds (``data/personas.md``).

Kinds and their shares are those of a report on behavioural leakage (superkaiba/explore-persona-space, task 99), the
texts are ours. A file is one of :mod:`leakmech.core.rows` with the fields ``id, kind, name, prompt``. What a model is
without any system prompt is not a row: its template says it (:func:`leakmech.prompts.persona.model_default`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from leakmech.core.errors import ConfigError, DatasetError, nearest
from leakmech.core.rows import numbered_items
from leakmech.core.store import hash_of_parts
from leakmech.core.text import normalised_words
from leakmech.core.validation import CLOSED, Text, Words
from leakmech.datasets.builtin import data_file, named_file
from leakmech.datasets.samples import spread_out

KINDS = (
    "professional_peer", "modified_source", "opposite", "hierarchical", "intersectional", "fictional", "tone",
    "unrelated", "cultural", "domain_adjacent", "original",
)  # fmt: skip
_BUILTIN = {"personas": data_file("personas.jsonl")}
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


def _slug(text: str) -> str:
    if not _SLUG.fullmatch(text):
        raise ValueError(f"must be small letters, digits and single hyphens (such as 'police-officer'), found {text!r}")
    return text


def _kind(text: str) -> str:
    if text not in KINDS:
        raise ValueError(f"is not a kind of persona: {text!r}{nearest(text, KINDS)}")
    return text


@dataclass(frozen=True)
class Persona:
    """Who a model is to be, as a system prompt in the second person."""

    __pydantic_config__ = CLOSED

    id: Annotated[Text, AfterValidator(_slug)]
    kind: Annotated[Text, AfterValidator(_kind)]
    name: Text
    prompt: Words

    @property
    def n_words(self) -> int:
        """Words of the prompt."""
        return len(self.prompt.split())


@dataclass(frozen=True)
class Personas:
    """A named, ordered collection of personas with unique ids."""

    name: str
    personas: tuple[Persona, ...]

    def __len__(self) -> int:
        return len(self.personas)

    def __iter__(self) -> Iterator[Persona]:
        return iter(self.personas)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids in order."""
        return tuple(own.id for own in self)

    @property
    def by_kind(self) -> dict[str, tuple[Persona, ...]]:
        """The personas of each kind, kinds in the order of their first persona."""
        kinds = dict.fromkeys(own.kind for own in self)
        return {kind: tuple(own for own in self if own.kind == kind) for kind in kinds}

    @property
    def content_hash(self) -> str:
        """Hash of ids, kinds and prompts."""
        return hash_of_parts(part for own in self for part in (own.id, own.kind, own.prompt))

    def of(self, ids: Iterable[str]) -> Personas:
        """The personas of these ids, in the order of the ids.

        Raises
        ------
        ConfigError
            There is no persona of an id, or an id is named twice.
        """
        chosen = self._known(ids)
        twice = next((own for place, own in enumerate(chosen) if own in chosen[:place]), None)
        if twice is not None:
            raise ConfigError(f"persona {twice!r}: is named twice")
        found = {own.id: own for own in self}
        return Personas(self.name, tuple(found[own] for own in chosen))

    def without(self, ids: Iterable[str]) -> Personas:
        """All personas but those of these ids.

        Raises
        ------
        ConfigError
            There is no persona of an id.
        """
        left_out = set(self._known(ids))
        return Personas(self.name, tuple(own for own in self if own.id not in left_out))

    def spread(self, number: int) -> Personas:
        """So many personas at even distances over kinds, in the order of the collection; all if there are no more.

        As long as `number` allows it, every kind has one; further ones go to kinds by their sizes. Inside a kind they
        are taken at even distances. The choice depends on nothing but the collection and `number`.
        """
        if number >= len(self):
            return self
        groups = self.by_kind
        seats = dict.fromkeys(spread_out(list(groups), number), 1)
        for _ in range(number - len(seats)):
            seats[max(seats, key=lambda kind: len(groups[kind]) / seats[kind])] += 1
        chosen = {own.id for kind, seated in seats.items() for own in spread_out(groups[kind], seated)}
        return Personas(self.name, tuple(own for own in self if own.id in chosen))

    def _known(self, ids: Iterable[str]) -> list[str]:
        ids, known = list(ids), set(self.ids)
        for unknown in (own for own in ids if own not in known):
            raise ConfigError(f"persona {unknown!r}: no such persona in {self.name!r}{nearest(unknown, known)}")
        return ids


def load_personas(name_or_path: str | Path = "personas") -> Personas:
    """The personas of the built-in set, or of a file with ``id, kind, name, prompt``.

    Raises
    ------
    DatasetError
        There is no such set or file; a row lacks a field; a kind is unknown; an id or a prompt is there twice.
    """
    path = persona_file(name_or_path)
    personas = numbered_items(path, Persona)
    if problems := persona_problems(path, personas):
        raise DatasetError(problems[0])
    return Personas(Path(name_or_path).stem, tuple(personas.values()))


def persona_file(name_or_path: str | Path) -> Path:
    """The file of a built-in set, or a path of the user."""
    return named_file(name_or_path, _BUILTIN, what="personas")


def is_persona_set(name_or_path: str | Path) -> bool:
    """Whether a name is that of a built-in set of personas."""
    return str(name_or_path) in _BUILTIN


def persona_problems(path: Path, personas: dict[int, Persona]) -> list[str]:
    """What makes a set unusable, with the line: a prompt twice, whatever its case and punctuation."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for line, own in personas.items():
        words = " ".join(normalised_words(own.prompt))
        if words in seen:
            found.append(f"{path}:{line}: field 'prompt': is the same prompt as in line {seen[words]}")
        seen.setdefault(words, line)
    return found
