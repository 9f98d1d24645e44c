"""Other versions of a prompt: without its context, with a neutral one, with nothing else.

The body of a prompt is its context (here the injection) followed by the sentence to complete. A user has the body only,
so the versions that a user could make split it by a rule that needs no knowledge of the sample:

    body = context + last sentence.

On data sets of this kind the last sentence *is* the stem, by construction. What these versions do to leakage there says
little about texts whose relevant part lies elsewhere; what they do to relevant affect is the price.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leakmech.core.registry import Registry
from leakmech.core.text import split_sentences
from leakmech.prompts.render import Prompt
from leakmech.prompts.told import Told, is_oracle

NEUTRAL_SENTENCE = "Here is a sentence."
"""Without content, because content leaks too: after "The building has two floors." a model of 135M parameters wrote
of that building in 8 of 10 answers, after "It is Tuesday." of weekdays in 9; this sentence was taken up in 4 of 10."""


@dataclass(frozen=True)
class View:
    """One version of a prompt's body."""

    name: str
    make: Callable[[Any], str]
    """Gets the text of the body; in an oracle's view the :class:`~leakmech.prompts.render.Prompt`, with its parts."""
    told: Told = "nothing"
    """What it is told beside the text."""
    inserted: str = ""
    """What stands in it and not in the prompt; a generation that repeats it is an echo."""

    def body(self, prompt: Prompt) -> str:
        """This version of the body of `prompt`."""
        return self.make(prompt if is_oracle(self.told) else prompt.body)


def split_context(body: str) -> tuple[str, str]:
    """The body without its last sentence, and that sentence."""
    sentences = split_sentences(body)
    if not sentences:
        return "", ""
    last = sentences[-1]
    return body[: body.rstrip().rfind(last)].strip(), last


def _neutralised(body: str) -> str:
    context, last = split_context(body)
    return f"{NEUTRAL_SENTENCE} {last}" if context else body


VIEWS: Registry[View] = Registry.named(
    "view of the prompt",
    View("same", lambda body: body),
    View("control", lambda prompt: prompt.without, told="boundary"),
    View("last-sentence", lambda body: split_context(body)[1], told="layout"),
    View("neutral-context", _neutralised, told="layout", inserted=NEUTRAL_SENTENCE),
    View("context-only", lambda body: split_context(body)[0], told="layout"),
    View("empty", lambda _: ""),
)


def find_view(name: str) -> View:
    """The view of that name."""
    return VIEWS.find(name)
