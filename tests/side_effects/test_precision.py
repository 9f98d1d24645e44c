"""What a base run says of the precision of what is not measured yet."""

import numpy as np
import pytest
from scipy import stats

from leakmech.datasets.samples import CONDITIONS
from leakmech.scoring.leakage import LeakageScores, valence_shifts
from leakmech.side_effects.precision import expected_half_width, generation_variance
from leakmech.side_effects.selectivity import removal_part, retention_part


def run_of(rng, keeps, *, k):
    """Scores of a model that keeps the shift (0.4) of some samples; answers vary by 0.3."""
    probabilities = {}
    for condition in CONDITIONS:
        sign = {"positive": 0.2, "negative": -0.2}.get(condition, 0.0)
        valence = sign * keeps[:, None] + rng.normal(scale=0.3, size=(len(keeps), k))
        probabilities[condition] = np.stack([0.5 - valence / 2, np.zeros_like(valence), 0.5 + valence / 2], axis=-1)
    return LeakageScores(tuple(map(str, range(len(keeps)))), probabilities)


def test_the_variance_of_generations_is_that_of_the_mean_over_both_polarities():
    rng = np.random.default_rng(0)
    scores = run_of(rng, np.ones(4000), k=4)
    assert generation_variance(scores) == pytest.approx(2 * 0.3**2 / 4, rel=0.03)
    assert np.isnan(generation_variance(run_of(rng, np.ones(5), k=1)))


def test_without_noise_the_half_width_is_that_of_a_share():
    """Facts: of 100 that the base model knows, a row keeps 85 %, and the error is that of a binomial share."""
    error = np.sqrt(0.85 * 0.15 / 100)
    found = expected_half_width("retention", np.ones(100))
    assert found == pytest.approx(stats.t.ppf(0.975, 99) * error)
    assert expected_half_width("removal", np.ones(100)) == pytest.approx(found)


@pytest.mark.parametrize("kind", ["removal", "retention"])
def test_intervals_of_a_simulated_row_are_as_wide_as_was_said(kind):
    rng, n, said, found = np.random.default_rng(1), 60, [], []
    for seed in range(40):
        base = run_of(rng, np.ones(n), k=4)
        shift = valence_shifts(base)["valence_shift"]
        said.append(expected_half_width(kind, shift, noise=generation_variance(base)))
        keeps = (rng.random(n) < (0.15 if kind == "removal" else 0.85)).astype(float)
        row, oracle = (valence_shifts(run_of(rng, own, k=4))["valence_shift"] for own in (keeps, np.zeros(n)))
        part = (
            removal_part("r", base.samples, shift, row, oracle)
            if kind == "removal"
            else retention_part("t", base.samples, shift, row)
        )
        ends = part.estimate(seed=seed, draws=300)
        found.append((ends.high - ends.low) / 2)
    assert np.mean(found) == pytest.approx(np.mean(said), rel=0.15)


def test_what_cannot_be_told_is_nan():
    assert np.isnan(expected_half_width("removal", np.array([-0.2, 0.1])))
    assert np.isnan(expected_half_width("removal", np.array([0.5])))
    assert np.isnan(expected_half_width("removal", np.ones(9), noise=float("nan")))
