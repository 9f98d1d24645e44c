"""What a model says to the user, apart from what a chat format wraps around it.

A text that a model wrote may begin with the name of its role, may think before it answers, and may go on into another
turn or call a tool. In this order

    role header (``assistant`` and a line break)     cut off
    reasoning   (``<think> … </think>``)             set apart: the answer stands after it
    turn end, next turn, tool call (``<|im_end|>``)  the answer ends there

Where a chat template has already opened the reasoning, the text holds the closing marker alone. Reasoning that is not
closed has no answer yet.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from leakmech.core.errors import ConfigError

Markers = tuple[tuple[str, str], ...]
"""Opening and closing marker of reasoning, one pair for each chat format."""

REASONING: Markers = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<reflection>", "</reflection>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)

TURN_ENDS = (
    "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end_of_turn|>", "<|end|>", "<|return|>",
    "<|endoftext|>", "<|end_of_text|>", "<|END_OF_TURN_TOKEN|>", "</s>",
)  # fmt: skip
"""Tokens that end a turn or a text."""
TURN_STARTS = (
    "<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "<|start|>", "<|user|>", "<|assistant|>", "<|system|>",
    "<|START_OF_TURN_TOKEN|>", "[INST]",
)  # fmt: skip
"""Tokens that begin another turn."""
TOOL_CALLS = (
    "<tool_call>", "<|tool_call|>", "<|python_tag|>", "[TOOL_CALLS]", "<|tool_calls_section_begin|>", "<function_call>",
    "<|call|>", "<|START_ACTION|>",
)  # fmt: skip

_HEADER = re.compile(
    # Without its token a name stands at the beginning of a line: after a space it may be a word of the answer.
    r"(?:\s*(?:<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|<\|start\|>|<\|START_OF_TURN_TOKEN\|>)\s*|[\r\n]*)"
    r"(?:(?:assistant|model)(?:<\|end_header_id\|>|[ \t]*\r?\n)|assistant:)\s*|\s*<\|assistant\|>\s*",
    re.IGNORECASE,
)
_NEXT_TURN = r"\n[ \t]*(?:user|human)[ \t]*:?[ \t]*\r?\n"  # what is left of a header without its tokens
_END = re.compile("|".join([*map(re.escape, (*TURN_ENDS, *TURN_STARTS, *TOOL_CALLS)), _NEXT_TURN]))


@dataclass(frozen=True)
class Spoken:
    """What a text says to the user."""

    text: str
    """The answer; empty while the model is still thinking."""
    reasoned: bool = False
    """Whether reasoning stands before it."""
    thinking: bool = False
    """Whether reasoning has begun and not ended."""

    @property
    def unanswered(self) -> bool:
        """Whether the model thought and then said nothing."""
        return self.reasoned and not self.text.strip()


@lru_cache(maxsize=8192)
def spoken(text: str, markers: Markers = REASONING) -> Spoken:
    """The answer in a text."""
    rest, reasoned = _without_header(text), False
    while (found := _after_reasoning(rest, markers)) is not None:
        after, closed = found
        if not closed:
            return Spoken("", reasoned=True, thinking=True)
        rest, reasoned = _without_header(after), True
    end = _END.search(rest)
    return Spoken(rest if end is None else rest[: end.start()], reasoned)


def opens_reasoning(text: str, markers: Markers = REASONING) -> str:
    """The opening marker with which a text ends, such as a prompt whose template has begun to think; empty if none."""
    end = text.rstrip()
    return next((opening for opening, _ in markers if end.endswith(opening)), "")


@lru_cache
def parse_markers(text: str) -> Markers:
    """The markers of ``<open>…</open>`` (or three full stops in between; several with spaces), then the common ones."""
    found = []
    for pair in text.split():
        opening, between, closing = pair.replace("...", "…").partition("…")
        if not opening.strip() or not closing.strip() or not between:
            raise ConfigError(f"reasoning markers {pair!r}: write them as OPENING…CLOSING, such as <think>…</think>")
        found.append((opening.strip(), closing.strip()))
    return (*found, *REASONING)


def _without_header(text: str) -> str:
    found = _HEADER.match(text)
    return text[found.end() :] if found else text


def _after_reasoning(text: str, markers: Markers) -> tuple[str, bool] | None:
    """What stands after the reasoning at the start of a text, and whether that is closed; None if there is none."""
    start = text.lstrip()
    for opening, closing in markers:
        if start.startswith(opening):
            _, closed, after = start[len(opening) :].partition(closing)
            return after, bool(closed)
    closings = [(text.index(closing), closing) for _, closing in markers if closing in text]
    if not closings:
        return None
    place, closing = min(closings)
    return text[place + len(closing) :], True
