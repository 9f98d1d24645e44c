"""Sentences and words of a text.

Sentences are found by a scanner that decides a boundary from the characters up to the first visible one after it.
Its decisions never change when text is appended, which is what lets generation stop early.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

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
WORD = re.compile(r"\w+(?:['’]\w+)*")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text`, stripped, without empty ones; an unfinished last sentence counts."""
    return [sentence for sentence, _ in scan_sentences(text)]


def scan_sentences(text: str) -> Iterator[tuple[str, bool]]:
    """Yield (sentence, decided): decided means that no text appended to `text` can change this sentence."""
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
    """Yield the ends of sentences that are certain from `text` alone, in order."""
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
    """The place after the closing quotes, brackets and emojis of the sentence whose mark ends at `position`."""
    while position < len(text) and text[position] in _CLOSERS:
        position += 1
    ahead = position
    while ahead < len(text) and (text[ahead] in " \t" or is_emoji(text[ahead])):
        ahead += 1
        if is_emoji(text[ahead - 1]):
            position = ahead
    return position


def is_emoji(character: str) -> bool:
    return character in "\u200d\ufe0f" or (ord(character) > 0x2000 and unicodedata.category(character) in ("So", "Sk"))


def _is_boundary(text: str, *, mark: int, after_marks: int, end: int) -> bool:
    """Whether the sentence ends here; False also while that cannot be known."""
    if text[mark] in "。！？":  # scripts without spaces between sentences
        return end < len(text)
    gap = end
    while gap < len(text) and text[gap] in " \t":
        gap += 1
    if gap == len(text):
        return False
    if text[gap] == "\n":
        return True
    if gap == end and not is_emoji(text[end - 1]):
        return False  # no space after it: a decimal, a web address, an abbreviation such as "U.S"
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
    """Whether a single full stop ends a sentence: not after an abbreviation, an initial or a list number."""
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
    return WORD.findall(text)


def contains_words(text: str, part: str) -> bool:
    """Whether the words of `part` occur in `text` as one piece, whatever their case and punctuation."""
    return f" {' '.join(normalised_words(part))} " in f" {' '.join(normalised_words(text))} "
