"""Positions: names of tokens of a prompt, and one label for each vector that a prompt can have there.

:mod:`leakmech.prompts.locate` finds where the parts of a prompt stand. Here a name such as ``stem_mean`` becomes a part
and what is read of it: each of its tokens, their mean, or the last one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from leakmech.core.errors import ConfigError, nearest
from leakmech.prompts.locate import LocatedPrompt, Span

Part = Literal["prompt", "injection", "stem", "generated", "all"]
Reading = Literal["tokens", "mean", "last"]

POSITIONS: dict[str, tuple[Part, Reading]] = {
    "last_prompt": ("prompt", "last"),
    "injection": ("injection", "tokens"),
    "injection_mean": ("injection", "mean"),
    "injection_end": ("injection", "last"),
    "stem": ("stem", "tokens"),
    "stem_mean": ("stem", "mean"),
    "last_stem": ("stem", "last"),
    "prompt": ("prompt", "tokens"),
    "generated": ("generated", "tokens"),
    "generated_mean": ("generated", "mean"),
    "all": ("all", "tokens"),
}
"""Names of positions: the part of the prompt, and whether each of its tokens, their mean or the last one is meant."""

_NONE: Span = (0, 0)


# -- labels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PositionPlan:
    """Requested positions, and one label for each vector that a prompt can have.

    Tokens of the prompt are numbered from the right (``stem:-1`` is the last token of the stem), so that equal labels
    mean comparable tokens in prompts of different length; generated ones from the left (``generated:0``). Parts are as
    long as in the longest prompt; shorter ones have no vector there.
    """

    labels: tuple[str, ...]
    _entries: tuple[tuple[Part, Reading, int], ...]

    @classmethod
    def of(cls, positions: Sequence[str], prompts: Sequence[LocatedPrompt]) -> PositionPlan:
        """Make the plan for named positions; its labels keep their order."""
        if not positions or len(set(positions)) < len(positions):
            raise ConfigError(f"positions: name at least one, and each once, found {list(positions)}")
        labels: list[str] = []
        entries: list[tuple[Part, Reading, int]] = []
        for name in positions:
            if name not in POSITIONS:
                raise ConfigError(f"positions: unknown position {name!r}{nearest(name, POSITIONS)}")
            part, reading = POSITIONS[name]
            longest = max(_length(prompt, part) for prompt in prompts)
            if longest == 0:
                raise ConfigError(f"positions: no prompt has {name!r}; {_missing(part)}")
            if reading != "tokens":
                labels.append(name)
                entries.append((part, reading, -1))
                continue
            for number in range(longest) if part == "generated" else range(-longest, 0):
                labels.append(f"{name}:{number}")
                entries.append((part, reading, number))
        return cls(tuple(labels), tuple(entries))

    @property
    def means(self) -> list[int]:
        """Give the indices of the labels that are means over several tokens."""
        return [index for index, (_, reading, _) in enumerate(self._entries) if reading == "mean"]

    def spans(self, prompt: LocatedPrompt) -> list[Span]:
        """Give for every label the tokens of `prompt` that it stands for; an empty range where there are none."""
        return [self._span(prompt, *entry) for entry in self._entries]

    @staticmethod
    def _span(prompt: LocatedPrompt, part: Part, reading: Reading, number: int) -> Span:
        start, stop = prompt.spans.get(part, _NONE)
        if reading == "mean":
            return start, stop
        token = start + number if number >= 0 else stop + number
        return (token, token + 1) if start <= token < stop else _NONE


def _length(prompt: LocatedPrompt, part: Part) -> int:
    start, stop = prompt.spans.get(part, _NONE)
    return stop - start


def _missing(part: Part) -> str:
    if part == "generated":
        return "give continuations="
    return "add a condition with an injection" if part == "injection" else "check the data set"


def labels_of(name: str, labels: Sequence[str]) -> list[str]:
    """Give the labels that a position's name stands for: itself, or those of its tokens."""
    return [label for label in labels if label == name or label.partition(":")[0] == name]
