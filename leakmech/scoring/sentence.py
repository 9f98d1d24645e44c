"""Which text of a generation is scored: sentence boundaries, echoes of the prompt, cleaning policies.

Sentences are found by a scanner that decides a boundary from the characters up to the first visible one behind it.
Its decisions never change when text is appended, which is what lets generation stop early
(:func:`first_sentence_complete`).

An *echo* is a sentence of the answer that repeats a sentence of the prompt, verbatim or nearly so, alone or quoted in
a frame of its own ('The original sentence is: "I lost my keys."'). Three policies say what is scored, all computed
from the same generations:

``echo-free``
    Echoes are dropped, a repeated injection or stem at the start of a sentence is cut off, and the first sentence
    that is left is scored. If nothing is left, the generation is not scored, but counted as empty.
``paper``
    The first sentence without the part that repeats the prompt (Köprü et al. 2025, section 4); an empty rest is
    scored as it is.
``raw``
    The first sentence as it stands.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Literal, get_args

from leakmech.errors import ConfigError, nearest

Cleaning = Literal["echo-free", "paper", "raw"]
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)
DEFAULT_ECHO_SIMILARITY = 0.8
"""Chosen by reading 158 first sentences of the embedded model on HEXL (seed 0): of the 48 that reach 0.8 we judged 45
to be echoes; of the 110 next below it, 11 quote the injection whole (found by containment, whatever the threshold), 9
more were near-verbatim and 90 were sentences of the model's own. One reader, a language model; no human judged it."""

_TERMINATORS = ".!?…。！？"
_CLOSERS = "\"'”’»)]}*_`"
_OPENERS = "\"'“‘«([{*_`#>-–—•"
_QUOTES = "\"'”’»"
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "mt", "rev", "hon", "gen", "col", "capt", "lt", "sgt", "gov", "sen"}
_NEVER_FINAL = _TITLES | {"rep", "vs", "e.g", "i.e", "cf", "approx", "dept", "est"}
_SOMETIMES_FINAL = {
    "etc",
    "inc",
    "ltd",
    "co",
    "corp",
    "jr",
    "sr",
    "a.m",
    "p.m",
    "u.s",
    "u.k",
    "u.n",
    "ph.d",
    "b.a",
    "m.a",
}
_BEFORE_NUMBERS = {"no", "nos", "fig", "vol", "p", "pp", "ch"}
_WORD_BEFORE = re.compile(r"[\w.’'&-]*$")
_NUMBERING = re.compile(r"\d{1,3}|[a-zA-Z]")
_WORDS = re.compile(r"\w+(?:['’]\w+)*")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped, without empty ones; an unfinished last sentence counts."""
    return [sentence for sentence, _ in _sentences(text)]


def _sentences(text: str) -> Iterator[tuple[str, bool]]:
    """(sentence, decided): decided means that no text appended to `text` can change this sentence."""
    start = 0
    for end in _boundaries(text):
        sentence = text[start:end].strip()
        start = end
        if sentence:
            yield sentence, True
    rest = text[start:].strip()
    if rest:
        yield rest, False


def _boundaries(text: str) -> Iterator[int]:
    """Ends of sentences that are certain from `text` alone, in order."""
    position, length = 0, len(text)
    while position < length:
        character = text[position]
        if character == "\n":
            position += 1
            yield position
        elif character in _TERMINATORS:
            mark = position
            while position < length and text[position] in _TERMINATORS:
                position += 1
            end = _end_of_closing(text, position)
            if _is_boundary(text, mark=mark, after_marks=position, end=end):
                yield end
            position = max(position, end)
        else:
            position += 1


def _end_of_closing(text: str, position: int) -> int:
    """Behind the closing quotes and brackets and the emojis that belong to the sentence that ends at `position`."""
    while position < len(text) and text[position] in _CLOSERS:
        position += 1
    ahead = position
    while ahead < len(text) and (text[ahead] in " \t" or _is_emoji(text[ahead])):
        ahead += 1
        if _is_emoji(text[ahead - 1]):
            position = ahead
    return position


def _is_emoji(character: str) -> bool:
    return character in "\u200d\ufe0f" or (ord(character) > 0x2000 and unicodedata.category(character) in ("So", "Sk"))


def _is_boundary(text: str, *, mark: int, after_marks: int, end: int) -> bool:
    """Does the sentence end here? False also when that cannot be known yet."""
    if text[mark] in "。！？":  # scripts without spaces between sentences
        return end < len(text)
    gap = end
    while gap < len(text) and text[gap] in " \t":
        gap += 1
    if gap == len(text):
        return False
    if text[gap] == "\n":
        return True
    if gap == end and not _is_emoji(text[end - 1]):
        return False  # no space behind it: a decimal, a web address, an abbreviation such as "U.S"
    while gap < len(text) and (text[gap] in _OPENERS or text[gap] in " \t"):
        gap += 1
    if gap == len(text):
        return False
    goes_on_in_lower_case = text[gap].islower()
    marks = text[mark:after_marks]
    if marks == ".":
        return _full_stop_ends(text, mark, following=text[gap])
    if set(marks) <= {".", "…"} or any(c in _QUOTES for c in text[after_marks:end]):
        return not goes_on_in_lower_case  # an ellipsis or a quotation inside a sentence
    return True


def _full_stop_ends(text: str, mark: int, *, following: str) -> bool:
    """A single full stop ends a sentence unless it belongs to an abbreviation, an initial or a list number."""
    line = text[text.rfind("\n", 0, mark) + 1 : mark].lstrip(" \t")
    if _NUMBERING.fullmatch(line):
        return False
    match = _WORD_BEFORE.search(text, max(0, mark - 16), mark)
    word = match.group().lower() if match else ""
    if word in _NEVER_FINAL or (len(word) == 1 and word.isalpha() and word != "i"):
        return False
    if word in _BEFORE_NUMBERS and following.isdigit():
        return False
    quoted = text[mark + 1 : mark + 2] in tuple(_QUOTES)
    return not ((word in _SOMETIMES_FINAL or quoted) and following.islower())


def normalised_words(text: str) -> list[str]:
    """Lower-case words without punctuation, apostrophes unified: what counts when texts are compared."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return _WORDS.findall(text)


@dataclass(frozen=True)
class Cleaned:
    """What one policy makes of one generation.

    ``text`` is what is scored; ``scored`` is False when it is left out (echo-free with nothing left).
    """

    text: str
    scored: bool


@dataclass(frozen=True)
class PromptText:
    """The parts of one prompt that an answer may repeat."""

    stem: str
    injection: str | None = None
    instruction: str = ""

    @cached_property
    def prefixes(self) -> tuple[list[str], ...]:
        """What may be repeated at the start of a sentence, in this order, as normalised words."""
        return tuple(normalised_words(part) for part in (self.instruction, self.injection, self.stem) if part)

    @cached_property
    def injected(self) -> tuple[tuple[str, ...], ...]:
        """The sentences of the injection, as normalised words."""
        return tuple(tuple(normalised_words(sentence)) for sentence in split_sentences(self.injection or ""))

    @cached_property
    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """The complete sentences of the prompt, as normalised words."""
        whole = (tuple(normalised_words(part)) for part in (self.injection, self.instruction) if part)
        return tuple(dict.fromkeys([*self.injected, *whole]))


@dataclass(frozen=True)
class Cleaner:
    """Applies the cleaning policies.

    Parameters
    ----------
    echo_similarity
        A sentence is a near-verbatim echo when the character-level Ratcliff-Obershelp similarity
        (:class:`difflib.SequenceMatcher`, on normalised words) to a sentence of the prompt reaches this value.
    """

    echo_similarity: float = DEFAULT_ECHO_SIMILARITY

    def __post_init__(self) -> None:
        if not 0 < self.echo_similarity <= 1:
            raise ConfigError(f"echo_similarity must be in (0, 1], found {self.echo_similarity}")

    def clean(self, text: str, prompt: PromptText, policy: Cleaning) -> Cleaned:
        """The text of a generation that `policy` scores."""
        if policy == "echo-free":
            left, _ = self._first_own_sentence(text, prompt)
            return Cleaned(left or "", scored=left is not None)
        first = next((sentence for sentence, _ in _sentences(text)), "")
        if policy == "paper":
            return Cleaned(self._without_repetition(first, prompt), scored=True)
        if policy == "raw":
            return Cleaned(first, scored=True)
        raise ConfigError(f"cleaning policy {policy!r}{nearest(policy, CLEANINGS)}")

    def is_echo(self, text: str, prompt: PromptText) -> bool:
        """Does the first sentence of `text` repeat a sentence of the prompt, alone or as its beginning?"""
        first = next((sentence for sentence, _ in _sentences(text)), "")
        if not first:
            return False
        own = cut_repetition(first, prompt)
        if not own or self._repeats(own, prompt):
            return True
        return bool(prompt.injection) and own != cut_repetition(first, replace(prompt, injection=None))

    def first_sentence_complete(self, text: str, prompt: PromptText) -> bool:
        """Can no text appended to `text` change what any policy scores?"""
        _, decided = self._first_own_sentence(text, prompt)
        return decided

    def _first_own_sentence(self, text: str, prompt: PromptText) -> tuple[str | None, bool]:
        """The first sentence that is the model's own, cut free of repeated prompt; and whether it is final."""
        for sentence, decided in _sentences(text):
            own = cut_repetition(sentence, prompt)
            if own and not self._repeats(own, prompt):
                return own, decided
        return None, False

    def _without_repetition(self, sentence: str, prompt: PromptText) -> str:
        own = cut_repetition(sentence, prompt)
        return "" if self._repeats(own, prompt) else own

    def _repeats(self, sentence: str, prompt: PromptText) -> bool:
        """Is `sentence` nearly one of the prompt, does it quote the injection, or is it the stem and nothing more?"""
        words = normalised_words(sentence)
        if any(_contains(words, other) for other in prompt.injected):
            return True
        stem = normalised_words(prompt.stem)
        candidates = [*prompt.sentences, stem] if len(words) <= len(stem) else prompt.sentences
        return any(_similar(" ".join(words), " ".join(other), self.echo_similarity) for other in candidates)


def cut_repetition(sentence: str, prompt: PromptText) -> str:
    """`sentence` without the instruction, injection and stem at its start; empty if no word or emoji is left."""
    for prefix in prompt.prefixes:
        if _starts_with(normalised_words(sentence), prefix):
            sentence = _drop_words(sentence, len(prefix))
    return sentence.strip() if _WORDS.search(sentence) or any(map(_is_emoji, sentence)) else ""


def _starts_with(words: list[str], prefix: list[str]) -> bool:
    return words[: len(prefix)] == prefix


def _contains(words: list[str], part: Sequence[str]) -> bool:
    """Does the whole of `part` stand somewhere in `words`?"""
    return f" {' '.join(part)} " in f" {' '.join(words)} "


def _drop_words(sentence: str, count: int) -> str:
    """Cut the first `count` words and the punctuation behind them."""
    ends = [match.end() for match in _WORDS.finditer(unicodedata.normalize("NFKC", sentence))]
    return unicodedata.normalize("NFKC", sentence)[ends[count - 1] :].lstrip(" \t,.;:!?…—–-\"'”’)*_")


@lru_cache(maxsize=65536)
def _similar(a: str, b: str, threshold: float) -> bool:
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.real_quick_ratio() < threshold or matcher.quick_ratio() < threshold:
        return False
    return matcher.ratio() >= threshold
