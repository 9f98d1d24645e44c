"""Where the variance of auc_el comes from: samples, test generations, control generations.

For one sample let phi_l(t, c) be 1, ½ or 0 as P_t[l] is above, equal to or below P_c[l]; the sample's auc_el is the
mean of phi over K test and K control generations and over l in {positive, negative}. The two prompts have generations
of their own and share those of the control. Hoeffding's decomposition of this two-sample U statistic gives

    Var = between + (test + control) / K + pair / K^2,    Var(auc_el over n samples) = Var / n,

with ``test`` = ¼ sum_l Var_t E_c phi_l, ``control`` = Var_c ½ sum_l E_t phi_l (so the covariance of the two prompts
that comes from their shared control is in it) and ``pair`` the interaction. All are estimated without bias from the
mean squares of the crossed K x K table of each sample; ``between`` is what the variance of the samples leaves.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import POLARITIES, Condition
from leakmech.scoring.leakage import LABELS, LeakageScores


@dataclass(frozen=True)
class VarianceComponents:
    """Variance components of a sample's auc_el (dimensionless; see the head of this module).

    Attributes
    ----------
    between
        Variance between samples, whose true auc_el differ.
    test, control
        Variance within a sample, over one test generation per prompt and over one control generation.
    pair
        Interaction of test and control generation.
    shared_control
        The part of `control` that is there because both prompts share their control; below 0 where a control sentence
        that makes leakage to positive look large makes leakage to negative look small.
    source
        Text that says where the numbers come from.
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
    """Variance components of auc_el of a scored run; negative estimates are set to 0, except `shared_control`.

    Generations that were not scored are left out of their row or column.
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
    with warnings.catch_warnings():  # a generation that was not scored is an empty row: its mean stays NaN
        warnings.filterwarnings("ignore", "Mean of empty slice")
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


def _comparisons(scores: LeakageScores, label: int, condition: Condition) -> Float[np.ndarray, "samples test control"]:
    """phi of every pair of a test and a control generation; NaN where either was not scored."""
    test = scores.probabilities[condition][:, :, label]
    control = scores.probabilities["control"][:, :, label]
    return (np.sign(test[:, :, None] - control[:, None, :]) + 1) / 2
