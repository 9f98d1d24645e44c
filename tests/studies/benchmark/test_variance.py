from __future__ import annotations

import warnings

import numpy as np
import pytest

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.leakage import LeakageScores, overall_leakage
from leakmech.studies.benchmark.variance import variance_components


def _scores(generator, *, n, k, between=0.6, missing=0.0):
    """Scores in which P[positive] rises where P[negative] falls, as answers are glad or sad."""
    leakage, stem = generator.normal(0.5, between, size=n), generator.normal(size=n)
    sign = {"positive": 1, "negative": -1}

    def probabilities(condition):
        mean = stem + sign.get(condition, 0) * leakage
        glad = 1 / (1 + np.exp(-(mean[:, None] + generator.normal(size=(n, k)))))
        p = np.round(np.stack([0.8 * (1 - glad), np.full_like(glad, 0.2), 0.8 * glad], axis=-1), 2)
        p[generator.random((n, k)) < missing] = np.nan
        return p

    return LeakageScores(tuple(map(str, range(n))), {c: probabilities(c) for c in CONDITIONS})


def _variance_of_samples(generator, k):
    ratio = overall_leakage(_scores(generator, n=20_000, k=k), pairing="all")
    return (ratio.numerator / ratio.denominator).var(ddof=1)


def test_components_from_6_generations_predict_the_variance_with_2_and_with_25():
    generator = np.random.default_rng(0)
    found = variance_components(_scores(generator, n=20_000, k=6))
    for k in (2, 6, 25):
        assert found.per_sample(k) == pytest.approx(_variance_of_samples(generator, k), rel=0.04)


def test_samples_that_are_alike_have_no_variance_between_them_and_shared_controls_cancel():
    found = variance_components(_scores(np.random.default_rng(1), n=4000, k=5, between=0.0))
    assert found.between < 0.05 * found.per_sample(5)
    # A control answer that is sadder makes leakage to positive larger and leakage to negative smaller by the same.
    assert found.shared_control < -0.5 * found.test
    assert found.control < 0.3 * found.test


def test_generations_that_were_not_scored_leave_the_components_alone_and_warn_of_nothing():
    whole = variance_components(_scores(np.random.default_rng(2), n=5000, k=8))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        part = variance_components(_scores(np.random.default_rng(3), n=5000, k=8, missing=0.2))
    for name in ("between", "test", "pair"):
        assert getattr(part, name) == pytest.approx(getattr(whole, name), rel=0.1)


def test_a_run_that_is_too_small_is_refused():
    with pytest.raises(UsageError, match="at least two samples with two scored generations"):
        variance_components(_scores(np.random.default_rng(0), n=50, k=1))
    with pytest.raises(UsageError, match="found 1"):
        variance_components(_scores(np.random.default_rng(0), n=1, k=5))
