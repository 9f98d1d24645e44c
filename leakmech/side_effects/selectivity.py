"""Selectivity: does a mitigation take out the leakage, and only that?

    leakage reduction   R = 1 - (auc_el(mitigated) - 1/2) / (auc_el(base) - 1/2)      on the leakage set
    retention           T = Delta(mitigated) / Delta(base)                            on a set of relevant affect
    selectivity         S = 3 / (1/R + 1/T + 1/F), each clipped to [0, 1] first;  F is fluency

Delta is the mean valence shift between positive and negative injections. S is 0 as soon as one of the three is, and 1
only for a model that answers irrelevant affect as if it were not there, relevant affect as before, and writes as well.

Intervals come from a bootstrap that draws samples, with everything that both models and all sets have of them: samples
of the same id are one unit. A unit that a set does not have says nothing about that set and still takes part in the
resampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.scoring.leakage import LeakageScores, overall_leakage, valence_shifts
from leakmech.scoring.statistics import DRAWS, UnitRatio, divide, ratio_columns, ratios_of_sums
from leakmech.side_effects.equivalence import Estimate, estimate, estimates
from leakmech.side_effects.fluency import AnswerQuality, fluency_of_sums

Sums = Float[np.ndarray, "rows columns"]
Values = Float[np.ndarray, "rows statistics"]


@dataclass(frozen=True)
class Pair:
    """Scores of the base model and of the mitigated one on the same samples; other samples are refused."""

    base: LeakageScores
    mitigated: LeakageScores

    def __post_init__(self) -> None:
        if self.base.samples != self.mitigated.samples:
            raise UsageError(
                "selectivity: base and mitigated model were scored on different samples, or in other order"
            )

    @property
    def samples(self) -> tuple[str, ...]:
        return self.base.samples


@dataclass(frozen=True)
class Selectivity:
    """The three parts and their harmonic mean, each with an interval; see the head of this module.

    The parts are as they are, not clipped: a retention above 1 is told.
    """

    leakage_reduction: Estimate
    retention: Estimate
    fluency: Estimate
    selectivity: Estimate

    def to_dict(self) -> dict[str, float]:
        """Give ``<name>``, ``<name>_low`` and ``<name>_high`` for each, flat: a row of a table."""
        return {
            name if end == "value" else f"{name}_{end}": number
            for name, ends in asdict(self).items()
            for end, number in ends.items()
        }

    def to_frame(self) -> pd.DataFrame:
        """Make one row per part."""
        return pd.DataFrame([{"part": name, **ends} for name, ends in asdict(self).items()])


def leakage_reduction(pair: Pair, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Compute the leakage reduction over positive and negative prompts; NaN where the base model does not leak.

    It is 1 where no leakage is left, 0 where there is as much as before, and below 0 where there is more.
    """
    return estimate(_leakage_columns(pair), reduction_of_sums, seed=seed, draws=draws)


def retention(pair: Pair, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Divide the mitigated model's valence shift by the base model's; NaN where the latter is not above 0.

    It is 1 for a model that is as responsive to relevant affect as before, 0 for one that is tone-deaf.
    """
    return estimate(_shift_columns(pair), retention_of_sums, seed=seed, draws=draws)


def selectivity(
    leakage: Pair,
    relevant: Pair,
    quality: tuple[AnswerQuality, AnswerQuality],
    *,
    seed: int = 0,
    draws: int = DRAWS,
) -> Selectivity:
    """Compute all three parts and their harmonic mean.

    `leakage` and `relevant` are scores on the leakage set and on a set of relevant affect, `quality` the base and the
    changed model's answers on the leakage set (:func:`leakmech.side_effects.fluency.answer_quality`).
    """
    base, changed = quality
    if base.samples != changed.samples:
        raise UsageError("selectivity: the answers of base and changed model are about different samples")
    parts = [
        (leakage.samples, _leakage_columns(leakage)),
        (relevant.samples, _shift_columns(relevant)),
        (base.samples, np.hstack([base.columns, changed.columns])),
    ]
    columns = _side_by_side(parts)
    ends = np.cumsum([part.shape[1] for _, part in parts])[:-1]

    def statistic(sums: Sums) -> Values:
        leaking, shifting, writing = np.split(sums, ends, axis=1)
        values = [reduction_of_sums(leaking), retention_of_sums(shifting), fluency_of_sums(writing)[:, :1]]
        found = np.hstack(values)
        return np.hstack([found, harmonic_mean(found)[:, None]])

    return Selectivity(*estimates(columns, statistic, seed=seed, draws=draws))


def harmonic_mean(parts: Float[np.ndarray, "rows parts"]) -> Float[np.ndarray, " rows"]:
    """Compute the harmonic mean of parts clipped to [0, 1]; 0 where one is 0, NaN where one is NaN."""
    clipped = np.clip(parts, 0, 1)
    with np.errstate(divide="ignore"):
        return parts.shape[1] / (1 / clipped).sum(axis=1)


def reduction_of_sums(sums: Sums) -> Values:
    """Compute the leakage reduction from the sums of what both models contribute to auc_el."""
    base, mitigated = _both(sums)
    return 1 - _over_positive(mitigated - 0.5, base - 0.5)


def retention_of_sums(sums: Sums) -> Values:
    """Compute the retention from the sums of what both models contribute to the mean valence shift."""
    base, mitigated = _both(sums)
    return _over_positive(mitigated, base)


def _over_positive(numerator: Values, denominator: Values) -> Values:
    """Divide where the denominator is above 0; elsewhere the ratio means nothing and is NaN."""
    return divide(numerator, np.where(denominator > 0, denominator, 0.0))


def _both(sums: Sums) -> tuple[Values, Values]:
    base, mitigated = np.split(sums, 2, axis=1)
    return ratios_of_sums(base), ratios_of_sums(mitigated)


def _leakage_columns(pair: Pair) -> Sums:
    sides = (pair.base, pair.mitigated)
    return np.hstack([ratio_columns([overall_leakage(scores, pairing="all")]) for scores in sides])


def _shift_columns(pair: Pair) -> Sums:
    """Take only samples for which both models have a shift: a mean over others would not be a retention."""
    shifts = [valence_shifts(scores)["valence_shift"] for scores in (pair.base, pair.mitigated)]
    missing = np.isnan(shifts[0]) | np.isnan(shifts[1])
    return np.hstack([ratio_columns([UnitRatio.mean_of(np.where(missing, np.nan, shift))]) for shift in shifts])


def _side_by_side(parts: Sequence[tuple[Sequence[str], Sums]]) -> Sums:
    """Put the columns of several sets side by side over the union of their units, with zeros where a unit has none."""
    place: Mapping[str, int] = {unit: i for i, unit in enumerate(dict.fromkeys(u for units, _ in parts for u in units))}
    blocks = []
    for units, columns in parts:
        block = np.zeros((len(place), columns.shape[1]))
        block[[place[unit] for unit in units]] = columns
        blocks.append(block)
    return np.hstack(blocks)
