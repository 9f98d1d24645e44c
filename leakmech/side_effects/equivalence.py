"""Is a side effect small enough not to matter? One verdict per measure, with margins that were set beforehand.

A measure is a ratio of sums over units, T = sum(numerator) / sum(denominator), for the base model b and the changed
model a over the same units. The effect is, on the scale on which it is tested,

    difference    T_a - T_b
    ratio         log(T_a / T_b)
    perplexity    T_a - T_b with T in nats a token; shown as the ratio exp(T_a - T_b) of perplexities

All tests are t tests on jackknife pseudo-values (:mod:`leakmech.scoring.inference`): TOST for equivalence within the
margin, and a one-sided test of harm against zero (two-sided where a move to either side is harm). With level alpha:

    equivalent      TOST rejects: the effect lies within the margin, whether or not it is zero
    worse           it does not, and there is harm
    better          it does not, and there is the opposite of harm
    inconclusive    none of these can be said from so few units

"All side effects are equivalent" needs no adjustment for their number: each must be shown on its own.

:class:`Estimate` is a number with its bootstrap interval, from contributions of units to sums.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

from leakmech.core.errors import ConfigError
from leakmech.scoring.inference import equivalence, pseudo_values
from leakmech.scoring.statistics import DRAWS, LEVEL, Statistic, bootstrap, divide, json_number

Scale = Literal["difference", "ratio", "perplexity"]
Harm = Literal["up", "down", "either"]
Verdict = Literal["equivalent", "worse", "better", "inconclusive"]
Columns = Float[np.ndarray, "units 2"]


@dataclass(frozen=True)
class Margins:
    """Largest side effects that do not matter; set them before looking at results.

    Ratios are meant in both directions: 1.1 allows a factor from 1/1.1 to 1.1.

    Attributes
    ----------
    perplexity
        Ratio of perplexities, of the base model's control generations and of neutral text.
    kl
        KL(base || changed) in nats a token. With 0.1 the base model's own tokens are, in the geometric mean, 10 % less
        probable.
    distinct
        Difference of distinct-1, -2 and -3.
    repeated
        Difference of the share of repeated 4-grams.
    compression
        Ratio of compression ratios.
    length
        Ratio of mean lengths.
    empty, looping
        Difference of shares of generations.
    relevance
        Difference of mean cosine similarities.
    capability
        Difference of accuracies.
    seconds
        Ratio of seconds per generation.
    alpha
        Level of all verdicts.

    Raises
    ------
    ConfigError
        A ratio is not above 1, a difference not above 0, or alpha not inside (0, 1).
    """

    perplexity: float = 1.1
    kl: float = 0.1
    distinct: float = 0.05
    repeated: float = 0.02
    compression: float = 1.1
    length: float = 1.1
    empty: float = 0.02
    looping: float = 0.02
    relevance: float = 0.05
    capability: float = 0.05
    seconds: float = 1.1
    alpha: float = 0.05

    def __post_init__(self) -> None:
        ratios = ("perplexity", "compression", "length", "seconds")
        for field in fields(self):
            value, least = getattr(self, field.name), 1 if field.name in ratios else 0
            if not (np.isfinite(value) and value > least) or (field.name == "alpha" and value >= 1):
                kind = "inside (0, 1)" if field.name == "alpha" else f"a number above {least}"
                raise ConfigError(f"margins: {field.name} must be {kind}, found {value}")

    def to_dict(self) -> dict[str, float]:
        """Give the margins by name, for the configuration of a run."""
        return asdict(self)


@dataclass(frozen=True)
class SideEffect:
    """One measure of damage, base against changed; None for what cannot be computed."""

    name: str
    scale: Literal["difference", "ratio"]
    """What `effect`, `low`, `high` (its paired 95 % bootstrap interval over units) and `margin` are."""
    base: float | None
    """The measure's value under the base model, such as a perplexity."""
    changed: float | None
    effect: float | None
    low: float | None
    high: float | None
    margin: float
    p_equivalence: float | None
    p_harm: float | None
    verdict: Verdict
    n_units: int
    """Number of samples, documents, questions or rounds."""


def side_effect(
    name: str,
    base: Columns,
    changed: Columns,
    *,
    scale: Scale,
    harm: Harm,
    margin: float,
    alpha: float,
    seed: int,
    draws: int,
) -> SideEffect:
    """Test one measure on the same units of both models.

    The margin is a ratio above 1 for the scales ``ratio`` and ``perplexity``, a difference above 0 else.
    """

    def effect(sums: Float[np.ndarray, "rows 4"]) -> Float[np.ndarray, "rows 1"]:
        before, after = mean_ratio(sums[:, :2]), mean_ratio(sums[:, 2:])
        if scale != "ratio":
            return after - before
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(after) - np.log(before)
        return np.where(np.isfinite(logs), logs, np.nan)

    columns = np.hstack([base, changed])
    shown = np.exp if scale != "difference" else lambda number: number
    found = estimate(columns, effect, seed=seed, draws=draws).mapped(shown)
    values = pseudo_values(columns, effect)[:, 0]
    p_equivalence = equivalence(values, margin=margin if scale == "difference" else float(np.log(margin)))
    p_harm, p_gain = _one_sided(values, harm)
    sides = [mean_ratio(side.sum(axis=0, keepdims=True))[0, 0] for side in (base, changed)]
    if scale == "perplexity":
        sides = [np.exp(side) for side in sides]
    return SideEffect(
        name=name,
        scale="difference" if scale == "difference" else "ratio",
        base=json_number(sides[0]),
        changed=json_number(sides[1]),
        effect=json_number(found.value),
        low=json_number(found.low),
        high=json_number(found.high),
        margin=margin,
        p_equivalence=json_number(p_equivalence),
        p_harm=json_number(p_harm),
        verdict=_verdict(p_equivalence, p_harm, p_gain, alpha),
        n_units=len(columns),
    )


def _verdict(p_equivalence: float, p_harm: float, p_gain: float, alpha: float) -> Verdict:
    if p_equivalence < alpha:
        return "equivalent"
    if p_harm < alpha:
        return "worse"
    return "better" if p_gain < alpha else "inconclusive"


def _one_sided(values: Float[np.ndarray, " units"], harm: Harm) -> tuple[float, float]:
    """Compute the p values of harm and of its opposite (1 where there is none)."""
    values = values[~np.isnan(values)]
    if values.size < 2:
        return float("nan"), float("nan")
    if np.ptp(values) <= 1e-10 * max(1.0, float(np.abs(values).max())):  # no spread: the mean is certain
        up, down = (0.0, 1.0) if values.mean() > 1e-12 else (1.0, 0.0) if values.mean() < -1e-12 else (1.0, 1.0)
    else:
        up = float(stats.ttest_1samp(values, 0, alternative="greater").pvalue)  # pyright: ignore[reportAttributeAccessIssue] - hidden by SciPy's decorator
        down = 1 - up
    if harm == "either":
        return min(1.0, 2 * min(up, down)), 1.0
    return (up, down) if harm == "up" else (down, up)


# -- estimates ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A statistic and the ends of its interval; NaN for what cannot be computed."""

    value: float
    low: float
    high: float

    def mapped(self, rising: Callable[[float], float]) -> Estimate:
        """Map the statistic by a rising function, under which the ends of a BCa interval go along."""
        return Estimate(*(float(rising(number)) for number in (self.value, self.low, self.high)))

    def to_dict(self) -> dict[str, float | None]:
        """Make it JSON-ready; None stands for NaN."""
        return {"value": json_number(self.value), "low": json_number(self.low), "high": json_number(self.high)}

    def named(self, name: str) -> dict[str, Any]:
        """Make it JSON-ready as ``name`` and ``name_ci``."""
        own = self.to_dict()
        return {name: own["value"], f"{name}_ci": [own["low"], own["high"]]}


def estimates(
    columns: Float[np.ndarray, "units columns"],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
    most_undefined: float = 1.0,
) -> list[Estimate]:
    """Compute statistics of sums over units, each with its BCa interval.

    See :func:`leakmech.scoring.statistics.bootstrap`.
    """
    columns = np.asarray(columns, np.float64)
    values = statistic(columns.sum(axis=0, keepdims=True))[0]
    intervals = bootstrap(columns, statistic, seed=seed, draws=draws, level=level, most_undefined=most_undefined)
    return [Estimate(float(v), float(i.low), float(i.high)) for v, i in zip(values, intervals, strict=True)]


def estimate(
    columns: Float[np.ndarray, "units columns"],
    statistic: Statistic,
    *,
    seed: int,
    draws: int = DRAWS,
    level: float = LEVEL,
) -> Estimate:
    """Run :func:`estimates` for a single statistic."""
    return estimates(columns, statistic, seed=seed, draws=draws, level=level)[0]


def mean_ratio(sums: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, "rows 1"]:
    """Divide the first column by the second, NaN where that is 0; a :data:`~leakmech.scoring.statistics.Statistic`."""
    return divide(sums[:, :1], sums[:, 1:])


def per_unit(units: Sequence[str], values: Float[np.ndarray, "rows columns"]) -> Float[np.ndarray, "units columns"]:
    """Sum the rows of each unit, units in order of appearance."""
    place = {unit: i for i, unit in enumerate(dict.fromkeys(units))}
    sums = np.zeros((len(place), values.shape[1]))
    np.add.at(sums, [place[unit] for unit in units], values)
    return sums
