"""How far two expression estimators agree on the same generations.

The estimator that scores the generations may also have selected the injections (AEXL), and then its mistakes enter
twice. A second one that was made from other data shows how much of the leakage is the estimator's. Compared are the
classes (largest P), the valence s = P[positive] - P[negative], and what leakage is made of: the verdicts EL = [P_t[l] >
P_c[l]] of index pairs (paper, Eq. 1), for positive and negative injections.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import CONDITIONS, POLARITIES
from leakmech.scoring.leakage import LeakageScores, own_label, valence_of
from leakmech.scoring.statistics import DRAWS, UnitRatio, bootstrap_ratios, json_number


def estimator_agreement(
    first: LeakageScores, second: LeakageScores, *, seed: int, draws: int = DRAWS
) -> dict[str, Any]:
    """Agreement of two estimators on one run; None for what cannot be computed.

    ``class_*`` and ``valence_*`` are over the ``n`` generations that both have scored, ``el_*`` over ``n_pairs``.
    """
    if first.samples != second.samples or first.probabilities["control"].shape != second.probabilities["control"].shape:
        raise UsageError("estimator agreement: the two scores are not about the same generations")
    a, b = (np.concatenate([s.probabilities[c].reshape(-1, 3) for c in CONDITIONS]) for s in (first, second))
    both = ~(np.isnan(a).any(axis=1) | np.isnan(b).any(axis=1))
    a, b = a[both], b[both]
    classes = a.argmax(axis=1), b.argmax(axis=1)
    valences = [valence_of(p) for p in (a, b)]
    verdict_a, valid_a = _verdicts(first)
    verdict_b, valid_b = _verdicts(second)
    valid = valid_a & valid_b
    same = UnitRatio(((verdict_a == verdict_b) & valid).sum(axis=1, dtype=float), valid.sum(axis=1, dtype=float))
    interval = bootstrap_ratios(same.numerator[:, None], same.denominator[:, None], seed=seed, draws=draws)[0]
    return {
        "n": len(a),
        "class_agreement": json_number((classes[0] == classes[1]).mean() if len(a) else np.nan),
        "class_kappa": _kappa(*classes),
        "valence_spearman": _correlation(stats.spearmanr, *valences),
        "valence_pearson": _correlation(stats.pearsonr, *valences),
        "n_pairs": int(valid.sum()),
        "el_agreement": json_number(same.value),
        "el_agreement_ci": interval.to_json(),
        "el_kappa": _kappa(verdict_a[valid], verdict_b[valid]),
    }


def _verdicts(
    scores: LeakageScores,
) -> tuple[Bool[np.ndarray, "samples pairs"], Bool[np.ndarray, "samples pairs"]]:
    """EL of every index pair, positive then negative prompts of each sample, and which pairs are valid."""
    verdicts, valid = [], []
    for condition in POLARITIES:
        test, control = own_label(scores, condition)
        verdicts.append(test > control)
        valid.append(~(np.isnan(test) | np.isnan(control)))
    return np.hstack(verdicts), np.hstack(valid)


def _kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """Cohen's kappa; None where there is nothing, or where both say one thing throughout (chance agreement is 1)."""
    if len(a) == 0 or len(np.unique(np.concatenate([a, b]))) < 2:
        return None
    return json_number(float(cohen_kappa_score(a, b)))


def _correlation(statistic: Any, a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float | None:
    """A correlation; None where one of the two does not vary."""
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return json_number(float(statistic(a, b).statistic))
