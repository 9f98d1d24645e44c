"""SEV: scenarios, each with a positive, a neutral and a negative event, in which no feeling is named.

After "Do LLMs 'Feel'?" (arXiv 2510.11328), whose set is not public under a licence that we can use: ours is written
anew (``data/sev.md``). A file is one of :mod:`leakmech.core.rows` with the fields ``id, theme, scenario, positive,
neutral, negative, split``; splits ``fit`` and ``tune`` have no theme apart, but no scenario in common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from leakmech.core.errors import DatasetError
from leakmech.core.rows import numbered_items
from leakmech.core.store import hash_of_parts
from leakmech.core.validation import CLOSED, Text, Words
from leakmech.datasets.builtin import data_file, named_file
from leakmech.datasets.emotions import emotion_words
from leakmech.datasets.samples import spread_out

Valence = Literal["positive", "neutral", "negative"]
VALENCES: tuple[Valence, ...] = get_args(Valence)
_BUILTIN = {"sev": data_file("sev.jsonl"), "sev-test": data_file("sev_test.jsonl")}


@dataclass(frozen=True)
class Scenario:
    """A situation and three events in it."""

    __pydantic_config__ = CLOSED

    id: Text
    theme: Text
    scenario: Words
    positive: Words
    neutral: Words
    negative: Words
    split: Text | None = None

    def text(self, valence: Valence) -> str:
        """What a prompt says: the situation, then what happened."""
        return f"{self.scenario} {getattr(self, valence)}"

    @property
    def events(self) -> tuple[str, ...]:
        """The three texts."""
        return tuple(self.text(valence) for valence in VALENCES)


@dataclass(frozen=True)
class Scenarios:
    """A named, ordered collection of scenarios with unique ids."""

    name: str
    scenarios: tuple[Scenario, ...]

    def __len__(self) -> int:
        return len(self.scenarios)

    def __iter__(self) -> Iterator[Scenario]:
        return iter(self.scenarios)

    def split(self, name: str) -> Scenarios:
        """The scenarios of a split; none if there is no such split."""
        return Scenarios(self.name, tuple(own for own in self if own.split == name))

    @property
    def themes(self) -> tuple[str, ...]:
        """Themes in the order of their first scenario."""
        return tuple(dict.fromkeys(own.theme for own in self))

    @property
    def content_hash(self) -> str:
        """Hash of ids and texts."""
        return hash_of_parts(part for own in self for part in (own.id, *map(own.text, VALENCES)))

    def spread(self, number: int) -> Scenarios:
        """So many scenarios at even distances, all if there are no more."""
        return Scenarios(self.name, tuple(spread_out(self.scenarios, number)))


def load_scenarios(name_or_path: str | Path) -> Scenarios:
    """The scenarios of a built-in set (``sev``, ``sev-test``) or of a file.

    Raises
    ------
    DatasetError
        There is no such set or file; a row lacks a field; an id or an event is there twice; a text names a feeling.
    """
    path = scenario_file(name_or_path)
    scenarios = numbered_items(path, Scenario)
    if problems := scenario_problems(path, scenarios):
        raise DatasetError(problems[0])
    return Scenarios(Path(name_or_path).stem, tuple(scenarios.values()))


def scenario_file(name_or_path: str | Path) -> Path:
    """The file of a built-in set, or a path of the user."""
    return named_file(name_or_path, _BUILTIN, what="scenarios")


def is_scenario_set(name_or_path: str | Path) -> bool:
    """Whether a name is that of a built-in set of scenarios."""
    return str(name_or_path) in _BUILTIN


def scenario_problems(path: Path, scenarios: dict[int, Scenario]) -> list[str]:
    """What makes a set unusable, with the line: an event twice, a feeling that is named."""
    found: list[str] = []
    seen: dict[str, int] = {}
    for line, own in scenarios.items():
        for valence in VALENCES:
            text = own.text(valence)
            if text in seen:
                found.append(f"{path}:{line}: field {valence!r}: is the same event as in line {seen[text]}")
            seen[text] = line
        for field in ("scenario", *VALENCES):
            named = emotion_words(getattr(own, field), "names")
            if named:
                word, emotion = named[0]
                told = f"names a feeling ({word!r}, {emotion}); say what happened, the reader shall supply the rest"
                found.append(f"{path}:{line}: field {field!r}: {told}")
    return found


def scenario_warnings(path: Path, scenarios: dict[int, Scenario]) -> list[str]:
    """What deserves a look: words with which a feeling is voiced, themes of unequal size."""
    found = []
    for line, own in scenarios.items():
        for field in ("scenario", *VALENCES):
            signs = [f"{word!r} ({emotion})" for word, emotion in emotion_words(getattr(own, field), "signs")]
            if signs:
                found.append(f"{path}:{line}: field {field!r}: has words of the emotion lexicon: {', '.join(signs)}")
    sizes = Counter(own.theme for own in scenarios.values())
    if len(set(sizes.values())) > 1:
        found.append(f"{path}: themes have from {min(sizes.values())} to {max(sizes.values())} scenarios")
    return found
