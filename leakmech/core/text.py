"""Sentences and words of a text, in any script.

Sentences are found by a scanner that decides a boundary from the characters up to the first visible one after it.
Its decisions never change when text is appended, which is what lets generation stop early. What ends a sentence, what
is a letter and what belongs together is Unicode's (its property Sentence_Break and its grapheme clusters, UAX 29, by
the package ``regex``). Abbreviations are English with a few of other languages. Thai and Lao write no stops: there a
sentence ends with its line.

Words are what stands between spaces; in scripts that write none (Chinese, Japanese, Thai, Lao, Khmer, Burmese) every
grapheme cluster counts as one, since words could only be told by a dictionary of each language.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import regex

_CANDIDATE = regex.compile(r"\n|[\p{SB=STerm}\p{SB=ATerm}…།༎෴--၊]+|(?<=\p{Greek})[;\u037e]", regex.V1)
"""What may end a sentence. The Burmese little section is a comma, the Greek question mark looks like a semicolon."""
_ENDS_ANYWHERE = regex.compile(r"[\p{SB=STerm}།༎෴--[!?]]", regex.V1)
"""Marks that need no space after them."""
_CLOSERS = "\"'”’»›)]}*_`」』）】》〉〕］｝〗〙〛｣＂＇"
_OPENERS = "\"'“‘«([{*_`#>-–—•"
_GERMAN_CLOSERS = "“‘"  # they open in English, where no space follows them
_QUOTES = "\"'”’»"
_SHAD = "།༎"
_TITLES = {"mr", "mrs", "ms", "dr", "prof", "st", "mt", "rev", "hon", "gen", "col", "capt", "lt", "sgt", "gov", "sen"}
_ELSEWHERE = {
    "z.b",
    "d.h",
    "u.a",
    "bzw",
    "ggf",
    "vgl",
    "mme",
    "mlle",
    "p.ej",
    "sra",
    "srta",
    "dra",
    "т.е",
    "т.к",
    "ул",
    "стр",
}
_NEVER_FINAL = _TITLES | _ELSEWHERE | {"rep", "vs", "e.g", "i.e", "cf", "approx", "dept", "est"}
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
    "usw",
    "т.д",
    "т.п",
    "др",
}
_BEFORE_NUMBERS = {"no", "nos", "fig", "vol", "p", "pp", "ch"}
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}ー\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Javanese}\p{Balinese}\p{Tai_Tham}"
_MARKS = r"[\p{M}\u200c\u200d--[\ufe00-\ufe0f\u20d0-\u20ff]]*"  # not those that make emojis
_SPACED_WORD = rf"(?:[\p{{L}}\p{{N}}_--[{_UNSPACED}]]{_MARKS})+"
WORD = regex.compile(rf"(?=[\p{{L}}\p{{N}}&&[{_UNSPACED}]])\X|{_SPACED_WORD}(?:['’]{_SPACED_WORD})*", regex.V1)
_UNSPACED_LETTER = regex.compile(rf"[{_UNSPACED}]", regex.V1)
_BETWEEN_UNSPACED = regex.compile(rf"(?<=[{_UNSPACED}]\p{{M}}*) (?=[{_UNSPACED}])", regex.V1)
_UNSPACED_RUN = regex.compile(rf"\p{{Han}}+|[{_UNSPACED}--\p{{Han}}](?:[{_UNSPACED}--\p{{Han}}]|\p{{M}})*", regex.V1)
_WORD_BEFORE = regex.compile(r"[\w.’'&-]*$")
_NUMBERING = regex.compile(r"\d{1,3}|[a-zA-Z]")
_INITIAL = regex.compile(rf"[\p{{L}}--[iяи\p{{Hangul}}{_UNSPACED}]]", regex.V1)
_HAN = regex.compile(r"\p{Han}")
_GRAPHEME = regex.compile(r"\X")


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
    position = 0
    while found := _CANDIDATE.search(text, position):
        if found.group() == "\n":
            position = found.end()
            yield position
        else:
            end = _end_of_closing(text, found.end())
            if _is_boundary(text, mark=found.start(), after_marks=found.end(), end=end):
                yield end
            position = max(found.end(), end)


def _end_of_closing(text: str, position: int) -> int:
    """The place after the closing quotes, brackets and emojis of the sentence whose mark ends at `position`."""
    while position < len(text) and _closes(text, position):
        position += 1
    ahead = position
    while ahead < len(text) and (text[ahead] in " \t" or is_emoji(text[ahead]) or _combines(text[ahead])):
        ahead += 1
        if text[ahead - 1] not in " \t":
            position = ahead
    return position


def _closes(text: str, position: int) -> bool:
    character = text[position]
    if character in _GERMAN_CLOSERS:
        return text[position + 1 : position + 2].isspace()
    return character in _CLOSERS or _combines(character)


def _combines(character: str) -> bool:
    """Whether a character belongs to the one before it."""
    return character > "\u02ff" and unicodedata.category(character) in ("Mn", "Mc", "Me")


def is_emoji(character: str) -> bool:
    """Whether a character is an emoji or a part of one: a joiner, a variation selector, a keycap, a tag of a flag."""
    return character in "\u200d\ufe0f\u20e3" or (
        ord(character) > 0x2000
        and (unicodedata.category(character) in ("So", "Sk") or "\U000e0020" <= character <= "\U000e007f")
    )


def _is_boundary(text: str, *, mark: int, after_marks: int, end: int) -> bool:
    """Whether the sentence ends here; False also while that cannot be known."""
    if text[end:] and text[end:] in _GERMAN_CLOSERS:
        return False  # it closes if a space follows
    gap = end
    while gap < len(text) and text[gap] in " \t\u3000":
        gap += 1
    if gap == len(text):
        return False
    marks = text[mark:after_marks]
    if _ENDS_ANYWHERE.search(marks):
        # 「はい。」と言った goes on, and shads may stand apart.
        return not (text[gap] in _SHAD or (text[gap] == "と" and text[gap - 1] in "」』"))
    if text[gap] == "\n":
        return True
    if gap == end and not is_emoji(text[end - 1]):
        # No space after it: a decimal, a web address, an abbreviation such as "U.S"; or a script without spaces.
        return mark > 0 and all(_UNSPACED_LETTER.match(text[place]) for place in (mark - 1, gap))
    while gap < len(text) and (text[gap] in _OPENERS or text[gap] in " \t"):
        gap += 1
    if gap == len(text):
        return False
    goes_on_in_lower_case = _is_lower(text[gap])
    if marks == ".":
        return _full_stop_ends(text, mark, following=text[gap])
    if set(marks) <= {".", "…"} or any(c in _QUOTES or c in _GERMAN_CLOSERS for c in text[after_marks:end]):
        return not goes_on_in_lower_case  # an ellipsis or a quotation inside a sentence
    return True


def _is_lower(character: str) -> bool:
    """Whether a sentence that begins with it is one that goes on; Georgian letters are all lower case."""
    return character.islower() and not "ა" <= character <= "ჿ"


def _full_stop_ends(text: str, mark: int, *, following: str) -> bool:
    """Whether a single full stop ends a sentence: not after an abbreviation, an initial or a list number."""
    line = text[text.rfind("\n", 0, mark) + 1 : mark].lstrip(" \t")
    if _NUMBERING.fullmatch(line):
        return False
    match = _WORD_BEFORE.search(text, max(0, mark - 16), mark)
    word = match.group().lower() if match else ""
    if word in _NEVER_FINAL or _INITIAL.fullmatch(word):
        return False
    if word in _BEFORE_NUMBERS and following.isdigit():
        return False
    quoted = text[mark + 1 : mark + 2] in (*_QUOTES, *_GERMAN_CLOSERS)
    return not ((word in _SOMETIMES_FINAL or quoted) and _is_lower(following))


def may_end_sentence(text: str) -> bool:
    """Whether a text has a character that can end a sentence."""
    return _CANDIDATE.search(text) is not None


def has_final_mark(text: str) -> bool:
    """Whether a text ends in a mark that can end a sentence, whatever closes after it."""
    bare = text.rstrip().rstrip(_CLOSERS + _GERMAN_CLOSERS)
    return bare != "" and bool(_CANDIDATE.match(text, len(bare) - 1))


def shortened(text: str, length: int) -> str:
    """The beginning of `text`, at most `length` characters, without a part of a grapheme cluster."""
    end = 0
    for cluster in _GRAPHEME.finditer(text):
        if cluster.end() > length:
            break
        end = cluster.end()
    return text[:end]


def normalised_words(text: str) -> list[str]:
    """Lower-case words without punctuation, apostrophes unified: what counts when texts are compared."""
    text = unicodedata.normalize("NFKC", text).lower().replace("’", "'")
    return WORD.findall(text)


def unspaced_pieces(text: str) -> set[str]:
    """What stands for words in scripts without spaces: any two Chinese characters, or four other clusters, in a row."""
    pieces = set()
    for run in _UNSPACED_RUN.findall(unicodedata.normalize("NFKC", text)):
        clusters = _GRAPHEME.findall(run)
        size = 2 if _HAN.match(run) else 4
        pieces |= {"".join(clusters[i : i + size]) for i in range(len(clusters) - size + 1)}
    return pieces


def joined_words(words: Sequence[str]) -> str:
    """Words as one text, with spaces only where their script writes them."""
    return _BETWEEN_UNSPACED.sub("", " ".join(words))


def same_letters(one: str, other: str) -> bool:
    """Whether two texts are the same but for case, spaces, punctuation and what a change of encoding does to them.

    Letters outside of ASCII may have been lost only where most letters are ASCII: two Chinese texts without them are
    always equal.
    """
    letters = [_letters(text) for text in (one, other)]
    if letters[0] == letters[1]:
        return True
    plain = ["".join(filter(str.isascii, own)) for own in letters]
    mostly_plain = all(2 * len(short) > len(own) for short, own in zip(plain, letters, strict=True))
    return mostly_plain and plain[0] == plain[1]


def _letters(text: str) -> str:
    """Letters, digits and vowel signs, in lower case."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if c.isalnum() or (ord(c) > 0x2FF and unicodedata.category(c) in ("Mn", "Mc")))


def contains_words(text: str, part: str) -> bool:
    """Whether the words of `part` occur in `text` as one piece, whatever their case and punctuation."""
    return f" {' '.join(normalised_words(part))} " in f" {' '.join(normalised_words(text))} "
