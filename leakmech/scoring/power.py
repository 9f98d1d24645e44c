"""Where the variance of auc_el comes from, and what power a number of samples and generations has.

For one sample let phi_l(t, c) be 1, ½ or 0 as P_t[l] is above, equal to or below P_c[l]; the sample's auc_el is the mean of
phi over K test and K control generations and over l in {positive, negative}. The two prompts have generations of their
own and share those of the control. Hoeffding's decomposition of this two-sample U statistic gives

    Var = between + (test + control) / K + pair / K^2,    Var(auc_el over n samples) = Var / n,

with ``test`` = ¼ sum_l Var_t E_c phi_l, ``control`` = Var_c ½ sum_l E_t phi_l (so the covariance of the two prompts that
comes from their shared control is in it) and ``pair`` the interaction. All are estimated without bias from the mean
squares of the crossed K x K table of each sample; ``between`` is what the variance of the samples leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from leakmech.errors import UsageError, nearest
from leakmech.prompts.samples import POLARITIES
from leakmech.reports.tables import Table
from leakmech.scoring.leakage import LABELS, LeakageScores

Against = Literal["runs", "chance"]
TARGET_POWER = 0.8
_MOST_SAMPLES = 1_000_000


@dataclass(frozen=True)
class VarianceComponents:
    """Variance components of a sample's auc_el (dimensionless; see the head of this module).

    Attributes
    ----------
    between
        Between samples: their true auc_el differ.
    test, control
        Within a sample, over one test generation per prompt and over one control generation.
    pair
        Interaction of test and control generation.
    shared_control
        The part of `control` that is there because both prompts share their control; below 0 where a control sentence
        that makes leakage to positive look large makes leakage to negative look small.
    source
        Where the numbers come from.
    """

    between: float
    test: float
    control: float
    pair: float
    shared_control: float
    source: str = ""

    def per_sample(self, generations: int) -> float:
        """Variance of one sample's auc_el with K = `generations`."""
        return self.between + self.within(generations)

    def within(self, generations: int) -> float:
        """Variance of one sample's auc_el over repeated generation of the same prompts."""
        return (self.test + self.control) / generations + self.pair / generations**2


def variance_components(scores: LeakageScores, *, source: str = "") -> VarianceComponents:
    """Variance components of auc_el of a scored run.

    Parameters
    ----------
    scores
        What was scored; generations that were not scored are left out of their row or column.
    source
        Text that says where the scores come from.

    Returns
    -------
    VarianceComponents
        Negative estimates are set to 0 (only `shared_control` can be negative).

    Raises
    ------
    UsageError
        Fewer than two samples have at least two scored generations in each of control, positive and negative.
    """
    tables = np.stack([_comparisons(scores, LABELS.index(condition), condition) for condition in POLARITIES])
    n_test = (~np.isnan(tables).all(axis=3)).sum(axis=2)
    n_control = (~np.isnan(tables[0]).all(axis=1)).sum(axis=1)
    usable = (n_test >= 2).all(axis=0) & (n_control >= 2)
    if usable.sum() < 2:
        raise UsageError(
            "variance components: at least two samples with two scored generations per prompt are needed, "
            f"found {int(usable.sum())}; run bench with more samples or --generations"
        )
    tables, n_test, n_control = tables[:, usable], n_test[:, usable], n_control[usable]
    row_means, column_means = np.nanmean(tables, axis=3), np.nanmean(tables, axis=2)
    means = np.nanmean(row_means, axis=2)
    residual = tables - row_means[..., None] - column_means[:, :, None, :] + means[..., None, None]
    pair = np.nansum(residual**2, axis=(2, 3)) / ((n_test - 1) * (n_control - 1))
    test = np.nanvar(row_means, axis=2, ddof=1) - pair / n_control
    control = np.nanvar(column_means.mean(axis=0), axis=1, ddof=1) - (pair / n_test).sum(axis=0) / 4
    own_control = (np.nanvar(column_means, axis=2, ddof=1) - pair / n_test).sum(axis=0) / 4
    within = (test / n_test + pair / (n_test * n_control)).sum(axis=0) / 4 + control / n_control
    between = means.mean(axis=0).var(ddof=1) - within.mean()
    return VarianceComponents(
        between=max(0.0, float(between)),
        test=max(0.0, float(test.sum(axis=0).mean() / 4)),
        control=max(0.0, float(control.mean())),
        pair=max(0.0, float(pair.sum(axis=0).mean() / 4)),
        shared_control=float((control - own_control).mean()),
        source=source,
    )


def _comparisons(scores: LeakageScores, label: int, condition: str) -> Float[np.ndarray, "samples test control"]:
    """phi of every pair of a test and a control generation; NaN where either was not scored."""
    test = scores.probabilities[condition][:, :, label]  # pyright: ignore[reportArgumentType] - a Condition
    control = scores.probabilities["control"][:, :, label]
    return (np.sign(test[:, :, None] - control[:, None, :]) + 1) / 2


@dataclass(frozen=True)
class PowerResult:
    """What a design can see; see :func:`power`.

    Attributes
    ----------
    power
        Probability of p < alpha in a two-sided t test over samples, in [0, 1].
    standard_error
        Of the estimated effect, in units of auc_el.
    samples_needed
        Fewest samples with a power of 0.8 for `effect`, the generations kept; None above a million.
    detectable_effect
        Smallest effect that this design sees with a power of 0.8.
    """

    effect: float
    samples: int
    generations: int
    against: Against
    alpha: float
    shared: float
    components: VarianceComponents
    power: float
    standard_error: float
    samples_needed: int | None
    detectable_effect: float

    def to_table(self) -> Table:
        """The answer and what it rests on."""
        c = self.components
        question = "difference between two runs" if self.against == "runs" else "difference of one run from 0.5"
        rows = [
            ("power", f"{self.power:.3f}"),
            ("standard error of auc_el" + (" difference" if self.against == "runs" else ""), f"{self.standard_error:.4f}"),
            ("smallest effect seen with a power of 0.8", f"{self.detectable_effect:.4f}"),
            ("samples needed for a power of 0.8", "–" if self.samples_needed is None else str(self.samples_needed)),
            ("variance between samples", f"{c.between:.5f}"),
            ("variance per test generation", f"{c.test:.5f}"),
            ("variance per control generation", f"{c.control:.5f}"),
            ("  of which by sharing the control", f"{c.shared_control:+.5f}"),
            ("variance per pair of generations", f"{c.pair:.5f}"),
        ]
        notes = [f"Variance components: {c.source or 'as given'}. Two-sided t test over samples, alpha {self.alpha:g}."]
        if self.against == "runs":
            notes.append(
                f"Two runs on the same samples with independent noise, sharing {self.shared:g} of the variance between "
                "samples; coupled seeds and small changes of the model share more, so that the power is then higher."
            )
        title = f"Power to see a {question} of {self.effect:g} in auc_el ({self.samples} samples x {self.generations} generations)"
        return Table(title=title, header=("quantity", "value"), rows=rows, notes=notes)


def power(
    effect: float,
    *,
    samples: int,
    generations: int,
    components: VarianceComponents | None = None,
    against: Against = "runs",
    shared: float = 0.5,
    alpha: float = 0.05,
) -> PowerResult:
    """Power of a two-sided t test over samples for an effect on auc_el, by the noncentral t distribution.

    Parameters
    ----------
    effect
        Difference of auc_el to be seen, not 0, at most 1 in absolute value.
    samples, generations
        The design: number of samples (at least 2) and K.
    components
        Where the variance comes from; default :data:`DEFAULT_COMPONENTS`.
    against
        ``runs``: a difference between two runs on the same samples. ``chance``: one run against 0.5.
    shared
        For ``runs``: the share, in [0, 1], of the variance between samples that both runs have in common and that
        pairing takes out; 1 when the change moves all samples alike.
    alpha
        Level, inside (0, 1).

    Raises
    ------
    UsageError
        A number is out of range.
    """
    _check_design(effect, samples, generations, shared, alpha)
    if against not in get_args(Against):
        raise UsageError(f"power: unknown comparison {against!r}{nearest(str(against), get_args(Against))}")
    components = components or DEFAULT_COMPONENTS
    variance = components.per_sample(generations)
    if against == "runs":
        variance = 2 * (1 - shared) * components.between + 2 * components.within(generations)
    deviation = float(np.sqrt(variance))
    return PowerResult(
        effect=effect,
        samples=samples,
        generations=generations,
        against=against,
        alpha=alpha,
        shared=shared,
        components=components,
        power=_t_power(abs(effect), deviation, samples, alpha),
        standard_error=deviation / np.sqrt(samples),
        samples_needed=_samples_needed(abs(effect), deviation, alpha),
        detectable_effect=_detectable(deviation, samples, alpha),
    )


def _check_design(effect: float, samples: int, generations: int, shared: float, alpha: float) -> None:
    if not 0 < abs(effect) <= 1:
        raise UsageError(f"power: effect must be a difference of auc_el, not 0 and inside [-1, 1]; found {effect}")
    if samples < 2 or generations < 1:
        raise UsageError(f"power: at least 2 samples and 1 generation are needed; found {samples} and {generations}")
    if not (0 <= shared <= 1 and 0 < alpha < 1):
        raise UsageError(f"power: shared must lie in [0, 1] and alpha inside (0, 1); found {shared} and {alpha}")


def _t_power(effect: float, deviation: float, samples: int, alpha: float) -> float:
    """Power of the two-sided one-sample t test."""
    if deviation == 0:
        return 1.0
    critical, shift = stats.t.isf(alpha / 2, samples - 1), effect * np.sqrt(samples) / deviation
    if shift > critical + 10:  # beyond it the noncentral t loses its digits, and the power is 1 to all digits shown
        shift = critical + 10
    found = stats.nct.sf(critical, samples - 1, shift) + stats.nct.cdf(-critical, samples - 1, shift)
    return float(np.clip(found, 0.0, 1.0))


def _samples_needed(effect: float, deviation: float, alpha: float) -> int | None:
    low, high = 1, 2
    while _t_power(effect, deviation, high, alpha) < TARGET_POWER:
        low, high = high, 2 * high
        if high > _MOST_SAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _t_power(effect, deviation, middle, alpha) >= TARGET_POWER else (middle, high)
    return high


def _detectable(deviation: float, samples: int, alpha: float) -> float:
    if deviation == 0:
        return 0.0
    unit = deviation / np.sqrt(samples)
    most = unit * (stats.t.isf(alpha / 2, samples - 1) * 3 + 10)
    root = optimize.brentq(lambda e: _t_power(e, deviation, samples, alpha) - TARGET_POWER, 0.0, most)
    return float(root)  # pyright: ignore[reportArgumentType] - a float unless full_output is asked for


DEFAULT_COMPONENTS = VarianceComponents(
    between=0.0, test=0.0, control=0.0, pair=0.0, shared_control=0.0,
    source="embedded:smollm2-135m-instruct on hexl, 60 samples x 10 generations, seed 0, echo-free",
)  # fmt: skip
"""Measured on one run of the embedded model: a stand-in until there is a run of the model in question."""
