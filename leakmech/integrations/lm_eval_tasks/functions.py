"""Functions that the YAML files name: lm-evaluation-harness looks for them beside those files."""

from __future__ import annotations

from typing import Any

from leakmech.integrations.lm_harness import aexl, aggregation, hexl, process_results
from leakmech.integrations.numbers import NUMBERS

__all__ = ["aexl", "hexl", "process_results"]


def __getattr__(name: str) -> Any:
    """The aggregation of the number `name`."""
    if name not in NUMBERS:
        raise AttributeError(name)
    return aggregation(name)
