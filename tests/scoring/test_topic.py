"""Which answers are about the injection, and what is left of leakage without them."""

from __future__ import annotations

import numpy as np
import pytest

from leakmech.datasets.samples import CONDITIONS, INJECTIONS, PromptSet, Sample
from leakmech.scoring.leakage import LeakageScores
from leakmech.scoring.topic import (
    MOST_INJECTIONS,
    Injections,
    on_injection,
    shares_content_word,
    too_few,
    topic_curve,
    topic_statistics,
    without_topic,
)


def data_set(n):
    return PromptSet(
        "made", tuple(Sample(f"s{i}", f"Stem {i} is", f"Good {i}.", f"So {i}.", f"Bad {i}.") for i in range(n))
    )


class OneHot:
    """A unit vector of its own for every different text that was ever seen."""

    def __init__(self, dimension):
        self.dimension, self.place = dimension, {}

    def __call__(self, texts):
        places = [self.place.setdefault(text, len(self.place)) for text in texts]
        return np.eye(self.dimension)[places]


class TestRanks:
    def test_an_answer_that_repeats_its_injection_has_the_first_rank(self):
        encoder = OneHot(200)
        injections = Injections.of(data_set(40), encoder)
        own = ["Good 3.", "Good 7."]
        ranks = injections.ranks(encoder(["Good 3.", "Good 9."]), encoder(own), own, "positive")
        assert ranks.tolist() == [1 / 40, 2 / 40]  # the second answer repeats another one's injection

    def test_equal_similarity_is_not_nearer(self):
        encoder = OneHot(200)
        injections = Injections.of(data_set(40), encoder)
        assert injections.ranks(encoder(["unlike all"]), encoder(["Good 1."]), ["Good 1."], "positive").tolist() == [
            1 / 40
        ]

    def test_an_injection_that_was_not_drawn_is_ranked_among_those_that_were(self):
        encoder = OneHot(2000)
        injections = Injections.of(data_set(300), encoder)
        assert len(injections.texts["negative"]) == MOST_INJECTIONS
        absent = next(f"Bad {i}." for i in range(300) if f"Bad {i}." not in injections.texts["negative"])
        ranks = injections.ranks(encoder([absent]), encoder([absent]), [absent], "negative")
        assert ranks.tolist() == [1 / (MOST_INJECTIONS + 1)]

    def test_the_draw_depends_on_the_content_only(self):
        drawn = [Injections.of(PromptSet(name, data_set(300).samples), OneHot(2000)).texts for name in ("a", "b")]
        assert drawn[0] == drawn[1]

    def test_by_chance_one_answer_in_twenty_is_on_the_injection(self):
        generator = np.random.default_rng(0)

        def encoder(texts):
            rows = generator.normal(size=(len(texts), 24))
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

        samples = data_set(100)
        injections = Injections.of(samples, encoder)
        own = [sample.positive for sample in samples] * 40
        rows = np.tile(injections.rows["positive"][[injections.texts["positive"].index(t) for t in own[:100]]], (40, 1))
        share = (injections.ranks(encoder(own), rows, own, "positive") <= 0.05).mean()
        assert share == pytest.approx(0.05, abs=0.011)  # three standard errors

    def test_too_few_injections_give_no_rank_and_a_reason(self):
        assert Injections.of(data_set(19), OneHot(100)) is None
        assert too_few(data_set(19)) == "made has 19 different injections of a class; topic needs 20 to rank among"
        assert too_few(data_set(20)) is None


def simulated(*, n=120, k=8, affect, topic, seed=0):
    """Scores and ranks: `affect` moves every charged answer, `topic` those on the injection (half of them)."""
    generator = np.random.default_rng(seed)
    probabilities, ranks = {}, {}
    for condition in CONDITIONS:
        on_it = generator.random((n, k)) < (0.5 if topic and condition in INJECTIONS else 0.05)
        sign = {"positive": 1, "negative": -1}.get(condition, 0)
        valence = generator.normal(size=(n, k)) + sign * (affect + np.where(on_it, topic, 0.0))
        positive = 1 / (1 + np.exp(-valence))
        probabilities[condition] = np.stack([(1 - positive) * 0.8, np.full((n, k), 0.2), positive * 0.8], axis=-1)
        ranks[condition] = np.where(on_it, 1 / n, generator.uniform(0.06, 1.0, size=(n, k)))
    return LeakageScores(tuple(f"s{i}" for i in range(n)), probabilities), ranks


class TestSimulation:
    def test_affect_without_topic_is_not_dropped(self):
        scores, ranks = simulated(affect=0.8, topic=0.0)
        found = topic_statistics(scores, on_injection(ranks), seed=0, draws=500)
        everything = topic_statistics(scores, on_injection(ranks, share=0.0), seed=0, draws=500)
        assert found["topic_rate"] == pytest.approx(0.05, abs=0.02)
        assert found["topic_free"]["auc_el"] == pytest.approx(everything["topic_free"]["auc_el"], abs=0.01)
        assert found["topic_free"]["auc_el_ci"][0] > 0.6

    def test_topic_without_affect_leaves_topic_free_leakage_at_its_null(self):
        scores, ranks = simulated(affect=0.0, topic=2.0)
        everything = topic_statistics(scores, on_injection(ranks, share=0.0), seed=0, draws=500)["topic_free"]
        found = topic_statistics(scores, on_injection(ranks), seed=0, draws=500)
        free = found["topic_free"]
        assert found["topic_rate"] == pytest.approx(0.5, abs=0.05)
        assert everything["auc_el_ci"][0] > 0.6
        assert free["auc_el_ci"][0] < 0.5 < free["auc_el_ci"][1]
        assert free["valence_shift_ci"][0] < 0 < free["valence_shift_ci"][1]
        assert free["contrast_ci"][0] < 0 < free["contrast_ci"][1]

    def test_the_curve_falls_to_the_null_where_topic_is_all(self):
        scores, ranks = simulated(affect=0.0, topic=2.0)
        curve = topic_curve(scores, ranks, seed=0, draws=500)
        assert [row["share"] for row in curve] == [0.02, 0.03, 0.05, 0.1, 0.2]
        assert all(row["auc_el"] == pytest.approx(0.5, abs=0.03) for row in curve)
        assert all(row["auc_el_ci"][0] < 0.5 < row["auc_el_ci"][1] for row in curve)
        assert all(row["contrast_ci"][0] < 0 < row["contrast_ci"][1] for row in curve)
        assert [row["n"] for row in curve] == sorted((row["n"] for row in curve), reverse=True)

    def test_at_the_chosen_threshold_the_curve_says_what_topic_free_says(self):
        scores, ranks = simulated(affect=0.4, topic=1.0, n=40)
        [row] = [row for row in topic_curve(scores, ranks, seed=3, draws=300) if row["share"] == 0.05]
        found = topic_statistics(scores, on_injection(ranks), seed=3, draws=300)
        assert row["topic_rate_ci"] == pytest.approx(found["topic_rate_ci"])
        for name in ("auc_el", "auc_el_ci", "contrast", "contrast_ci", "valence_shift", "valence_shift_ci", "n"):
            assert row[name] == pytest.approx(found["topic_free"][name])


def test_a_dropped_answer_takes_part_in_nothing():
    scores, ranks = simulated(affect=0.0, topic=0.0, n=30)
    flags = on_injection(ranks)
    left = without_topic(scores, flags)
    for condition in CONDITIONS:
        assert np.array_equal(np.isnan(left.probabilities[condition]).all(axis=-1), flags[condition])
    n = sum(int((~flags[name]).sum()) for name in ("positive", "negative"))
    assert topic_statistics(scores, flags, seed=0, draws=100)["topic_free"]["n"] == n


def test_a_sample_whose_answers_are_all_dropped_says_nothing():
    scores, ranks = simulated(affect=0.5, topic=0.0, n=25)
    everything = {condition: np.zeros_like(own) for condition, own in ranks.items()}
    found = topic_statistics(scores, on_injection(everything), seed=0, draws=100)
    assert found["topic_rate"] == 1.0
    assert found["topic_free"].pop("n") == 0
    assert set(found["topic_free"].values()) == {None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Her keys are gone.", True),
        ("Her passion is music.", False),
        ("I lost.", True),
        ("The way home is long.", False),
    ],
)
def test_content_words_of_the_injection(text, expected):
    assert shares_content_word(text, "I lost my keys on the way here.", besides=("The way is long.",)) is expected
