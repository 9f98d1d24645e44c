"""Whether replies collapse to one template: they open alike whatever happened, and use few different word pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from leakmech.core.text import normalised_words
from leakmech.side_effects.degeneration import distinct

OPENING = 3
"""Words of an opening."""


@dataclass(frozen=True)
class Collapse:
    """How alike texts are that should differ."""

    opening: str
    """The most frequent first words."""
    modal_share: float
    """Share of the texts that open so; 0 for no texts."""
    distinct_2: float
    """Different word pairs over all word pairs of all texts; 0 where there is none."""


def collapse(texts: Sequence[str], *, words: int = OPENING) -> Collapse:
    """Measure collapse over texts to different events; texts without words open with nothing, like each other."""
    split = [normalised_words(text) for text in texts]
    openings = Counter(" ".join(own[:words]) for own in split)
    opening, number = openings.most_common(1)[0] if openings else ("", 0)
    different, pairs = distinct(split, 2)
    return Collapse(opening, number / max(len(split), 1), different / pairs if pairs else 0.0)
