"""Stems: corpus sentences cut by words, so that a model has something to complete.

Two ways to find a cut that leaves the stem open. ``linking-verb`` cuts after a linking verb ("The battery life is"):
what follows is a judgement, which is where the sentiment of a generation shows. ``phrase`` cuts after a word of content
where a new phrase begins ("The new office opened | in …"). Neither ends in a determiner, preposition, conjunction,
pronoun or helping verb; a linking verb, which calls for its complement, is the one kind of function word that may end a
stem, and under ``linking-verb`` only. Without a parser this is decided on words, for English.

A third way does not look for an open end: ``words`` takes the first words of a sentence, so many as a stem may have at
most, and a sentence that has no more than these stays whole.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from leakmech.core.errors import ConfigError, nearest
from leakmech.datasets.english import word_list
from leakmech.datasets.filters import has_personal_data, has_slang, is_profane, lacks_subject, leans

StemEnd = Literal["linking-verb", "phrase", "words"]
STEM_ENDS: tuple[StemEnd, ...] = get_args(StemEnd)

LINKING_VERBS = word_list("linking_verbs")
FUNCTION_WORDS = word_list("function_words")
_PHRASE_STARTERS = word_list("phrase_starters")
_DETERMINERS = word_list("determiners")
_SUBJECTS = word_list("subjects")
_MODALS = word_list("modals")
_INDEFINITE = word_list("indefinite")
_SUBORDINATORS = word_list("subordinators")
_AUXILIARIES = LINKING_VERBS | _MODALS | {"has", "have", "had"}
_CLEAN = re.compile(r"[A-Za-z](?:[\w ]|\b['’-]\b)*")


@dataclass(frozen=True)
class StemRules:
    """How a sentence is cut to a stem: its length in words, where it ends, and what is refused where a flag is set."""

    min_words: int = 3
    max_words: int = 8
    end: StemEnd = "linking-verb"
    profanity: bool = True
    personal_data: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.min_words <= self.max_words:
            raise ConfigError(
                f"words of a stem: expected 1 <= smallest <= largest, found {self.min_words} and {self.max_words}"
            )
        if self.end not in STEM_ENDS:
            raise ConfigError(f"stem end {self.end!r}{nearest(self.end, STEM_ENDS)}")

    def cut(self, sentence: str) -> str | None:
        """The stem of a tidied `sentence`: the shortest of the allowed length that is open; None if there is none.

        With the end ``words`` it is the longest of the allowed length, open or not.
        """
        if self.end == "words":
            return self._first_words(sentence)
        tokens = sentence.split()[: self.max_words + 1]
        own = [token.lower().replace("’", "'") for token in tokens]
        # One word must be left after the cut: there the corpus went on, so that the stem was open at least once.
        for end in range(self.min_words, len(own)):
            if self._open(own[:end], own[end]):
                stem = " ".join(tokens[:end])
                return None if self._refused(stem, own[:end]) else stem
        return None

    def _first_words(self, sentence: str) -> str | None:
        """The first `max_words` words, with the marks between them; a sentence of no more words as it is."""
        starts = [match.start() for match in re.finditer(r"\S*\w\S*", sentence)]
        if len(starts) < self.min_words:
            return None
        stem = sentence
        if len(starts) > self.max_words:
            stem = " ".join(sentence[: starts[self.max_words]].split())
        return None if self._unfit(stem) else stem

    def _open(self, own: list[str], following: str) -> bool:
        last, previous = own[-1], own[-2] if len(own) > 1 else ""
        if self.end == "linking-verb":
            if last not in LINKING_VERBS or (last == "be" and previous not in _MODALS) or previous == "to":
                return False
            return previous not in FUNCTION_WORDS or previous in _MODALS | {"has", "have", "had", "long", "now"}
        return is_open_end(last) and following in _PHRASE_STARTERS and previous not in _PHRASE_STARTERS

    def _refused(self, stem: str, own: list[str]) -> bool:
        """Whether the stem needs words that are not there, or its words are unfit."""
        earlier = own[:-1] if self.end == "linking-verb" else []
        return (
            not _CLEAN.fullmatch(stem)
            or leans(own)
            or lacks_subject(own)
            or not _SUBORDINATORS.isdisjoint(own)
            or own[0].partition("'")[0] in _INDEFINITE
            or not _SUBJECTS.isdisjoint(own)
            or (own[0] not in _DETERMINERS and not _is_bare_name(own))
            or any(word in LINKING_VERBS or word.endswith("n't") for word in earlier)
            or all(word in FUNCTION_WORDS for word in own)
            or any(word.isupper() and len(word) > 1 for word in stem.split())
            or has_slang(own)
            or self._unfit(stem)
        )

    def _unfit(self, stem: str) -> bool:
        return (self.profanity and is_profane(stem)) or (self.personal_data and has_personal_data(stem))


def _is_bare_name(own: list[str]) -> bool:
    """Whether a short stem names its subject without a determiner: "Public restrooms are", "Amazon has been"."""
    subject = [word for word in own if word not in _AUXILIARIES]
    return 0 < len(subject) <= 3 and not subject[0].endswith("ly") and FUNCTION_WORDS.isdisjoint(subject)


def is_open_end(word: str, *, linking_verbs: bool = False) -> bool:
    """Whether a stem may end in `word`: not in a function word, in a linking verb only if that is allowed."""
    word = word.lower().replace("’", "'")
    return (linking_verbs and word in LINKING_VERBS) or word not in FUNCTION_WORDS
