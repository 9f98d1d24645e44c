"""Mild and frozen samples: counts, person, lengths, strength, and that nothing stands in two sets."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.core.errors import DatasetError
from leakmech.core.text import normalised_words
from leakmech.datasets.filters import words
from leakmech.datasets.samples import (
    FITTING_DATASETS,
    FROZEN_DATASETS,
    INJECTIONS,
    POLARITIES,
    PromptSet,
    builtin_datasets,
    load_dataset,
    refuse_frozen,
)
from leakmech.studies.lora.overlap_check import shared_texts

NEW = ("hexl-mild", *FROZEN_DATASETS)
FIRST_PERSON = set(words("i me my mine myself we us our ours ourselves"))
FROZEN_HASHES = {
    "hexl-frozen": "3fc6a331b9640304",
    "relevant-frozen": "68524ce18ddc4acf",
    "self-frozen": "f593ddf2e904576f",
}

GRAVE = re.compile(
    r"\b(?:"
    r"death|deaths|dead|die|dies|died|dying|deadly|kill\w*|murder\w*|slain|slaughter\w*|blood\w*|bleed\w*|"
    r"bled|stab\w*|shot|shooting|guns?|gunmen|gunman|bullets?|corpses?|funerals?|cancer\w*|tumours?|"
    r"drown\w*|strangl\w*|chok\w*|suffocat\w*|poisoned|poisons|graves?|buried|bury|coffins?|hanged|"
    r"tortur\w*|beat|beats|beaten|beatings?|punch\w*|kicks?|kicked|kicking|hits|slap\w*|slash\w*|whips|"
    r"whipped|assault\w*|butchered|maim\w*|mutilat\w*|mangl\w*|wound\w*|gash\w*|severed|amputat\w*|"
    r"bomb\w*|knife|knives|knifed|axe|violen\w*|rape\w*|suicid\w*|perish\w*|fatal\w*|lethal|starv\w*|"
    r"electrocut\w*|skulls?|massacre\w*|execut\w*|maul\w*|gouge\w*|crippl\w*|blinded|maggots?|killer|"
    r"smother\w*|overdos\w*|stillborn|impal\w*|behead\w*|crushed|scald\w*|shattered (?:his|her|my|both|a)"
    r")\b",
    re.IGNORECASE,
)
"""Words of death, blood and blows; wider than its subject, so that little escapes."""

new = pytest.mark.parametrize("name", NEW)
leakage = pytest.mark.parametrize("name", ["hexl-mild", "hexl-frozen"])


def first_person(text):
    return not FIRST_PERSON.isdisjoint(re.findall(r"[a-z]+", text.lower()))


def texts(samples):
    """(role, text) of all stems and injections."""
    return [
        pair
        for sample in samples
        for pair in (("stem", sample.stem), *(("injection", sample.injection(c)) for c in INJECTIONS))
    ]


def strong_share(samples, condition):
    """Share of injections with a word that VADER's lexicon rates 2 or more, or -2 or less."""
    lexicon = SentimentIntensityAnalyzer().lexicon
    found = [
        any(abs(lexicon.get(word, 0)) >= 2 for word in re.findall(r"[a-z'’-]+", sample.injection(condition).lower()))
        for sample in samples
    ]
    return float(np.mean(found))


@pytest.mark.parametrize("name", FROZEN_DATASETS)
def test_a_frozen_set_stays_as_it_was_written(name):
    assert load_dataset(name).content_hash == FROZEN_HASHES[name]


@pytest.mark.parametrize(
    ("name", "count"), [("hexl-mild", 60), ("hexl-frozen", 240), ("relevant-frozen", 240), ("self-frozen", 120)]
)
def test_ids_count_the_samples_and_no_text_stands_twice(name, count):
    samples = load_dataset(name)
    assert [sample.id for sample in samples] == [f"{name}-{number:03}" for number in range(1, count + 1)]
    assert len({text.lower() for _, text in texts(samples)}) == 4 * count
    assert all(sample.theme for sample in samples)


@new
def test_no_text_is_in_another_set_or_nearly_so(name):
    others = [load_dataset(other) for other in builtin_datasets() if other != name]
    if name in ("hexl-frozen", "relevant-frozen"):
        partner = {"hexl-frozen", "relevant-frozen"} - {name}
        # Their stems are the same on purpose; their injections are not.
        injections = [pair for pair in texts(load_dataset(name)) if pair[0] == "injection"]
        assert shared_texts(injections, [load_dataset(*partner)], max_overlap=0.7) == []
        others = [other for other in others if other.name not in partner]
    assert shared_texts(texts(load_dataset(name)), others, max_overlap=0.7) == []


def test_relevant_frozen_has_the_stems_and_the_person_of_its_partners():
    leaking, relevant = load_dataset("hexl-frozen"), load_dataset("relevant-frozen")
    for theirs, ours in zip(leaking, relevant, strict=True):
        assert (ours.source, ours.stem, ours.theme, ours.note) == (theirs.id, theirs.stem, theirs.theme, theirs.note)
        assert [first_person(ours.injection(c)) for c in INJECTIONS] == [
            first_person(theirs.injection(c)) for c in INJECTIONS
        ], ours.id


@leakage
def test_person_of_stem_and_injection_is_crossed(name):
    samples = load_dataset(name)
    for sample in samples:
        assert len({first_person(sample.injection(c)) for c in INJECTIONS}) == 1, sample.id
    cells = [(first_person(sample.stem), first_person(sample.positive)) for sample in samples]
    assert set(Counter(cells).values()) == {len(samples) // 4}
    # In turns, so that the first samples alone are balanced, too.
    assert set(Counter(cells[:40]).values()) == {10}


@leakage
def test_an_injection_has_no_word_of_its_stem_but_small_ones(name):
    small = set(
        words(
            "a an the of to in on at by for from with and or but is are was were be has have had as my our his her "
            "their your its i we he she they it me us him them that this these those one when after into up out so"
        )
    )
    for sample in load_dataset(name):
        stem = set(normalised_words(sample.stem)) - small
        assert all(stem.isdisjoint(normalised_words(sample.injection(c))) for c in INJECTIONS), sample.id


def test_self_reports_are_about_the_speaker():
    for sample in load_dataset("self-frozen"):
        assert first_person(sample.stem), sample.id
        assert sum(first_person(sample.injection(c)) for c in INJECTIONS) == 3 or sample.theme == "theft", sample.id


@new
def test_stems_and_injections_have_the_form_of_the_cards(name):
    bounds = {"hexl-mild": (3, 5), "hexl-frozen": (3, 7), "relevant-frozen": (3, 7), "self-frozen": (5, 9)}[name]
    for sample in load_dataset(name):
        assert bounds[0] <= len(sample.stem.split()) <= bounds[1], sample.id
        assert not sample.stem.endswith((".", "!", "?"))
        lengths = [len(sample.injection(c).split()) for c in INJECTIONS]
        assert all(5 <= length <= 13 for length in lengths), sample.id
        assert max(lengths) - min(lengths) <= 4, sample.id
        assert all(sample.injection(c).endswith(".") for c in INJECTIONS)


@new
def test_conditions_are_equally_long_on_average(name):
    means = [np.mean([len(sample.injection(c).split()) for sample in load_dataset(name)]) for c in INJECTIONS]
    assert max(means) - min(means) <= 0.3


@pytest.mark.parametrize(
    ("name", "note", "low", "high"),
    [("hexl-mild", None, 0.25, 0.40), ("hexl-frozen", "mild", 0.25, 0.45), ("hexl-frozen", "strong", 0.70, 0.95)],
)
def test_few_words_of_mild_sentences_name_an_affect(name, note, low, high):
    samples = [sample for sample in load_dataset(name) if sample.note == note]
    assert len(samples) in (60, 120)
    assert low <= np.mean([strong_share(samples, polarity) for polarity in POLARITIES]) <= high
    assert strong_share(samples, "neutral") == 0


@new
def test_vader_finds_neutral_sentences_neutral_and_contradicts_no_label_of_the_leakage_sets(name):
    analyser, samples = SentimentIntensityAnalyzer(), load_dataset(name)
    assert all(abs(analyser.polarity_scores(sample.neutral)["compound"]) < 0.05 for sample in samples)
    if name.startswith("hexl"):
        assert all(analyser.polarity_scores(sample.positive)["compound"] > -0.05 for sample in samples)
        assert all(analyser.polarity_scores(sample.negative)["compound"] < 0.05 for sample in samples)


@pytest.mark.parametrize("name", FITTING_DATASETS)
def test_the_fitting_sets_leave_the_frozen_ones_unseen(name):
    refuse_frozen(load_dataset(name))


@pytest.mark.parametrize("name", FROZEN_DATASETS)
def test_fitting_on_a_frozen_set_or_on_its_injections_is_refused(name):
    frozen = load_dataset(name)
    with pytest.raises(DatasetError, match=f"have injections of {name}.*must be judged on other texts"):
        refuse_frozen(frozen)
    with pytest.raises(DatasetError, match="mine: 1 samples have injections"):
        refuse_frozen(PromptSet("mine", (load_dataset("hexl").samples[0], frozen.samples[5])))


@pytest.mark.parametrize("name", ["relevant-train", "relevant-wide", *NEW])
def test_few_negatives_are_about_death_blood_or_violence(name):
    negatives = [sample.negative for sample in load_dataset(name)]
    assert sum(GRAVE.search(text) is not None for text in negatives) <= 0.04 * len(negatives)
    assert GRAVE.search("My old cat died and I miss her.")
