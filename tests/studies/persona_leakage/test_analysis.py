"""Correlations over personas: right on planted data, honest under the null."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from leakmech.core.errors import UsageError
from leakmech.studies.persona_leakage.analysis import (
    Cell,
    held_out_rho,
    mean_rho_p,
    outliers,
    partial_spearman,
    permutation_p,
    permutations,
    rho_interval,
    spearman,
)

KINDS = [kind for kind, n in (("peer", 15), ("opposite", 10), ("tone", 5), ("cultural", 10)) for _ in range(n)]
N = len(KINDS)


def cell(change, similarity, *, left_out=(), behaviour="refusal", source="villain", seed=0):
    kept = np.ones(len(change), dtype=bool)
    kept[list(left_out)] = False
    return Cell(behaviour, source, seed, np.asarray(change, float), np.asarray(similarity, float), kept)


def test_spearman_is_that_of_scipy_and_leaves_out_whom_it_should():
    generator = np.random.default_rng(0)
    change, similarity = generator.normal(size=(2, N)).round(1)
    expected = stats.spearmanr(change, similarity).statistic
    assert spearman(change, similarity) == pytest.approx(expected)
    change[3], change[7] = 100, np.nan
    own = cell(change, similarity, left_out=[3])
    kept = np.setdiff1d(np.arange(N), [3, 7])
    assert own.rho == pytest.approx(stats.spearmanr(change[kept], similarity[kept]).statistic)
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))
    with pytest.raises(UsageError, match="has 2 bystanders"):
        cell([1, 2, 3], [1, 2, 3], left_out=[0])


def test_a_confound_goes_and_an_effect_stays():
    generator = np.random.default_rng(1)
    length = generator.normal(size=400)
    similarity = length + 0.3 * generator.normal(size=400)
    by_length = length + 0.3 * generator.normal(size=400)
    assert spearman(by_length, similarity) > 0.8
    assert abs(partial_spearman(by_length, similarity, length[:, None])) < 0.12
    real = similarity + 0.1 * generator.normal(size=400)
    assert partial_spearman(real, similarity, length[:, None]) > 0.8


def test_permutations_stay_within_kinds_and_shuffle_what_cells_share_alike():
    kinds, everyone = np.array(KINDS), np.ones(N, dtype=bool)
    orders = permutations(KINDS, everyone, draws=50, seed=0)
    assert (np.sort(orders, axis=1) == np.arange(N)).all()
    assert (kinds[orders] == kinds).all()
    assert len({tuple(order) for order in orders}) == 50
    without = everyone.copy()
    without[[0, 20]] = False
    fewer = np.flatnonzero(without)[permutations(KINDS, without, draws=50, seed=0)]
    assert (kinds[fewer] == kinds[without]).all()
    for order, own in zip(orders, fewer, strict=True):
        assert [n for n in order.tolist() if without[n]] == own.tolist()


def test_a_planted_rho_is_found_with_its_interval():
    generator = np.random.default_rng(2)
    cells = []
    similarity = generator.normal(size=N)
    for seed in range(3):
        cells.append(cell(similarity + 0.7 * generator.normal(size=N), similarity, seed=seed))
    p = permutation_p(cells, KINDS, draws=200)
    assert (p < 0.02).all()
    interval = rho_interval(cells, draws=300)
    true = stats.spearmanr(*(lambda x: (x, x + 0.7 * np.random.default_rng(3).normal(size=20_000)))(
        np.random.default_rng(4).normal(size=20_000))).statistic  # fmt: skip
    assert interval.low < true < interval.high
    assert interval.high - interval.low < 0.5
    with pytest.raises(UsageError, match="one behaviour and source"):
        rho_interval([cells[0], cell(similarity, similarity, source="comedian")])


def test_an_effect_of_kinds_alone_is_no_effect_of_similarity():
    generator = np.random.default_rng(5)
    style = {"peer": 0.0, "opposite": 3.0, "tone": 6.0, "cultural": 9.0}
    of_kind = np.array([style[kind] for kind in KINDS])
    own = cell(of_kind + generator.normal(size=N), of_kind + generator.normal(size=N))
    assert own.rho > 0.7  # it looks like one
    assert permutation_p([own], KINDS, draws=300)[0] > 0.05


def test_what_is_common_to_sources_and_behaviours_predicts_held_out_cells_and_noise_does_not():
    generator = np.random.default_rng(6)
    cells, features = [], {}
    for behaviour in ("refusal", "tone"):
        for source in ("villain", "comedian", "assistant"):
            x = generator.normal(size=(N, 2))
            features[behaviour, source] = x
            cells.append(
                cell(x[:, 0] + 0.5 * generator.normal(size=N), x[:, 0], behaviour=behaviour, source=source)
            )  # fmt: skip
    found = held_out_rho(cells, features)
    assert found is not None
    assert min(found) > 0.6
    noise = {key: generator.normal(size=(N, 2)) for key in features}
    assert abs(np.mean(held_out_rho(cells, noise) or [1])) < 0.25
    assert held_out_rho(cells[:3], features) is None


def test_outliers_are_named():
    change = np.linspace(0, 1, N)
    change[4] = 9
    assert outliers(cell(change, change), names=[f"p{n}" for n in range(N)]) == ["p4"]
    assert outliers(cell(np.zeros(N), change), names=["x"] * N) == []


@pytest.mark.slow
def test_p_is_uniform_and_holm_holds_under_a_null_in_which_sources_share_their_personas():
    """2,000 nulls: all changes share a part of the persona and of its kind, and no similarity has to do with it."""
    generator = np.random.default_rng(7)
    kinds = np.unique(KINDS, return_inverse=True)[1]
    p_values = np.empty((2_000, 2))
    for number in range(len(p_values)):
        persona = generator.normal(size=N) + 2 * generator.normal(size=4)[kinds]
        cells = []
        for source in ("villain", "comedian"):
            similarity = generator.normal(size=N) + 2 * generator.normal(size=4)[kinds]
            cells.append(cell(persona + 0.5 * generator.normal(size=N), similarity, source=source))
        p_values[number] = permutation_p(cells, KINDS, draws=39, seed=number)
    shares = [np.mean(p_values <= level) for level in (0.05, 0.1, 0.5)]
    assert shares[0] == pytest.approx(0.05, abs=0.012)
    assert shares[1] == pytest.approx(0.1, abs=0.015)
    assert shares[2] == pytest.approx(0.5, abs=0.03)
    assert np.mean(2 * p_values.min(axis=1) <= 0.05) <= 0.05 + 0.012  # Holm's first step


def test_the_p_of_a_mean_rho_shuffles_its_seeds_together():
    generator = np.random.default_rng(8)
    similarity = generator.normal(size=N)
    change = similarity + 3 * generator.normal(size=N)
    seeds = [cell(change, similarity, seed=seed) for seed in range(3)]
    # Seeds that are copies of each other say no more than one of them.
    assert mean_rho_p(seeds, KINDS, draws=199) == permutation_p(seeds[:1], KINDS, draws=199)[0]
    one_of_each = [f"kind {n}" for n in range(N)]
    assert np.isnan(mean_rho_p(seeds, one_of_each, draws=199))  # nothing to shuffle


def test_a_cell_without_others_to_learn_from_predicts_nothing():
    generator = np.random.default_rng(9)
    names = [("refusal", "villain"), ("refusal", "comedian"), ("refusal", "assistant"), ("tone", "villain")]
    features = {name: generator.normal(size=(N, 2)) for name in names}
    cells = [cell(generator.normal(size=N), features[name][:, 0], behaviour=name[0], source=name[1]) for name in names]
    found = held_out_rho(cells, features)
    assert found is not None
    assert np.isnan(found[0])
    assert not np.isnan(found[1:]).any()
