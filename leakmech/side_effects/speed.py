"""Seconds per generation, of two ways to generate, measured in turns.

    speed ratio = seconds(base) / seconds(changed),    the median over rounds; 1: as fast, 0.5: half as fast

Base and changed model take turns, and every other round begins with the other one, so that a machine that warms up or
gets busy slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.errors import UsageError


@dataclass(frozen=True, eq=False)
class Speed:
    """Seconds per generation of both models in every round."""

    base: Float[np.ndarray, " rounds"]
    changed: Float[np.ndarray, " rounds"]

    @property
    def ratio(self) -> float:
        """Compute the median over rounds of base over changed."""
        return float(np.median(self.base / self.changed))

    @property
    def seconds(self) -> tuple[float, float]:
        """Compute the median seconds per generation of base and changed model."""
        return float(np.median(self.base)), float(np.median(self.changed))

    def to_frame(self) -> pd.DataFrame:
        """Make one row per round."""
        return pd.DataFrame({"base": self.base, "changed": self.changed, "ratio": self.base / self.changed})


def measure_speed(base: Callable[[], int], changed: Callable[[], int], *, rounds: int = 3) -> Speed:
    """Time two ways to generate, each of which makes some generations and returns how many.

    Each runs once before the clock starts. For a fair ratio, both make generations of the same prompts.
    """
    if rounds < 1:
        raise UsageError(f"speed: at least one round is needed, found {rounds}")
    ways = {"base": base, "changed": changed}
    for way in ways.values():
        _seconds(way)
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            found[name].append(_seconds(ways[name]))
    return Speed(np.array(found["base"]), np.array(found["changed"]))


def _seconds(way: Callable[[], int]) -> float:
    started = time.perf_counter()
    count = way()
    if count < 1:
        raise UsageError("speed: nothing was generated")
    return (time.perf_counter() - started) / count


def run_seconds(summary: Mapping[str, Any]) -> float:
    """Compute seconds per generation from a benchmark run's summary; NaN where its last call generated nothing."""
    rate = summary.get("timing", {}).get("generations_per_second", 0.0)
    return 1 / rate if rate else float("nan")
