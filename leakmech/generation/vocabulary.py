"""What a model's tokens say: which of them end a generation, a sentence or reasoning, and the text of several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from leakmech.core.answers import TURN_ENDS, Markers, opens_reasoning
from leakmech.core.text import may_end_sentence

START = 16
"""Tokens at the end of a prompt, or at the start of a text, in which reasoning may begin."""


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The tokens of a Hugging Face model and its tokenizer; reasoning stands between `markers`."""

    model: Any
    tokenizer: Any
    markers: Markers

    @cached_property
    def own_ends(self) -> frozenset[int]:
        """Ids that end a generation at any time: the model's own, and the tokenizer's end of text."""
        configured = self.model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        return frozenset(i for i in (*ids, self.tokenizer.eos_token_id) if i is not None)

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer: those, and turn ends of the template, which may also end reasoning (gpt-oss)."""
        template, added = str(self.tokenizer.chat_template or ""), self.tokenizer.get_added_vocab()
        turn_ends = (added[name] for name in TURN_ENDS if name in added and name in template)
        return self.own_ends | frozenset(turn_ends)

    @cached_property
    def _special_markers(self) -> dict[int, str]:
        """Special tokens that mark reasoning, which stay in a text where others are left out."""
        parts = [part for pair in self.markers for part in pair]
        special = {i: token.content for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return {i: name for i, name in special.items() if any(name in part for part in parts)}

    @cached_property
    def may_end_sentence(self) -> list[bool]:
        """For every token id: does its text hold a character that can end a sentence?"""
        size = max(self.model.get_output_embeddings().weight.shape[0], len(self.tokenizer))
        pieces = self.tokenizer.batch_decode([[i] for i in range(min(size, len(self.tokenizer)))])
        return [*map(may_end_sentence, pieces), *[False] * (size - len(pieces))]

    def may_mark(self, token: int) -> bool:
        """Whether the text of a token may begin or end a marker of reasoning; looked up once for each that is drawn."""
        if token not in self._marking:
            self._marking[token] = not self._ends_of_markers.isdisjoint(self.tokenizer.decode([token]))
        return self._marking[token]

    @cached_property
    def _marking(self) -> dict[int, bool]:
        return {}

    @cached_property
    def _ends_of_markers(self) -> frozenset[str]:
        return frozenset(part[place] for pair in self.markers for part in pair for place in (0, -1))

    def opening(self, prompt_tokens: Sequence[int]) -> str:
        """The marker of reasoning with which a prompt ends, if its template has opened one."""
        end = self.tokenizer.decode(prompt_tokens[-START:], clean_up_tokenization_spaces=False)
        return opens_reasoning(end, self.markers)

    def text(self, tokens: Sequence[int]) -> str:
        """Decode tokens as they are: no special tokens but markers of reasoning, no tidying of spaces."""
        if not self._special_markers:
            return self._plain(tokens)
        text, start = "", 0
        for place, token in enumerate(tokens):
            if token in self._special_markers:
                text += self._plain(tokens[start:place]) + self._special_markers[token]
                start = place + 1
        return text + self._plain(tokens[start:])

    def _plain(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
