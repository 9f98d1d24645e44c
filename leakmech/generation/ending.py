"""Where a row ends: at an end token, when what will be scored is complete, or when its budget of tokens is used up.

Whoever draws the tokens asks :class:`Ending` after each one. An engine that steps row by row does so while it draws;
one that draws whole answers reads them again, token by token, and cuts them where the row ended. Reasoning and answer
have a budget each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from leakmech.core.answers import spoken
from leakmech.generation.decoding import Decoding
from leakmech.generation.vocabulary import START, Vocabulary

FinishReason = Literal["stop", "sentence", "length"]
StopRule = Callable[[str, str], bool]
"""``stop(prompt_id, text so far) -> True`` when the text that will be scored can no longer change."""

_STEPS_TO_LOOK = 3  # a sentence end is confirmed by what follows it, within a few tokens


@dataclass
class LiveRow:
    """A row that is being generated."""

    prompt_id: str
    generation: int
    tokens: list[int] = field(default_factory=list)
    opening: str = ""  # the marker of reasoning with which the prompt ends
    finish: FinishReason | None = None
    looks: int = 0  # how many more steps to look for the end of a sentence
    thinking: bool = False
    answer_start: int = 0  # tokens before the answer: reasoning has a budget of its own


@dataclass(frozen=True)
class Ending:
    """When rows end that are drawn with `decoding`; `stop` ends a row early."""

    vocabulary: Vocabulary
    decoding: Decoding
    stop: StopRule | None = None

    def begin(self, rows: Iterable[tuple[str, int, Sequence[int]]]) -> list[LiveRow]:
        """Rows (prompt id, generation, token ids of the prompt) without a token yet."""
        rows = list(rows)
        distinct = {name: tokens for name, _, tokens in rows} if self.decoding.reasoning_tokens else {}
        openings = {name: self.vocabulary.opening(tokens) for name, tokens in distinct.items()}
        opened = [openings.get(name, "") for name, _, _ in rows]
        return [
            LiveRow(name, number, opening=own, thinking=bool(own))
            for (name, number, _), own in zip(rows, opened, strict=True)
        ]

    def append(self, live: LiveRow, token: int) -> None:
        """Note a drawn token and decide whether the row ends with it."""
        if token in self.ends(live):
            live.finish = "stop"
            return
        live.tokens.append(token)
        self._think(live, token)
        if len(live.tokens) - live.answer_start >= self.most_tokens(live):
            live.finish = "length"
        elif self.stop and (live.looks > 0 or self.vocabulary.may_end_sentence[token]):
            live.looks = _STEPS_TO_LOOK if self.vocabulary.may_end_sentence[token] else live.looks - 1
            # Half of a multi-byte character decodes to U+FFFD; it is not text yet.
            if self.stop(live.prompt_id, self.text(live).rstrip("\ufffd")):
                live.finish = "sentence"

    def ends(self, live: LiveRow) -> frozenset[int]:
        """The ids that end a row: fewer of them while it reasons."""
        return self.vocabulary.own_ends if live.thinking else self.vocabulary.ends

    def text(self, live: LiveRow) -> str:
        """What a row says, with the marker that its template has written for it."""
        return live.opening + self.vocabulary.text(live.tokens)

    def most_tokens(self, live: LiveRow) -> int:
        """Tokens that the part in which a row is, reasoning or answer, may have."""
        return self.decoding.reasoning_tokens if live.thinking else self.decoding.max_new_tokens

    def _think(self, live: LiveRow, token: int) -> None:
        """Note where reasoning begins and ends; looked at only where a token may be part of a marker."""
        if not live.thinking and (live.answer_start or len(live.tokens) > START):
            return
        if not self.decoding.reasoning_tokens or not self.vocabulary.may_mark(token):
            return
        thinking = spoken(self.text(live), self.decoding.markers).thinking
        if live.thinking and not thinking:
            live.answer_start = len(live.tokens)
        live.thinking = thinking
