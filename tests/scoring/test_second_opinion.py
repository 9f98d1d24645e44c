"""Agreement of two estimators on the same generations."""

import numpy as np
import pytest

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.second_opinion import estimator_agreement

SAMPLES = tuple(f"s{i}" for i in range(40))


def scores(seed, *, k=10, samples=SAMPLES):
    generator = np.random.default_rng(seed)
    return LeakageScores(
        samples, {condition: generator.dirichlet(np.ones(3), (len(samples), k)) for condition in CONDITIONS}
    )


def test_an_estimator_agrees_with_itself():
    found = estimator_agreement(scores(0), scores(0), seed=0, draws=200)
    for name in ("class_agreement", "class_kappa", "valence_spearman", "valence_pearson", "el_agreement", "el_kappa"):
        assert found[name] == pytest.approx(1.0)
    assert (found["n"], found["n_pairs"]) == (1600, 800)


def test_independent_estimators_agree_by_chance_only():
    found = estimator_agreement(scores(0), scores(1), seed=0, draws=500)
    assert abs(found["el_kappa"]) < 0.1
    assert abs(found["class_kappa"]) < 0.1
    assert abs(found["valence_spearman"]) < 0.1
    low, high = found["el_agreement_ci"]
    assert low < 0.5 < high


def test_the_verdicts_are_those_of_valid_index_pairs():
    first = {condition: np.tile([0.4, 0.3, 0.3], (1, 2, 1)) for condition in CONDITIONS}
    second = {condition: values.copy() for condition, values in first.items()}
    first["positive"][0] = [[0.1, 0.1, 0.8], [0.1, 0.1, 0.8]]  # both leak
    second["positive"][0] = [[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]]  # one leaks
    first["negative"][0, 0] = np.nan  # not scored; the other negative pair ties, which is no leakage, for both
    found = estimator_agreement(LeakageScores(("a",), first), LeakageScores(("a",), second), seed=0, draws=100)
    assert found["n_pairs"] == 3
    assert found["el_agreement"] == pytest.approx(2 / 3)
    assert found["n"] == 7


def test_what_does_not_vary_has_no_kappa_and_no_correlation():
    same = LeakageScores(("a", "b"), {condition: np.tile([0.2, 0.3, 0.5], (2, 2, 1)) for condition in CONDITIONS})
    found = estimator_agreement(same, same, seed=0, draws=100)
    assert found["class_kappa"] is None
    assert found["valence_spearman"] is None
    assert found["el_kappa"] is None
    assert found["el_agreement"] == 1.0


def test_scores_of_other_generations_are_refused():
    with pytest.raises(UsageError, match="not about the same generations"):
        estimator_agreement(scores(0), scores(0, k=3), seed=0)
