"""Relevant affect: stems as in HEXL, injections of other words but equal length, person and strength."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.text import normalised_words
from leakmech.datasets.overlap import overlap
from leakmech.datasets.relevance import (
    label_agreement,
    match_statistics,
    matched_pairs,
    probe_auc,
    shared_injections,
)
from leakmech.datasets.samples import INJECTIONS, RELEVANT_DATASETS, PromptSet, Sample, load_dataset
from leakmech.scoring.expression import load_estimator
from leakmech.scoring.sentence import Cleaner, PromptText

FIRST_PERSON = {"i", "i'm", "me", "we", "us"}
ANSWERS = ("wonderful", "awful", "a disaster", "very good indeed", "not what I expected")

hexl = pytest.fixture(scope="module")(lambda: load_dataset("hexl"))
matched = pytest.fixture(scope="module")(lambda: load_dataset("relevant-matched"))
self_report = pytest.fixture(scope="module")(lambda: load_dataset("relevant-self"))
both = pytest.mark.parametrize("name", ["relevant-matched", "relevant-self"])
every = pytest.mark.parametrize("name", RELEVANT_DATASETS)


@pytest.fixture(scope="module")
def estimator():
    return load_estimator("embedded")


def compound(texts):
    """VADER's compound score, in [-1, 1]."""
    analyser = SentimentIntensityAnalyzer()
    return np.array([analyser.polarity_scores(text)["compound"] for text in texts])


def made(name, *rows):
    """A set of samples: (id, stem, source), with injections that name the set."""
    texts = [{c: f"{name} {c} {row[0]}." for c in INJECTIONS} for row in rows]
    return PromptSet(name, tuple(Sample(r[0], r[1], **t, source=r[2]) for r, t in zip(rows, texts, strict=True)))


# -- the sets that ship ----------------------------------------------------------------------------------------------


def test_every_hexl_stem_has_one_matched_sample_of_the_same_theme(matched, hexl):
    pairs = matched_pairs(matched, hexl)
    assert len(pairs) == 60
    assert all(ours.stem == theirs.stem and ours.theme == theirs.theme for ours, theirs in pairs)


def test_a_probe_that_sees_only_the_stem_is_exactly_at_chance(matched, self_report, hexl):
    ours, theirs, others = ([sample.stem for sample in samples] for samples in (matched, hexl, self_report))
    assert probe_auc(ours, theirs) == 0.5
    # The same probe does tell stems apart where they differ.
    assert probe_auc(others, theirs) > 0.9


def test_no_injection_stands_twice_in_any_set(matched, self_report, hexl):
    assert shared_injections(matched, hexl) == []
    assert shared_injections(self_report, hexl) == []
    assert shared_injections(self_report, matched) == []
    for samples in (matched, self_report):
        texts = [text for s in samples for text in (s.positive, s.neutral, s.negative)]
        assert len({text.lower() for text in texts}) == 3 * len(samples)


def test_an_injection_has_the_words_and_the_person_of_its_partner(matched, hexl):
    for ours, theirs in matched_pairs(matched, hexl):
        for condition in INJECTIONS:
            words, other = (normalised_words(sample.injection(condition)) for sample in (ours, theirs))
            assert len(words) == len(other), ours.id
            assert FIRST_PERSON.isdisjoint(words) == FIRST_PERSON.isdisjoint(other), ours.id


def test_strength_is_that_of_hexl_within_the_tolerance_of_the_data_card(matched, hexl, estimator):
    def valence(texts):
        found = estimator(texts)
        return found[:, 2] - found[:, 0]

    frame = match_statistics(matched, hexl, {"vader": compound, "valence": valence}).to_frame()
    strength = frame[frame["measure"] != "words"]
    assert len(strength) == 6
    assert (strength["difference"].abs() <= 0.05).all()
    assert (strength["mean_distance"] <= 0.20).all()


@both
def test_the_estimator_agrees_with_at_least_95_percent_of_the_labels(name, estimator):
    agreement = label_agreement(load_dataset(name), estimator)
    assert min(agreement.values()) >= 0.95


@both
def test_vader_never_contradicts_a_label(name):
    samples = load_dataset(name)
    assert (compound([s.positive for s in samples]) >= 0.05).all()
    assert (np.abs(compound([s.neutral for s in samples])) < 0.05).all()
    assert (compound([s.negative for s in samples]) <= 0.06).all()


def test_self_reports_are_about_the_speaker_and_equally_long_within_a_sample(self_report):
    assert len(self_report) == 40
    assert len({s.stem.lower() for s in self_report}) == 40
    for sample in self_report:
        words = [normalised_words(sample.injection(c)) for c in INJECTIONS]
        assert len({len(own) for own in words}) == 1, sample.id
        assert not any((FIRST_PERSON | {"my"}).isdisjoint(own) for own in words), sample.id


@every
def test_an_injection_makes_no_plain_answer_an_echo(name):
    cleaner = Cleaner()
    for sample in load_dataset(name):
        for condition in INJECTIONS:
            prompt = PromptText(sample.stem, sample.injection(condition), "Complete the sentence")
            assert overlap(sample.stem, sample.injection(condition)) < 0.25
            for answer in ANSWERS:
                text = f"{sample.stem} {answer}."
                assert cleaner.clean(text, prompt, "echo-free").text == f"{answer}.", (sample.id, condition)
                assert not cleaner.is_echo(f"It was {answer}.", prompt)


# -- the checks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("m1", "She is", None)], "sample 'm1': field 'source' is None; expected an id of leak"),
        ([("m1", "She is", "l9")], "field 'source' is 'l9'"),
        ([("m1", "He is", "l1")], "stem 'He is' is not that of 'l1', 'She is'"),
        ([("m1", "She is", "l1"), ("m2", "She is", "l1")], "'l1' is used by 'm1' already"),
        ([("m1", "She is", "l1")], r"no sample has the source 'l2' \(1 are missing\)"),
    ],
)
def test_a_set_that_does_not_match_is_refused(rows, message):
    leakage = made("leak", ("l1", "She is", None), ("l2", "They are", None))
    with pytest.raises(DatasetError, match=message):
        matched_pairs(made("match", *rows), leakage)


def test_a_shared_injection_is_found_whatever_its_case_and_condition():
    one, other = made("one", ("a", "She is", None)), made("other", ("b", "She is", None))
    moved = PromptSet("one", (replace(one.samples[0], neutral="OTHER positive b!"),))
    assert shared_injections(one, other) == []
    assert shared_injections(moved, other) == ["OTHER positive b!"]


def test_match_statistics_compare_partners_and_not_places():
    leakage = made("leak", ("l1", "She is", None), ("l2", "They are", None))
    ours = made("match", ("m2", "They are", "l2"), ("m1", "She is", "l1"))
    lengths = {"positive l1": 3.0, "positive l2": 5.0, "positive m1": 4.0, "positive m2": 2.0}

    def measure(texts):
        return np.array([next((v for k, v in lengths.items() if k in text), 0.0) for text in texts])

    frame = match_statistics(ours, leakage, {"size": measure}).to_frame().set_index(["condition", "measure"])
    row = frame.loc[("positive", "size")]
    # Pairs: m1 - l1 = 1, m2 - l2 = -3.
    assert row["matched"] == 3.0
    assert row["leakage"] == 4.0
    assert row["difference"] == -1.0
    assert row["mean_distance"] == 2.0
    assert row["max_distance"] == 3.0
    assert frame.loc[("positive", "words"), "max_distance"] == 0.0


def test_label_agreement_reads_the_classes_in_the_estimators_order():
    samples = made("set", ("a", "She is", None), ("b", "They are", None))
    place = {"negative": 0, "neutral": 1, "positive": 2}

    def classify(texts):
        words = [text.split() for text in texts]
        # Everything of sample b is called negative.
        return np.eye(3)[[0 if own[2] == "b." else place[own[1]] for own in words]]

    assert label_agreement(samples, classify) == {"positive": 0.5, "neutral": 0.5, "negative": 1.0}


def test_the_probe_tells_different_texts_apart_and_needs_texts_to_hold_out():
    one, other = [f"red apple {i}" for i in range(10)], [f"blue apple {i}" for i in range(10)]
    assert probe_auc(one, other) == 1.0
    with pytest.raises(UsageError, match="5 different texts or more, found 2"):
        probe_auc(["a", "a"], ["b", "b"])
