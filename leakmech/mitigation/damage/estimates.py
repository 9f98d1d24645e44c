"""A number with its bootstrap interval, from contributions of units to sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leakmech.scoring.statistics import DRAWS, LEVEL, Statistic, bootstrap, divide, json_number


@dataclass(frozen=True)
class Estimate:
    """A statistic and the ends of its interval; NaN for what cannot be computed."""

    value: float
    low: float
    high: float

    def mapped(self, rising: Callable[[float], float]) -> Estimate:
        """The same for a rising function of the statistic, of which BCa ends are those of the function."""
        return Estimate(*(float(rising(number)) for number in (self.value, self.low, self.high)))

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready; None for NaN."""
        return {"value": json_number(self.value), "low": json_number(self.low), "high": json_number(self.high)}


def estimates(
    columns: Float[np.ndarray, "units columns"],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> list[Estimate]:
    """Statistics of sums over units, each with its BCa bootstrap interval.

    Parameters
    ----------
    columns
        What is summed, finite, shape (units, columns).
    statistic, seed, draws, level
        See :func:`leakmech.scoring.statistics.bootstrap`.
    """
    columns = np.asarray(columns, np.float64)
    values = statistic(columns.sum(axis=0, keepdims=True))[0]
    intervals = bootstrap(columns, statistic, seed=seed, draws=draws, level=level)
    return [Estimate(float(v), float(i.low), float(i.high)) for v, i in zip(values, intervals, strict=True)]


def estimate(
    columns: Float[np.ndarray, "units columns"],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate:
    """:func:`estimates` for a single statistic."""
    return estimates(columns, statistic, seed=seed, draws=draws, level=level)[0]


def mean_ratio(sums: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 1"]:
    """First column over the second, a :data:`~leakmech.scoring.statistics.Statistic`; NaN where the latter is 0."""
    return divide(sums[:, :1], sums[:, 1:])


def per_unit(units: Sequence[str], values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "units columns"]:
    """Sums of the rows of each unit, units in order of appearance."""
    place = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    sums = np.zeros((len(place), values.shape[1]))
    np.add.at(sums, [place[unit] for unit in units], values)
    return sums
