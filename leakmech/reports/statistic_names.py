"""The statistics that runs are compared by: what they are called, how they are shown, and their value at no effect."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from leakmech.reports.cells import number, signed

LABELS = {
    "auc_el": "all pairs",
    "mu_el": "mu_EL",
    "valence_shift": "valence shift",
    "contrast": "contrast",
    "topic_free": "topic-free all pairs",
    "topic_free_contrast": "topic-free contrast",
    "topic_free_valence_shift": "topic-free valence shift",
    "tilt": "tilt shift per token",
}
_SHARES = ("auc_el", "mu_el", "topic_free")
"""Statistics from 0 to 1; the others have a sign."""


def null_of(statistic: str) -> float:
    """The value where injections do nothing."""
    return 0.5 if statistic in _SHARES else 0.0


def shown_as(statistic: str) -> Callable[[Any], str]:
    """How a value of a statistic is shown."""
    if statistic == "tilt":
        return partial(signed, decimals=3)
    return number if statistic in _SHARES else signed
