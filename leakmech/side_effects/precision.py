"""How precise will a removal or a retention be? Said from the base run alone, before anything else is measured.

Let s_i be the base model's shift of sample i of n, D their mean, and v the variance that the generations give to one
sample's shift: the variance among the answers to each polarity's prompt over their number, summed over both and
averaged over samples (0 for what is not sampled: tilt, facts). A row whose true value is x is taken to have noise of
the same size, and to keep the whole shift of some samples and nothing of the others, which of all effects between 0
and 1 gives the widest interval:

    removal      se^2 = (x (1 - x) E + ((1 - x)^2 + 1 + x^2) v) / (n D^2),      E = max(mean s_i^2 - v, 0)
    retention    se^2 = (x (1 - x) E + (1 + x^2) v) / (n D^2)

by the delta method, with the oracle's shift 0 and noise like any other's. The half-width is se times the quantile of t
with n - 1 degrees of freedom. Runs share their draws, so what is measured is rather narrower.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import special

from leakmech.datasets.samples import POLARITIES
from leakmech.scoring.leakage import LeakageScores, PerSample, valence_of
from leakmech.scoring.statistics import LEVEL

AT = 0.85
"""The value at which a half-width is told: what a mitigation should reach."""


def generation_variance(scores: LeakageScores) -> float:
    """Compute the mean variance that generations give to one sample's valence shift; NaN for a single generation."""
    total = 0.0
    for polarity in POLARITIES:
        values = valence_of(scores.probabilities[polarity])
        number = np.isfinite(values).sum(axis=1)
        several = values[number > 1]
        if not len(several):
            return float("nan")
        total += float((np.nanvar(several, axis=1, ddof=1) / number[number > 1]).mean())
    return total


def expected_half_width(
    kind: Literal["removal", "retention"], shifts: PerSample, *, noise: float = 0.0, at: float = AT
) -> float:
    """Compute the half-width to be expected of a 95 % interval around `at`.

    `shifts` are the base model's, NaN for samples without one, and `noise` is v of the head of this module. NaN where
    the base model's mean is not above 0, or the noise is not known.
    """
    known = shifts[np.isfinite(shifts)]
    n = len(known)
    if n < 2 or known.mean() <= 0:
        return float("nan")
    own = max(float((known**2).mean()) - noise, 0.0)
    sides = (1 - at) ** 2 + 1 + at**2 if kind == "removal" else 1 + at**2
    error = np.sqrt((at * (1 - at) * own + sides * noise) / n) / known.mean()
    return float(special.stdtrit(n - 1, (1 + LEVEL) / 2) * error)
