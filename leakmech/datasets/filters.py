"""Which corpus sentences may become injections: tidied, then kept or refused for a named reason.

An injection comes alone before an unrelated stem, so it must be one whole statement that needs no sentence before
it. Without a parser that is decided by rules on words and characters, which are strict on purpose: a corpus
has sentences to spare, and a good sentence lost costs less than a bad one kept. The rules are for English.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

from leakmech.core.errors import ConfigError
from leakmech.datasets.english import blocked_hashes, word_list

_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")
_PII = re.compile(
    r"@|https?:|www\.|url_removed|\.(?:com|net|org|co|io|ly|uk|de|edu|gov)\b"  # e-mail, handles, addresses of the web
    r"|(?<!\d)\+?(?:\d[\s().\-]{0,2}){7}",  # telephone numbers: seven digits or more
    re.IGNORECASE,
)
_MASKED = re.compile(r"\w[*$#]+\w|\w\*+|\*{2,}")  # s**t and its like
_ODD = re.compile(r"[^\w\s.,!'’\-$%]|\.\.|!!|\s-|-\s|\d\s*'|''|([^\W\d])\1\1|\S\s{2,}\S|_")
_LONE_LETTER = re.compile(r"\b[b-hj-zB-HJ-Z]\b(?!')")

_LEANING = word_list("leaning")
_REFERRING = word_list("referring")
_FINITE = word_list("finite")
_FINITE_OR_NOUN = word_list("finite_or_noun")
_FINITE_OR_PARTICIPLE = word_list("finite_or_participle")
_RELATIVE = word_list("relative")
_NET_SLANG = word_list("slang")
_SUBJECTS = word_list("subjects")
_SUBJECT_AND_VERB = frozenset(
    f"{subject}'{verb}" for subject in ("i", "we", "you", "there", "here") for verb in ("m", "ve", "ll", "d", "re", "s")
)
_MODIFIERS = word_list("modifiers")
_BEFORE_NOUNS = word_list("before_nouns")
_BARE_ADJECTIVES = word_list("bare_adjectives")
_TIMES = word_list("times")
_DETERMINERS = word_list("determiners")
_PRONOUNS = word_list("pronouns")
_ABBREVIATIONS = word_list("abbreviations")
_SUFFIXES = ("", "s", "es", "ed", "er", "ers", "ing")


def words(text: str) -> list[str]:
    """Words of `text` in lower case, apostrophes unified, punctuation left out."""
    return [word.lower().replace("’", "'") for word in _WORD.findall(text)]


def tidy(text: str) -> str:
    """White space collapsed, first letter and the pronoun I in capitals, no space before punctuation, a full stop.

    Some corpora are in lower case throughout, and tweets often lack the full stop; nothing else is changed.
    """
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([.,!?;:])", r"\1", text)
    text = re.sub(r"\bi\b(?=$|[\s,.!?]|['’](?:m|ve|ll|d)\b)", "I", text)
    text = text[:1].upper() + text[1:]
    return text + "." if text[-1:].isalnum() else text


@dataclass(frozen=True)
class InjectionRules:
    """What a sentence must be like to be an injection: its length in words, and what is refused where a flag is set.

    `max_words` None allows any length. `form` refuses what has no full stop, much in capitals, odd characters or slang,
    and what was cut at an abbreviation. `standalone` refuses what leans on a sentence before it ("But …", "It …") and
    what has no finite verb. A sentence without a word is always refused.
    """

    min_words: int = 4
    max_words: int | None = 20
    profanity: bool = True
    personal_data: bool = True
    standalone: bool = True
    form: bool = True

    def __post_init__(self) -> None:
        if self.min_words < 1 or (self.max_words is not None and self.max_words < self.min_words):
            raise ConfigError(
                f"words of an injection: expected 1 <= smallest <= largest, found {self.min_words} and {self.max_words}"
            )

    def refusal(self, sentence: str) -> str | None:
        """Why a tidied `sentence` is refused, in a few words; None for one that may be an injection."""
        own = words(sentence)
        if not own:
            return "no word"
        if len(own) < self.min_words or (self.max_words is not None and len(own) > self.max_words):
            return "length"
        if self.form and sentence[-1] not in ".!":
            return "no full stop"
        if self.form and (
            not sentence[0].isalpha() or sum(len(word) > 1 and word.isupper() for word in sentence.split()) > 1
        ):
            return "capitals"
        if self.personal_data and has_personal_data(sentence):
            return "personal data"
        if self.form and (_ODD.search(sentence) or _LONE_LETTER.search(sentence) or has_slang(own)):
            return "odd characters or slang"
        if self.form and (own[-1] in _ABBREVIATIONS or len(own[-1]) == 1):
            return "cut at an abbreviation"
        if self.standalone and leans(own):
            return "leans on another sentence"
        if self.standalone and not _is_statement(sentence, own):
            return "no statement"
        if self.profanity and is_profane(sentence):
            return "profanity"
        return None


def has_personal_data(text: str) -> bool:
    """Whether `text` holds an e-mail or web address, a telephone number or a handle; names are not looked for."""
    return _PII.search(text) is not None


def is_profane(text: str) -> bool:
    """Whether `text` holds a word of the blocked list, inflected or not, or a masked one (``s**t``)."""
    return _MASKED.search(text) is not None or any(map(_is_blocked, words(text.replace("-", " "))))


def has_slang(own: list[str]) -> bool:
    """Whether one of the words is written as in a text message."""
    return not _NET_SLANG.isdisjoint(own)


def leans(own: list[str]) -> bool:
    """Whether a sentence, given as words, needs one before it: it starts with a connecting word or a bare pronoun."""
    return own[0] in _LEANING or own[0] in _REFERRING or refers_outside(own)


def refers_outside(own: list[str]) -> bool:
    """Whether a pronoun or demonstrative points at something that the words before it have not named."""
    named = False
    for word, following in zip(own, [*own[1:], ""], strict=True):
        if word in ("this", "these", "those", "such") and following not in _TIMES:
            return True
        if word.partition("'")[0] in _PRONOUNS and not named:
            return True
        named = named or word in _DETERMINERS
    return False


def _is_statement(sentence: str, own: list[str]) -> bool:
    """Whether the main clause has a finite verb with a subject before it."""
    if own[0] in _SUBJECT_AND_VERB:
        return True
    if lacks_subject(own) or own[0] in _BARE_ADJECTIVES:
        return False
    # Places of commas: after the last of these words.
    commas = list(accumulate(len(words(part)) for part in sentence.split(",")[:-1]))
    for index, (previous, word) in enumerate(pairwise(own), start=1):
        if word in _RELATIVE:
            return False
        contracted = word.partition("'")[0] in _SUBJECTS
        subject_at = index if contracted else index - 1
        if (contracted or previous in _SUBJECTS) and subject_at >= 2 and subject_at not in commas:
            continue  # "A film with a hero I loved": a clause without its relative pronoun
        after_modifier = previous.endswith("ly") or previous in _MODIFIERS or (commas and index >= commas[0])
        after_modifier = after_modifier or own[0] in ("a", "an")  # "A parody of every film made last year"
        if previous not in _BEFORE_NOUNS and (
            word in _FINITE
            or (word in _FINITE_OR_NOUN and (previous in _SUBJECTS or previous.endswith("s")))
            or (word in _FINITE_OR_PARTICIPLE and not after_modifier)
        ):
            return True
    return False


def lacks_subject(own: list[str]) -> bool:
    """Whether it is an order or begins with its verb: "Hope this helped", "Really is a joy", "Puts a face on"."""
    first, second = own[0], own[1] if len(own) > 1 else ""
    verbs = _FINITE | _FINITE_OR_NOUN | _FINITE_OR_PARTICIPLE
    if first in verbs or first.endswith("ed"):
        return True
    adverb = first.endswith("ly") or first in ("never", "always", "now", "almost", "sometimes", "often")
    if adverb and (second in verbs | {"a", "an"} or second.endswith("s")):
        return True
    return first.endswith("s") and second in _DETERMINERS | {"one", "on", "of", "to", "as", "like", "from", "up"}


@lru_cache(maxsize=65536)
def _is_blocked(word: str) -> bool:
    bare = {word.removesuffix(suffix) for suffix in _SUFFIXES if word.endswith(suffix)}
    return any(len(form) > 1 and blocked_word_hash(form) in blocked_hashes() for form in bare)


def blocked_word_hash(word: str) -> str:
    """The form of a word in ``data/blocked_words.txt``, so that nobody has to read the list."""
    return hashlib.blake2b(word.encode(), digest_size=6).hexdigest()
