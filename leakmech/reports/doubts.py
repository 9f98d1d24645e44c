"""Reasons to doubt a run's numbers before reading them: most of its answers are no answers.

A model that only thinks, repeats the prompt or says nothing has a leakage of nearly nothing, which would read as a
result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leakmech.reports.cells import percent

_MOSTLY = 0.5


def answer_doubts(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each kind of answer without content that is most of a run's answers, and for reasoning."""
    policy = summary["by_cleaning"][summary["cleaning"]]

    def often(name: str) -> str | None:
        rate = policy.get(f"{name}_rate")
        return percent(rate, decimals=0) if rate is not None and rate >= _MOSTLY else None

    found = []
    if share := often("unanswered"):
        way = "raise --reasoning-tokens" if "decoding" in summary else "let the model go on until it has answered"
        found.append(f"Caution: {share} of the generations are reasoning without an answer; {way}.")
    if share := often("empty"):
        found.append(f"Caution: {share} of the answers are left without a sentence to score; read them (samples).")
    if share := often("echo"):
        found.append(f"Caution: {share} of the answers begin by repeating the prompt; read them (samples).")
    if reasoned := policy.get("reasoning_rate"):
        found.append(
            f"{percent(reasoned, decimals=0)} of the generations reason before they answer; that is not scored."
        )
    return found
