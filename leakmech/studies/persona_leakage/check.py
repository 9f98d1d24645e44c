"""What is in a file of personas or of a behaviour, and what is wrong with it: ``leakmech data check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leakmech.core.errors import DatasetError
from leakmech.core.rows import fields_of_first_row, numbered_items
from leakmech.datasets.behaviours import (
    SPLITS,
    BehaviourItem,
    behaviour_file,
    behaviour_problems,
    is_behaviour_set,
)
from leakmech.datasets.overlap import OverlapIndex
from leakmech.datasets.personas import Persona, Personas, is_persona_set, persona_file, persona_problems
from leakmech.reports.cells import number
from leakmech.reports.tables import Table

LENGTHS = (18, 30)
"""Words of a prompt, from and to."""
MEANS = (22.0, 26.0)
"""Mean words of the prompts of a kind, from and to."""
WIDEST = 3.0
"""Standard deviation of the words of the prompts of a kind, at most."""
NEAR = 0.75
"""From this share of common words on, two texts are reported as nearly the same."""


@dataclass(frozen=True)
class RowsReport:
    """What was found in a file: tables (none when it could not be read), problems and warnings."""

    path: Path
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    found: tuple[Table, ...] = ()

    def tables(self) -> list[Table]:
        """Numbers and lengths."""
        return list(self.found)


def has_personas(name_or_path: str | Path) -> bool:
    """Whether this is a set of personas: a built-in one, or a file whose first row has a prompt and a kind."""
    return is_persona_set(name_or_path) or {"kind", "prompt"} <= fields_of_first_row(Path(name_or_path))


def has_behaviours(name_or_path: str | Path) -> bool:
    """Whether these are data of a behaviour: built-in ones, or a file whose first row has a question and an answer."""
    return is_behaviour_set(name_or_path) or {"question", "normal"} <= fields_of_first_row(Path(name_or_path))


def check_personas(name_or_path: str | Path) -> RowsReport:
    """Check personas: form, prompts that are there twice or nearly so, lengths within and between kinds."""
    path = persona_file(name_or_path)
    try:
        personas = numbered_items(path, Persona)
    except DatasetError as error:
        return RowsReport(path, (str(error),))
    warnings = [
        f"{path}:{line}: field 'prompt': has {own.n_words} words; {LENGTHS[0]} to {LENGTHS[1]} are expected"
        for line, own in personas.items()
        if not LENGTHS[0] <= own.n_words <= LENGTHS[1]
    ]
    groups = Personas(path.stem, tuple(personas.values())).by_kind
    for kind, own in groups.items():
        mean, deviation = _mean_and_deviation([persona.n_words for persona in own])
        if not MEANS[0] <= mean <= MEANS[1] or deviation > WIDEST:
            told = f"mean {mean:.1f}, standard deviation {deviation:.1f}"
            expected = f"{MEANS[0]:g} to {MEANS[1]:g}, and at most {WIDEST:g}"
            warnings.append(f"{path}: kind {kind!r}: words of a prompt: {told}; {expected} are expected")
    warnings += _nearly_twice(path, "prompt", ((line, own.prompt) for line, own in personas.items()))
    rows = [(kind, str(len(own)), *_lengths([persona.n_words for persona in own])) for kind, own in groups.items()]
    rows.append(("all", str(len(personas)), *_lengths([own.n_words for own in personas.values()])))
    header = ("kind", "personas", "words a prompt", "standard deviation", "fewest", "most")
    table = Table("Personas by kind", header, rows)
    return RowsReport(path, tuple(persona_problems(path, personas)), tuple(warnings), (table,))


def check_behaviours(name_or_path: str | Path) -> RowsReport:
    """Check data of a behaviour: form, questions that are there twice or nearly so, lengths of both answers."""
    path = behaviour_file(name_or_path)
    try:
        items = numbered_items(path, BehaviourItem)
    except DatasetError as error:
        return RowsReport(path, (str(error),))
    warnings = _nearly_twice(path, "question", ((line, own.question) for line, own in items.items()))
    warnings += _shared_answers(path, items)
    rows = []
    for split in SPLITS:
        own = [item for item in items.values() if item.split == split]
        texts = [[item.question for item in own], [item.behaviour for item in own if item.behaviour is not None]]
        texts.append([item.normal for item in own])
        rows.append((split, str(len(own)), *(_mean_words(part) for part in texts)))
    header = ("split", "items", "words a question", "words with the behaviour", "words of a normal answer")
    table = Table("Items by split", header, rows)
    return RowsReport(path, tuple(behaviour_problems(path, items)), tuple(warnings), (table,))


def _mean_and_deviation(lengths: Sequence[int]) -> tuple[float, float]:
    return float(np.mean(lengths)), float(np.std(lengths, ddof=1)) if len(lengths) > 1 else 0.0


def _lengths(lengths: Sequence[int]) -> tuple[str, str, str, str]:
    mean, deviation = _mean_and_deviation(lengths)
    return number(mean, decimals=1), number(deviation, decimals=1), str(min(lengths)), str(max(lengths))


def _mean_words(texts: Sequence[str]) -> str:
    return number(float(np.mean([len(text.split()) for text in texts])) if texts else None, decimals=1)


def _nearly_twice(path: Path, field: str, texts: Iterable[tuple[int, str]]) -> list[str]:
    """Texts of one field that share most of their words with an earlier one, which they are not."""
    index, lines, found = OverlapIndex(NEAR), {}, []
    for line, text in texts:
        other = index.find(text)
        if other is not None and other != text:
            found.append(f"{path}:{line}: field {field!r}: has nearly the words of line {lines[other]}")
        index.add(text)
        lines.setdefault(text, line)
    return found


def _shared_answers(path: Path, items: dict[int, BehaviourItem]) -> list[str]:
    """How often an answer is there more than once: a model can learn it by heart."""
    found = []
    for field in ("behaviour", "normal"):
        numbers = Counter(text for own in items.values() if (text := getattr(own, field)) is not None)
        again = sum(count for count in numbers.values() if count > 1)
        if again:
            found.append(f"{path}: field {field!r}: {again} answers are not there once only")
    return found
