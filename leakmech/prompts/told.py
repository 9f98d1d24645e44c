"""What a method is told beside the text of the prompt: what decides whether a user could use it.

``nothing``    the text of the prompt only
``layout``     that the last sentence is the request; it gets the text, and never where anything stands in it
``boundary``   which part of the prompt was injected, or is the stem
``condition``  whether anything was injected, and of which polarity

On data sets of one injection before one stem, knowing the layout is nearly knowing the boundary: so only what is told
nothing is claimed to mitigate. What is told the boundary or the condition is an oracle. A method is told the most that
any of its parts is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

Told = Literal["nothing", "layout", "boundary", "condition"]
TOLD: tuple[Told, ...] = get_args(Told)
"""From the least to the most."""


def most_told(parts: Iterable[Told]) -> Told:
    """The most that any of the parts is told; ``nothing`` without parts."""
    return TOLD[max(map(TOLD.index, parts), default=0)]


def is_oracle(told: Told) -> bool:
    """Is it told what a user does not have?"""
    return told in ("boundary", "condition")
