"""Which text of a generation is scored: sentence boundaries, echoes of the prompt, cleaning policies.

An *echo* is a sentence of a generation that repeats a sentence of the prompt, verbatim or nearly so, alone or quoted in
a frame of its own ('The original sentence is: "I lost my keys."'). Three policies say what is scored, all computed
from the same generations:

``echo-free``
    Echoes are dropped, a repeated injection or stem at the start of a sentence is cut off, and the first sentence
    that is left is scored. If nothing is left, the generation is not scored, but counted as empty.
``paper``
    The first sentence without the part that repeats the prompt (Köprü et al. 2025, section 4); an empty rest is
    scored as it is.
``raw``
    The first sentence as it is.

What is cleaned is what the model says to the user (:mod:`leakmech.core.answers`): reasoning before it is no answer.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal, get_args

from leakmech.core.answers import REASONING, Markers, Spoken, spoken
from leakmech.core.errors import ConfigError, nearest
from leakmech.core.text import WORD, is_emoji, joined_words, normalised_words, scan_sentences, split_sentences
from leakmech.prompts.render import Prompt

Cleaning = Literal["echo-free", "paper", "raw"]
CLEANINGS: tuple[Cleaning, ...] = get_args(Cleaning)
DEFAULT_ECHO_SIMILARITY = 0.8
"""Chosen by reading 158 first sentences of the embedded model on HEXL (seed 0): of the 48 that reach 0.8 we judged 45
to be echoes; of the 110 next below it, 11 quote the injection whole (found by containment, whatever the threshold), 9
more were near-verbatim and 90 were sentences of the model's own. One reader, a language model; no human judged it."""

_AFTER_REPETITION = " \t,.;:!?…—–-\"'”’)*_" + "،؛؟。、」』》】।։።၊。"
_FEWEST_QUOTED = 5
"""Words of an inserted sentence that make a sentence which holds it an echo: "I have noted that" may be the model's."""


@dataclass(frozen=True)
class Cleaned:
    """What one policy makes of one generation."""

    text: str
    scored: bool
    """Whether the text counts; False where the policy is echo-free and nothing is left."""


@dataclass(frozen=True)
class PromptText:
    """The parts of one prompt that a generation may repeat; one without words (an emoji, "...") cannot be repeated."""

    stem: str
    injection: str | None = None
    instruction: str = ""
    inserted: tuple[str, ...] = ()
    """What an arrangement says besides: other sentences, or the beginning of the one that holds the stem."""

    @classmethod
    def of(cls, prompt: Prompt, *, instruction: str | None = None) -> PromptText:
        """The parts of `prompt`; `instruction` goes before its own."""
        own = prompt.instruction if instruction is None else instruction
        return cls(prompt.stem, prompt.injection, own, prompt.inserted)

    @cached_property
    def prefixes(self) -> tuple[list[str], ...]:
        """What may be repeated at the start of a sentence, in this order, as normalised words."""
        parts = (self.instruction, *split_sentences(self.instruction), *self.inserted, self.injection, self.stem)
        return tuple(filter(None, (normalised_words(part) for part in dict.fromkeys(parts) if part)))

    @cached_property
    def injected(self) -> tuple[tuple[str, ...], ...]:
        """The sentences of the injection and whole sentences beside it, as normalised words."""
        own = map(normalised_words, split_sentences(self.injection or ""))
        others = (words for words in map(normalised_words, self.inserted) if len(words) >= _FEWEST_QUOTED)
        return tuple(map(tuple, filter(None, (*own, *others))))

    @cached_property
    def sentences(self) -> tuple[tuple[str, ...], ...]:
        """The complete sentences of the prompt, as normalised words."""
        parts = (self.injection, *self.inserted, self.instruction, *split_sentences(self.instruction))
        whole = (tuple(normalised_words(part)) for part in parts if part)
        return tuple(dict.fromkeys(filter(None, [*self.injected, *whole])))


@dataclass(frozen=True)
class Cleaner:
    """Applies the cleaning policies.

    A sentence is a near-verbatim echo when the character-level Ratcliff-Obershelp similarity
    (:class:`difflib.SequenceMatcher`, on normalised words) to a sentence of the prompt reaches `echo_similarity`.
    """

    echo_similarity: float = DEFAULT_ECHO_SIMILARITY
    markers: Markers = REASONING
    """What reasoning stands between."""

    def __post_init__(self) -> None:
        if not 0 < self.echo_similarity <= 1:
            raise ConfigError(f"echo_similarity must be in (0, 1], found {self.echo_similarity}")

    def spoken(self, text: str) -> Spoken:
        """What a generation says to the user."""
        return spoken(text, self.markers)

    def clean(self, text: str, prompt: PromptText, policy: Cleaning) -> Cleaned:
        """The text of a generation that `policy` scores."""
        text = self.spoken(text).text
        if policy == "echo-free":
            left, _ = self._first_own_sentence(text, prompt)
            return Cleaned(left or "", scored=left is not None)
        first = next((sentence for sentence, _ in scan_sentences(text)), "")
        if policy == "paper":
            return Cleaned(self._without_repetition(first, prompt), scored=True)
        if policy == "raw":
            return Cleaned(first, scored=True)
        raise ConfigError(f"cleaning policy {policy!r}{nearest(policy, CLEANINGS)}")

    def up_to_scored(self, text: str, prompt: PromptText, policy: Cleaning) -> str:
        """What the model says up to the end of the sentence that `policy` scores; empty if it scores none."""
        text = self.spoken(text).text
        end = 0
        for sentence, _ in scan_sentences(text):
            end = text.index(sentence, end) + len(sentence)
            if policy != "echo-free" or self._without_repetition(sentence, prompt):
                return text[:end]
        return ""

    def is_echo(self, text: str, prompt: PromptText) -> bool:
        """Whether the first sentence of `text` repeats a sentence of the prompt, alone or as its beginning."""
        first = next((sentence for sentence, _ in scan_sentences(self.spoken(text).text)), "")
        if not first:
            return False
        own = cut_repetition(first, prompt)
        if not own or self._repeats(own, prompt):
            return True
        return own != cut_repetition(first, replace(prompt, injection=None, inserted=()))

    def first_sentence_complete(self, text: str, prompt: PromptText) -> bool:
        """Whether no text appended to `text` can change what any policy scores.

        But for the end of reasoning that a prompt has opened: there `text` begins with what opened it.
        """
        _, decided = self._first_own_sentence(self.spoken(text).text, prompt)
        return decided

    def _first_own_sentence(self, text: str, prompt: PromptText) -> tuple[str | None, bool]:
        """The first sentence that is the model's own, cut free of repeated prompt; and whether it is final."""
        for sentence, decided in scan_sentences(text):
            own = cut_repetition(sentence, prompt)
            if own and not self._repeats(own, prompt):
                return own, decided
        return None, False

    def _without_repetition(self, sentence: str, prompt: PromptText) -> str:
        own = cut_repetition(sentence, prompt)
        return "" if self._repeats(own, prompt) else own

    def _repeats(self, sentence: str, prompt: PromptText) -> bool:
        """Whether `sentence` is nearly one of the prompt, quotes the injection, or is the stem and nothing more."""
        words = normalised_words(sentence)
        if any(_contains(words, other) for other in prompt.injected):
            return True
        stem = normalised_words(prompt.stem)
        own = joined_words(words)
        candidates = [*prompt.sentences, stem] if 0 < len(words) <= len(stem) else prompt.sentences
        return any(_similar(own, joined_words(other), self.echo_similarity) for other in candidates)


@dataclass(frozen=True)
class FirstSentences:
    """What is scored of the generations of several prompts; :meth:`complete` is a stop rule for an engine."""

    texts: Mapping[str, PromptText]
    """By prompt id."""
    cleaner: Cleaner = field(default_factory=Cleaner)

    @classmethod
    def of(
        cls, prompts: Iterable[Prompt], cleaner: Cleaner | None = None, *, instruction: str | None = None
    ) -> FirstSentences:
        """Those of `prompts`; `instruction` goes before their own."""
        texts = {prompt.id: PromptText.of(prompt, instruction=instruction) for prompt in prompts}
        return cls(texts, cleaner or Cleaner())

    def complete(self, prompt_id: str, text: str) -> bool:
        """Whether no text appended to `text` can change what any policy scores.

        But for the end of reasoning that a prompt has opened: there `text` begins with what opened it.
        """
        return self.cleaner.first_sentence_complete(text, self.texts[prompt_id])

    def clean(self, prompt_id: str, text: str, policy: Cleaning) -> Cleaned:
        """The text of a generation that `policy` scores."""
        return self.cleaner.clean(text, self.texts[prompt_id], policy)

    def up_to_scored(self, prompt_id: str, text: str, policy: Cleaning) -> str:
        """What the model wrote up to the end of the sentence that `policy` scores; empty if it scores none."""
        return self.cleaner.up_to_scored(text, self.texts[prompt_id], policy)


class PromptTexts(Mapping[str, PromptText]):
    """The parts of many prompts, by prompt id, made when they are asked for; `instruction` goes before their own."""

    def __init__(self, prompts: Mapping[str, Prompt], instruction: str | None) -> None:
        self._prompts = prompts
        self._text = lru_cache(maxsize=2048)(lambda name: PromptText.of(prompts[name], instruction=instruction))

    def __getitem__(self, name: str) -> PromptText:
        return self._text(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)


def cut_repetition(sentence: str, prompt: PromptText) -> str:
    """`sentence` without the instruction, injection and stem at its start; empty if no word or emoji is left."""
    for prefix in prompt.prefixes:
        if _starts_with(normalised_words(sentence), prefix):
            sentence = _drop_words(sentence, len(prefix))
    return sentence.strip() if WORD.search(sentence) or any(map(is_emoji, sentence)) else ""


def _starts_with(words: list[str], prefix: list[str]) -> bool:
    return words[: len(prefix)] == prefix


def _contains(words: list[str], part: Sequence[str]) -> bool:
    """Whether all of `part` occurs in `words` as one piece."""
    return f" {' '.join(part)} " in f" {' '.join(words)} "


def _drop_words(sentence: str, count: int) -> str:
    """Cut the first `count` words and the punctuation after them."""
    ends = [match.end() for match in WORD.finditer(unicodedata.normalize("NFKC", sentence))]
    return unicodedata.normalize("NFKC", sentence)[ends[count - 1] :].lstrip(_AFTER_REPETITION)


@lru_cache(maxsize=16384)
def _similar(a: str, b: str, threshold: float) -> bool:
    matcher = difflib.SequenceMatcher(None, a, b, autojunk=False)
    if matcher.real_quick_ratio() < threshold or matcher.quick_ratio() < threshold:
        return False
    return matcher.ratio() >= threshold
