"""Selectivity: does a mitigation take out the leakage, only that, and no more than that?

    removal             R = (D_base - D_row) / (D_base - D_oracle)      on the leakage set; the oracle has no injection
    retention           T = D_row / D_base                              on relevant affect; of facts, the accuracy ratio
    fluency             F                                               :mod:`leakmech.side_effects.fluency`
    charged             c(x) = 1 - |1 - x|, clipped to [0, 1]           overshooting costs as much as falling short
    selectivity         S = n / sum_i 1/c(x_i)                          the harmonic mean over all n parts

D is a mean over samples: of the topic-free valence shift or of the tilt shift (two removals), of the valence shift
where affect is relevant, of right answers to facts. Each ratio is taken over the samples that all its models have, so
that it never compares different samples. S is 0 as soon as one part is, and 1 only for a model that answers irrelevant
affect as if it were not there, relevant affect and facts as before, and writes as well.

Comparisons of version 1 of the table had another selectivity: over the leakage reduction of auc_el,
1 - (auc_el(row) - 1/2) / (auc_el(base) - 1/2), one retention and fluency, each only clipped to [0, 1].

A ratio means nothing where its denominator is not above 0. Where that is so in more than RARELY of the resamples, the
shift that it is a share of is not shown, and the ratio has no interval: those of the other resamples alone would be too
narrow, and so would that of the selectivity be.

Intervals come from a bootstrap that draws samples, with everything that all models and all sets have of them: samples
of the same id are one unit. A unit that a set does not have says nothing about that set and still takes part in the
resampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.scoring.leakage import LeakageScores, PerSample, overall_leakage, valence_shifts
from leakmech.scoring.statistics import DRAWS, divide, ratio_columns, ratios_of_sums
from leakmech.side_effects.equivalence import Estimate, estimate, estimates
from leakmech.side_effects.fluency import AnswerQuality, fluency_of_sums, quality_columns

RARELY = 0.025
"""The most resamples in which a ratio may be undefined for its interval to be told: those below a 95 % interval."""

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


@dataclass(frozen=True, eq=False)
class Part:
    """One part of selectivity, before sums are taken.

    Attributes
    ----------
    name
        Its column of a table.
    units
        Ids of what is resampled.
    columns
        What each unit adds to the sums.
    value
        Sums, row by row, to values of shape (rows, 1); NaN where it is not defined.
    """

    name: str
    units: tuple[str, ...]
    columns: Sums
    value: Callable[[Sums], Values]

    def total(self) -> float:
        """Compute the part alone, over all units."""
        return float(self.value(self.columns.sum(axis=0)[None])[0, 0])

    def estimate(self, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
        """Compute the part alone, with its interval."""
        return estimates(self.columns, self.value, seed=seed, draws=draws, most_undefined=RARELY)[0]


def removal_part(name: str, units: Sequence[str], base: PerSample, row: PerSample, oracle: PerSample) -> Part:
    """Make the share of a shift that is gone, in units of what the oracle takes out.

    The three hold the shift of every unit, NaN where a model has none. It is 1 where as much is left as under the
    oracle, 0 where there is as much as before, above 1 where the sign has turned, and NaN where the oracle lowers
    nothing.
    """
    return Part(name, tuple(units), _together(base, row, oracle), removal_of_sums)


def oracle_is_shown(removal: Part, *, seed: int = 0, draws: int = DRAWS) -> bool:
    """Whether the oracle is shown to lower the shift; a share of what it takes out means nothing otherwise."""
    taken = removal.columns[:, [0]] - removal.columns[:, [2]]
    return estimate(taken, lambda sums: sums, seed=seed, draws=draws).low > 0


def retention_part(name: str, units: Sequence[str], base: PerSample, row: PerSample) -> Part:
    """Make the ratio of two means over the units that have both; NaN where the base model's is not above 0."""
    return Part(name, tuple(units), _together(base, row), kept_of_sums)


def shift_part(name: str, pair: Pair) -> Part:
    """Make the retention of the valence shift."""
    base, row = (valence_shifts(scores)["valence_shift"] for scores in (pair.base, pair.mitigated))
    return retention_part(name, pair.samples, base, row)


def reduction_part(pair: Pair) -> Part:
    """Make the leakage reduction of auc_el."""
    return Part("leakage_reduction", pair.samples, _leakage_columns(pair), reduction_of_sums)


def fluency_part(base: AnswerQuality, changed: AnswerQuality, free: AnswerQuality | None = None) -> Part:
    """Make the fluency of a changed model's answers on the leakage set (:mod:`leakmech.side_effects.fluency`)."""
    columns = quality_columns(base, changed, free)
    return Part("fluency", base.samples, columns, lambda sums: fluency_of_sums(sums)[:, :1])


def leakage_reduction(pair: Pair, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Compute the leakage reduction over positive and negative prompts; NaN where the base model does not leak.

    It is 1 where no leakage is left, 0 where there is as much as before, and below 0 where there is more.
    """
    return reduction_part(pair).estimate(seed=seed, draws=draws)


def retention(pair: Pair, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
    """Divide the mitigated model's valence shift by the base model's; NaN where the latter is not above 0.

    It is 1 for a model that is as responsive to relevant affect as before, 0 for one that is tone-deaf.
    """
    return shift_part("retention", pair).estimate(seed=seed, draws=draws)


def charged(parts: Values) -> Values:
    """Charge for falling short of 1 and for overshooting alike."""
    return np.clip(1 - np.abs(1 - parts), 0, 1)


def clipped(parts: Values) -> Values:
    """Charge for falling short of 1 only, as in version 1 of the table."""
    return np.clip(parts, 0, 1)


def selectivity(
    parts: Sequence[Part], *, charge: Callable[[Values], Values] = charged, seed: int = 0, draws: int = DRAWS
) -> dict[str, Estimate]:
    """Compute all parts, as they are, and the harmonic mean of what `charge` makes of them, as ``selectivity``.

    All come from one set of resamples. A part that is NaN leaves no selectivity.
    """
    columns = _side_by_side([(part.units, part.columns) for part in parts])
    ends = np.cumsum([part.columns.shape[1] for part in parts])[:-1]

    def statistic(sums: Sums) -> Values:
        own = np.split(sums, ends, axis=1)
        found = np.hstack([part.value(sums) for part, sums in zip(parts, own, strict=True)])
        return np.hstack([found, harmonic_mean(charge(found))[:, None]])

    names = [*(part.name for part in parts), "selectivity"]
    found = estimates(columns, statistic, seed=seed, draws=draws, most_undefined=RARELY)
    return dict(zip(names, found, strict=True))


def flat(found: Mapping[str, Estimate]) -> dict[str, float | None]:
    """Give ``<name>``, ``<name>_low`` and ``<name>_high`` of each, ready for a row of a table; None stands for NaN."""
    return {
        name if end == "value" else f"{name}_{end}": number
        for name, one in found.items()
        for end, number in one.to_dict().items()
    }


def harmonic_mean(parts: Float[np.ndarray, "rows parts"]) -> Float[np.ndarray, " rows"]:
    """Compute the harmonic mean of parts clipped to [0, 1]; 0 where one is 0, NaN where one is NaN."""
    with np.errstate(divide="ignore"):
        return parts.shape[1] / (1 / clipped(parts)).sum(axis=1)


def reduction_of_sums(sums: Sums) -> Values:
    """Compute the leakage reduction from the sums of what both models contribute to auc_el."""
    base, mitigated = _both(sums)
    return 1 - _over_positive(mitigated - 0.5, base - 0.5)


def removal_of_sums(sums: Sums) -> Values:
    """Compute the removal from the sums of three models' shifts: base, row, oracle."""
    base, row, oracle = (sums[:, [column]] for column in range(3))
    return _over_positive(base - row, base - oracle)


def kept_of_sums(sums: Sums) -> Values:
    """Compute the retention from the sums of two models' values: base, row."""
    return _over_positive(sums[:, [1]], sums[:, [0]])


def _over_positive(numerator: Values, denominator: Values) -> Values:
    """Divide where the denominator is above 0; elsewhere the ratio means nothing and is NaN."""
    return divide(numerator, np.where(denominator > 0, denominator, 0.0))


def _both(sums: Sums) -> tuple[Values, Values]:
    base, mitigated = np.split(sums, 2, axis=1)
    return ratios_of_sums(base), ratios_of_sums(mitigated)


def _leakage_columns(pair: Pair) -> Sums:
    sides = (pair.base, pair.mitigated)
    return np.hstack([ratio_columns([overall_leakage(scores, pairing="all")]) for scores in sides])


def _together(*models: PerSample) -> Sums:
    """Put the values of several models side by side, all 0 for a unit of which one of them has none."""
    values = np.stack([np.asarray(model, np.float64) for model in models], axis=1)
    return np.where(np.isfinite(values).all(axis=1, keepdims=True), values, 0.0)


def _side_by_side(parts: Sequence[tuple[Sequence[str], Sums]]) -> Sums:
    """Put the columns of several sets side by side over the union of their units, with zeros where a unit has none."""
    place: Mapping[str, int] = {unit: i for i, unit in enumerate(dict.fromkeys(u for units, _ in parts for u in units))}
    blocks = []
    for units, columns in parts:
        block = np.zeros((len(place), columns.shape[1]))
        block[[place[unit] for unit in units]] = columns
        blocks.append(block)
    return np.hstack(blocks)
