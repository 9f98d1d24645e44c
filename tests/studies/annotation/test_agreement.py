"""Agreement of raters: published examples, limits that every coefficient must reach, draws that match the libraries."""

import warnings

import krippendorff
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from leakmech.scoring import statistics
from leakmech.studies.annotation import agreement
from leakmech.studies.annotation.agreement import (
    chance_agreement,
    cohen,
    estimator_against_people,
    fleiss,
    krippendorff_alpha,
    majority,
    rater_agreement,
    raw_agreement,
)

NAN = np.nan
STEPS = (-2, -1, 0, 1, 2)
# Krippendorff (2011), Computing Krippendorff's alpha-reliability, section C: 4 observers, 12 units.
KRIPPENDORFF = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T
# Wikipedia, "Fleiss' kappa", worked example: how often 14 raters gave each of 5 categories to 10 subjects.
FLEISS = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


@pytest.mark.parametrize(("level", "value"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_own_example(level, value):
    assert krippendorff_alpha(KRIPPENDORFF, categories=(1, 2, 3, 4, 5), level=level) == pytest.approx(value, abs=5e-4)


def test_fleiss_kappa_of_the_worked_example():
    ratings = np.array([np.repeat(np.arange(5), row) for row in FLEISS], dtype=float)
    assert fleiss(ratings) == pytest.approx(0.210, abs=5e-4)


def test_cohens_kappa_of_the_worked_example():
    # Wikipedia, "Cohen's kappa": 50 grant proposals, yes/yes 20, yes/no 5, no/yes 10, no/no 15.
    first = np.repeat([1.0, 1.0, 0.0, 0.0], [20, 5, 10, 15])
    second = np.repeat([1.0, 0.0, 1.0, 0.0], [20, 5, 10, 15])
    assert cohen(first, second, categories=(0, 1)) == pytest.approx(0.4)
    both = np.stack([first, second], axis=1)
    chance = chance_agreement(both, (0, 1))
    assert chance["pairwise"] == chance["unanimous"] == pytest.approx(0.5)
    found = rater_agreement(both, categories=(0, 1), raters=("a", "b"), groups=range(50), seed=0, draws=200)
    assert found["pairwise_agreement"] == found["unanimous_agreement"] == pytest.approx(0.7)
    assert found["pairs"] == [
        {"n": 50, "agreement": 0.7, "kappa": pytest.approx(0.4), "weighted_kappa": pytest.approx(0.4)}
        | {"first": "a", "second": "b"}
    ]


def test_weighted_kappa_forgives_a_disagreement_by_one_step_and_counts_unused_steps():
    first, second = np.array([-2.0, -2, 2, 2, 0]), np.array([-2.0, -1, 2, 1, 0])
    plain, weighted = (
        cohen(first, second, categories=STEPS),
        cohen(first, second, categories=STEPS, weights="quadratic"),
    )
    assert plain == pytest.approx((0.6 - 0.2) / (1 - 0.2))
    assert weighted == pytest.approx(1 - 2 * 5 / ((first[:, None] - second[None, :]) ** 2).sum())


def test_majority_needs_more_than_half_of_the_votes_given():
    votes = np.array([[1, 1, 0], [1, 0, NAN], [0, 0, 1], [NAN, NAN, 1], [NAN, NAN, NAN]])
    assert np.array_equal(majority(votes), [1, NAN, 0, 1, NAN], equal_nan=True)


def test_raw_agreement_leaves_out_missing_ratings():
    parts = raw_agreement(np.array([[1, 1, 1], [1, 1, 0], [0, 0, NAN], [NAN, NAN, 1]]))
    assert parts["pairs"].tolist() == [3, 3, 1, 0]
    assert parts["equal"].tolist() == [3, 1, 1, 0]
    assert parts["complete"].tolist() == [1, 1, 0, 0]
    assert parts["unanimous"].tolist() == [1, 0, 0, 0]


def test_chance_agreement_follows_the_habits_of_the_raters():
    nine_in_ten = np.array([1.0] * 9 + [0.0])
    ratings = np.stack([nine_in_ten, nine_in_ten[::-1], nine_in_ten], axis=1)
    chance = chance_agreement(ratings, (0, 1))
    assert chance["pairwise"] == pytest.approx(0.82)
    assert chance["unanimous"] == pytest.approx(0.9**3 + 0.1**3)
    assert chance["pairwise_uniform"] == 0.5
    assert chance["unanimous_uniform"] == 0.25
    # Raw agreement of 0.80 that means nothing: what one rater says of an item, the other never confirms.
    found = rater_agreement(ratings[:, :2], categories=(0, 1), raters="ab", groups=range(10), seed=0, draws=100)
    assert found["pairwise_agreement"] == pytest.approx(0.8)
    assert found["fleiss_kappa"] < 0


@given(st.lists(st.sampled_from(STEPS), min_size=2, max_size=30), st.integers(2, 4))
def test_raters_that_always_agree_reach_one(ratings, n_raters):
    matrix = np.repeat(np.array(ratings, float)[:, None], n_raters, axis=1)
    settings = {"categories": STEPS, "raters": [str(i) for i in range(n_raters)], "groups": range(len(ratings))}
    found = rater_agreement(matrix, **settings, seed=0, draws=20)
    assert found["pairwise_agreement"] == found["unanimous_agreement"] == 1
    expected = pytest.approx(1) if len(set(ratings)) > 1 else None
    for value in (found["fleiss_kappa"], found["krippendorff_alpha"], found["pairs"][0]["kappa"]):
        assert value == expected


def test_independent_raters_are_near_zero_and_their_interval_covers_it():
    ratings = np.random.default_rng(1).choice(STEPS, p=[0.1, 0.1, 0.2, 0.2, 0.4], size=(2000, 3)).astype(float)
    found = rater_agreement(ratings, categories=STEPS, raters="abc", groups=range(2000), seed=0, draws=1000)
    assert abs(found["fleiss_kappa"]) < 0.03
    assert abs(found["krippendorff_alpha"]) < 0.03
    low, high = found["krippendorff_alpha_ci"]
    assert low < found["krippendorff_alpha"] < high
    assert low < 0 < high
    assert found["pairwise_agreement"] == pytest.approx(found["chance"]["pairwise"], abs=0.03)


def _statistic_of_the_draws(monkeypatch, call):
    """What `call` gives `bootstrap`: columns, one row a group, and a function of their sums."""
    seen = {}

    def keep(columns, statistic, **_):
        seen.update(columns=columns, statistic=statistic)
        return [None]

    for module in (agreement, statistics):
        monkeypatch.setattr(module, "bootstrap", keep)
    call()
    return seen["columns"], seen["statistic"]


@pytest.fixture
def resamples():
    """30 items in 12 groups, and some draws: counts of the groups and the items that they repeat."""
    generator = np.random.default_rng(5)
    groups = np.concatenate([np.arange(12), generator.integers(12, size=18)])
    counts = generator.multinomial(12, np.full(12, 1 / 12), size=40).astype(float)
    return generator, groups, counts, [np.repeat(np.arange(30), row.astype(int)[groups]) for row in counts]


def _expect(found, expected):
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def test_every_draw_of_alpha_is_the_librarys_alpha_of_the_resampled_items(monkeypatch, resamples):
    generator, groups, counts, items = resamples
    ratings = np.where(generator.random((30, 3)) < 0.2, NAN, generator.choice(STEPS, size=(30, 3)))
    ratings[:, 1] = np.where(generator.random(30) < 0.6, ratings[:, 0], ratings[:, 1])
    columns, statistic = _statistic_of_the_draws(
        monkeypatch, lambda: agreement.alpha_interval(ratings, categories=STEPS, groups=groups, seed=0)
    )
    expected = [
        krippendorff.alpha(ratings[rows].T, level_of_measurement="ordinal", value_domain=STEPS) for rows in items
    ]
    _expect(statistic(counts @ columns)[:, 0], expected)


def test_every_draw_of_auc_kappa_and_spearman_is_the_librarys_value_of_the_resampled_items(monkeypatch, resamples):
    generator, groups, counts, items = resamples
    x = generator.integers(6, size=30).astype(float)
    y = x + generator.integers(-3, 4, size=30)
    a, b = (x > 2).astype(float), (y > 2).astype(float)
    above, below = b == 1, b == 0
    intervals = {
        "auc": lambda: statistics.auc_interval(x[above], x[below], units=(groups[above], groups[below]), seed=0),
        "kappa": lambda: agreement.kappa_interval(a, b, groups=groups, seed=0),
        "spearman": lambda: agreement.spearman_interval(x, y, groups=groups, seed=0),
    }
    found = {}
    for name, interval in intervals.items():
        columns, statistic = _statistic_of_the_draws(monkeypatch, interval)
        found[name] = statistic(counts @ columns)[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _expect(found["auc"], [roc_auc_score(b[rows], x[rows]) for rows in items])
        _expect(found["kappa"], [cohen_kappa_score(a[rows], b[rows]) for rows in items])
        _expect(found["spearman"], [stats.spearmanr(x[rows], y[rows]).statistic for rows in items])


def test_items_of_one_group_are_resampled_together():
    ratings = np.repeat(np.random.default_rng(2).choice([0.0, 1.0], size=(40, 2)), 5, axis=0)
    width = {}
    for name, groups in (("items", range(200)), ("groups", np.repeat(np.arange(40), 5))):
        low, high = rater_agreement(ratings, categories=(0, 1), raters="ab", groups=groups, seed=0, draws=500)[
            "krippendorff_alpha_ci"
        ]
        width[name] = high - low
    assert width["groups"] == pytest.approx(width["items"] * 5**0.5, rel=0.15)


def test_an_estimator_that_follows_people_agrees_with_them_and_its_opposite_does_not():
    rating = np.repeat([-2.0, -1.0, 0.0, 1.0, 2.0], 8)
    verdict = (rating > 0).astype(float)
    verdict[[0, 39]] = NAN
    people = {"verdict": verdict, "mean_rating": rating, "groups": range(40), "seed": 0, "draws": 300}
    good = estimator_against_people(difference=rating / 4, valence_difference=rating / 2, **people)
    assert (good["n"], good["n_rated"]) == (38, 40)
    assert good["auc"] == good["agreement"] == good["kappa"] == 1
    assert good["spearman"] == pytest.approx(1)
    assert good["auc_ci"] == [1, 1]
    bad = estimator_against_people(difference=-rating / 4, valence_difference=-rating / 2, **people)
    assert bad["auc"] == 0
    assert bad["spearman"] == pytest.approx(-1)
    assert bad["kappa"] < 0


def test_what_cannot_be_computed_is_none_and_not_a_number():
    nothing = np.full(4, NAN)
    found = estimator_against_people(
        difference=np.ones(4), valence_difference=np.ones(4), verdict=nothing, mean_rating=nothing,
        groups=range(4), seed=0, draws=50,
    )  # fmt: skip
    assert {name: value for name, value in found.items() if value is not None} == {"n": 0, "n_rated": 0}
    lonely = np.array([[1, NAN], [NAN, 1.0]])
    found = rater_agreement(lonely, categories=(0, 1), raters="ab", groups=range(2), seed=0, draws=50)
    assert found["n_complete"] == 0
    assert found["pairwise_agreement"] is found["fleiss_kappa"] is found["krippendorff_alpha"] is None
    assert found["chance"]["pairwise"] is None
    assert found["pairs"][0] == {"n": 0, "agreement": None, "kappa": None, "weighted_kappa": None} | {
        "first": "a",
        "second": "b",
    }
