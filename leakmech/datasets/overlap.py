"""Near duplicates: texts that share most of their words."""

from __future__ import annotations

import math
from collections import defaultdict

from leakmech.datasets.filters import words


def overlap(a: str, b: str) -> float:
    """Jaccard overlap of two texts: words in both over words in either, in [0, 1]."""
    one, other = set(words(a)), set(words(b))
    return len(one & other) / len(one | other) if one | other else 1.0


class OverlapIndex:
    """An index of texts, to find one that overlaps with another text by `threshold` or more.

    Two word sets whose overlap reaches t share one of the ``len - ceil(t len) + 1`` first words of each, in whatever
    order words are put (prefix filter; Chaudhuri, Ganti & Kaushik 2006). Long words come first here, since they are
    rare; only texts that share one of these are compared.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self._by_word: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Remember a text."""
        own = frozenset(words(text))
        for word in self._first_words(own):
            self._by_word[word].append((own, text))

    def find(self, text: str) -> str | None:
        """A text that was added and overlaps with `text` by the threshold or more, or None."""
        own = frozenset(words(text))
        for word in self._first_words(own):
            for other, found in self._by_word.get(word, ()):
                if len(own & other) >= self.threshold * len(own | other):
                    return found
        return None

    def _first_words(self, own: frozenset[str]) -> list[str]:
        n_first = len(own) - math.ceil(self.threshold * len(own)) + 1
        return sorted(own, key=lambda word: (-len(word), word))[:n_first]
