"""Where in a rendered prompt the injection, the stem and the last token stand, in tokens.

A prompt's text is built as ``instruction: injection stem``, so the characters of its parts are known; the tokenizer
says which characters each token covers (its offsets), and a part's tokens are those that share a character with it:

    tokens(part) = {t : start_t < end(part) and end_t > start(part)}.

Token counts are never guessed. A token that covers the end of one part and the beginning of the next belongs to both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from leakmech.errors import ConfigError, ModelError, nearest
from leakmech.prompts.render import Prompt, Renderer

Span = tuple[int, int]
"""First token and the one behind the last; equal where a prompt has no such part."""

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


@dataclass(frozen=True, eq=False)
class LocatedPrompt:
    """Token ids of one prompt (and what the model wrote after it), and where its parts stand in them."""

    id: str
    sample: str
    condition: str
    ids: Int[np.ndarray, " tokens"]
    spans: Mapping[str, Span]

    def __len__(self) -> int:
        return len(self.ids)


def locate(
    prompts: Sequence[Prompt], renderer: Renderer, *, continuations: Mapping[str, Sequence[int]] | None = None
) -> list[LocatedPrompt]:
    """Tokenise prompts and find their parts.

    Parameters
    ----------
    prompts
        As `renderer` made them.
    continuations
        Token ids that follow a prompt, by prompt id; they become the part ``generated``.

    Raises
    ------
    ModelError
        The tokenizer gives no offsets, or the chat template changes the text of a prompt, so that its parts cannot be
        found.
    ConfigError
        A prompt has no continuation although others have.
    """
    tokenizer: Any = renderer.tokenizer
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__}: says nothing of the characters of its tokens, so positions cannot "
            "be found; load the fast version of it (a tokenizer.json)"
        )
    encoded = tokenizer(
        [prompt.rendered for prompt in prompts],
        add_special_tokens=renderer.resolved_form == "plain",
        return_offsets_mapping=True,
    )
    located = []
    for prompt, ids, offsets in zip(prompts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        spans = {name: _tokens(offsets, span) for name, span in _characters(prompt).items()}
        spans["prompt"] = spans["all"] = (0, len(ids))
        if continuations is not None:
            if prompt.id not in continuations:
                raise ConfigError(f"continuations: none of prompt {prompt.id!r}; give one for every prompt")
            ids = [*ids, *continuations[prompt.id]]
            spans |= {"generated": (spans["prompt"][1], len(ids)), "all": (0, len(ids))}
        located.append(LocatedPrompt(prompt.id, prompt.sample, prompt.condition, np.asarray(ids, np.int32), spans))
    return located


def _characters(prompt: Prompt) -> dict[str, Span]:
    """Characters of injection and stem in the rendered prompt, whose body ends with the stem."""
    start = prompt.rendered.rfind(prompt.text)
    if start < 0:
        raise ModelError(
            f"prompt {prompt.id!r}: the chat template changes its text, so positions cannot be found; "
            "use prompt_form='plain'"
        )
    end = start + prompt.text.rfind(prompt.body) + len(prompt.body)
    stem = (end - len(prompt.stem), end)
    if prompt.injection is None:
        return {"stem": stem, "injection": _NONE}
    injection_end = stem[0] - 1  # a space lies between them
    return {"stem": stem, "injection": (injection_end - len(prompt.injection), injection_end)}


def _tokens(offsets: Sequence[Span], characters: Span) -> Span:
    """The tokens that share a character with a range of characters."""
    start, end = characters
    inside = [token for token, (first, behind) in enumerate(offsets) if first < end and behind > start]
    return (inside[0], inside[-1] + 1) if inside and start < end else _NONE


# -- labels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PositionPlan:
    """Requested positions, and one label for each vector that a prompt can have.

    Tokens of the prompt are numbered from the right (``stem:-1`` is the last token of the stem), so that equal labels
    mean comparable tokens in prompts of different length; generated ones from the left (``generated:0``). Parts are as
    long as in the longest prompt; shorter ones have no vector there.

    Attributes
    ----------
    labels
        In the order in which they were asked for.
    """

    labels: tuple[str, ...]
    _entries: tuple[tuple[Part, Reading, int], ...]

    @classmethod
    def of(cls, positions: Sequence[str], prompts: Sequence[LocatedPrompt]) -> PositionPlan:
        """Plan for named positions.

        Raises
        ------
        ConfigError
            An unknown name, a name twice, none at all, or a part that no prompt has.
        """
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
        """Indices of the labels that are means over several tokens."""
        return [index for index, (_, reading, _) in enumerate(self._entries) if reading == "mean"]

    def spans(self, prompt: LocatedPrompt) -> list[Span]:
        """For every label the tokens of `prompt` that it stands for; empty ranges where there are none."""
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
    """The labels that a position's name stands for: itself, or those of its tokens."""
    return [label for label in labels if label == name or label.partition(":")[0] == name]
