"""Where in a rendered prompt the injection, the stem and the last token stand, in tokens.

A prompt's text is built as ``instruction: body``, and the body knows the characters of its parts
(:mod:`leakmech.prompts.bodies`); the tokenizer says which characters each token covers (its offsets), and a part's
tokens are those that share a character with it:

    tokens(part) = {t : start_t < end(part) and end_t > start(part)}.

Token counts are never guessed. A token that covers the end of one part and the beginning of the next belongs to both.
In prefill form the stem is there twice: ``stem`` is the one in the assistant's turn, from which the model goes on, and
``asked`` the one in the user's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from leakmech.core.errors import ConfigError, ModelError
from leakmech.prompts.bodies import Span
from leakmech.prompts.render import Prompt, Renderer
from leakmech.prompts.tokens import encoded

_NONE: Span = (0, 0)
"""Of a part that a prompt does not have."""

REGIONS = ("injection", "turn", "stem", "tail", "last", "ending")
"""Regions in which a prompt is patched and drawn, in order; see :mod:`leakmech.mechanism.attribution.patching`."""


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


def tokens_of(part: str, prompt: Prompt, renderer: Renderer) -> tuple[tuple[int, ...], Span]:
    """Token ids of a prompt, and the last place in what the user says at which `part` stands."""
    found = _encoded([prompt.rendered], renderer)
    start = _said(prompt) + prompt.text.rfind(part)
    return tuple(found["input_ids"][0]), _tokens(found["offset_mapping"][0], (start, start + len(part)))


def locate(
    prompts: Sequence[Prompt], renderer: Renderer, *, continuations: Mapping[str, Sequence[int]] | None = None
) -> list[LocatedPrompt]:
    """Tokenise prompts and find their parts; the token ids of `continuations` follow, as the part ``generated``."""
    found = _encoded([prompt.rendered for prompt in prompts], renderer)
    located = []
    for prompt, ids, offsets in zip(prompts, found["input_ids"], found["offset_mapping"], strict=True):
        spans = {name: _tokens(offsets, span) for name, span in _characters(prompt).items()}
        spans["prompt"] = spans["all"] = (0, len(ids))
        if continuations is not None:
            if prompt.id not in continuations:
                raise ConfigError(f"continuations: none of prompt {prompt.id!r}; give one for every prompt")
            ids = [*ids, *continuations[prompt.id]]
            spans |= {"generated": (spans["prompt"][1], len(ids)), "all": (0, len(ids))}
        located.append(LocatedPrompt(prompt.id, prompt.sample, prompt.condition, np.asarray(ids, np.int32), spans))
    return located


def _encoded(texts: Sequence[str], renderer: Renderer) -> Any:
    """Token ids of rendered prompts, and the characters that each covers."""
    tokenizer: Any = renderer.tokenizer
    if not tokenizer.is_fast:
        raise ModelError(
            f"tokenizer {type(tokenizer).__name__}: says nothing of the characters of its tokens, so positions cannot "
            "be found; load the fast version of it (a tokenizer.json)"
        )
    return encoded(tokenizer, texts, special=renderer.resolved_form == "plain", offsets=True)


def _said(prompt: Prompt) -> int:
    """The character of the rendered prompt at which the user's last turn begins."""
    start = prompt.rendered.rfind(prompt.text, 0, len(prompt.rendered) - len(prompt.opening))
    if start < 0:
        raise _changed(prompt)
    return start


def _changed(prompt: Prompt) -> ModelError:
    return ModelError(
        f"prompt {prompt.id!r}: the chat template changes its text, so positions cannot be found; "
        "use the prompt form 'plain'"
    )


def _characters(prompt: Prompt) -> dict[str, Span]:
    """Characters of injection and stem in the rendered prompt."""
    opened = len(prompt.rendered) - len(prompt.opening)
    start = _said(prompt)
    injected = prompt.rendered.rfind(prompt.earlier, 0, start) if prompt.earlier else 0
    if injected < 0:
        raise _changed(prompt)
    if not prompt.spans:
        raise ModelError(f"prompt {prompt.id!r}: was rewritten, so that nobody knows where its parts stand")
    if prompt.earlier:
        stem = start + prompt.text.rfind(prompt.stem)
        found = {"stem": (stem, stem + len(prompt.stem)), "injection": (injected, injected + len(prompt.earlier))}
    else:
        body = start + prompt.text.rfind(prompt.body)
        found = {name: (body + first, body + after) for name, (first, after) in prompt.spans.items()}
    found = {"injection": _NONE, **found}
    return found | {"asked": found["stem"], "stem": (opened, len(prompt.rendered))} if prompt.opening else found


def _tokens(offsets: Sequence[Span], characters: Span) -> Span:
    """The tokens that share a character with a range of characters."""
    start, end = characters
    inside = [token for token, (first, after) in enumerate(offsets) if first < end and after > start]
    return (inside[0], inside[-1] + 1) if inside and start < end else _NONE
