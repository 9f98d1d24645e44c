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

from leakmech.core.registry import Registry
from leakmech.core.text import split_sentences
from leakmech.prompts.render import Prompt

NEUTRAL_SENTENCE = "Here is a sentence."
"""Without content, because content leaks too: after "The building has two floors." a model of 135M parameters wrote
of that building in 8 of 10 answers, after "It is Tuesday." of weekdays in 9; this sentence was taken up in 4 of 10."""


@dataclass(frozen=True)
class View:
    """One version of a prompt's body."""

    name: str
    body: Callable[[Prompt], str]
    oracle: bool = False
    """It uses what a user does not have: knowledge of which sentence was injected."""
    inserted: str = ""
    """What stands in it and not in the prompt; a generation that repeats it is an echo."""


def split_context(body: str) -> tuple[str, str]:
    """The body without its last sentence, and that sentence."""
    sentences = split_sentences(body)
    if not sentences:
        return "", ""
    last = sentences[-1]
    return body[: body.rstrip().rfind(last)].strip(), last


def _neutralised(prompt: Prompt) -> str:
    context, last = split_context(prompt.body)
    return f"{NEUTRAL_SENTENCE} {last}" if context else prompt.body


VIEWS: Registry[View] = Registry.named(
    "view of the prompt",
    View("same", lambda prompt: prompt.body),
    View("control", lambda prompt: prompt.stem, oracle=True),
    View("last-sentence", lambda prompt: split_context(prompt.body)[1]),
    View("neutral-context", _neutralised, inserted=NEUTRAL_SENTENCE),
    View("context-only", lambda prompt: split_context(prompt.body)[0]),
    View("empty", lambda _: ""),
)


def find_view(name: str) -> View:
    """The view of that name."""
    return VIEWS.find(name)
