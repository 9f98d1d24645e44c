"""Relevant and irrelevant pairs to fit on: the same texts on both sides, and none that is evaluated."""

from __future__ import annotations

from collections import Counter

import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets.filters import words
from leakmech.datasets.overlap import overlap
from leakmech.datasets.relation import (
    SELF_REPORT,
    kindred_themes,
    mismatched,
    relation_pairs,
    unrelated,
    without_self_reports,
)
from leakmech.datasets.relevance import probe_auc
from leakmech.datasets.samples import FITTING_DATASETS, INJECTIONS, PromptSet, Sample, load_dataset
from leakmech.scoring.sentence import Cleaner, PromptText
from leakmech.studies.aexl.check import check_dataset
from leakmech.studies.lora.overlap_check import shared_texts

ANSWERS = ("wonderful", "awful", "a disaster", "very good indeed", "not what I expected")
# Words of stems that name nothing.
PLAIN = set(
    words(
        "a all am are as become been feel feeling feels felt has her his i in is looks my new old on our out proved "
        "seem seemed seems smells sounded sounds tastes that the their this turned was we were with"
    )
)
# Words with which stems of the set for adapters begin or turn, beside their nouns.
OPENINGS = set(
    words(
        "after among at before by call called during every first for from he it keeps last makes of people she think "
        "thinks to when whenever with"
    )
)

fitting = pytest.fixture(scope="module")(lambda: load_dataset("relevant-fit"))
either = pytest.mark.parametrize("samples", [load_dataset(name) for name in FITTING_DATASETS], ids=FITTING_DATASETS)


def texts(samples):
    """(role, text) of all stems and injections."""
    return [
        pair
        for sample in samples
        for pair in (("stem", sample.stem), *(("injection", sample.injection(c)) for c in INJECTIONS))
    ]


def triple(sample):
    return tuple(sample.injection(condition) for condition in INJECTIONS)


def made(*rows):
    """A set of samples: (id, theme, split, note)."""
    return PromptSet(
        "made",
        tuple(
            Sample(
                name,
                f"Stem {name} is",
                **{c: f"{c} {name}." for c in INJECTIONS},
                theme=theme,
                split=split,
                note=note,
            )
            for name, theme, split, note in rows
        ),
    )


# -- the set that ships ----------------------------------------------------------------------------------------------


def test_both_splits_have_all_themes_and_a_sixth_are_self_reports(fitting):
    sizes = Counter((sample.split, sample.note) for sample in fitting)
    assert sizes == {("fit", None): 150, ("fit", SELF_REPORT): 30, ("tune", None): 50, ("tune", SELF_REPORT): 10}
    themes = {split: Counter(s.theme for s in without_self_reports(fitting.split(split))) for split in ("fit", "tune")}
    assert set(themes["fit"].values()) == {6}
    assert set(themes["tune"].values()) == {2}
    assert len(themes["fit"]) == len(themes["tune"]) == 25
    assert [sample.id for sample in fitting] == [f"relevant-fit-{number:03}" for number in range(1, 241)]


def test_splits_share_no_text_and_no_noun_of_a_stem(fitting):
    fit, tune = fitting.split("fit"), fitting.split("tune")
    assert shared_texts(texts(fit), [tune]) == []
    nouns = [{word for s in split for word in words(s.stem)} - PLAIN for split in (fit, tune)]
    assert nouns[0] & nouns[1] == set()
    assert len({text.lower() for _, text in texts(fitting)}) == 4 * len(fitting)


def test_the_sets_for_adapters_have_other_themes_and_no_text_of_another(fitting):
    training, wide = load_dataset("relevant-train"), load_dataset("relevant-wide")
    themes = [{sample.theme for sample in samples} for samples in (fitting, training, wide)]
    assert [len(of_set) for of_set in themes] == [25, 72, 192]
    assert len(set().union(*themes)) == 25 + 72 + 192
    assert len({text.lower() for _, text in [*texts(training), *texts(wide)]}) == 4 * (len(training) + len(wide))
    assert shared_texts(texts(training), [fitting], max_overlap=0.7) == []
    assert shared_texts(texts(wide), [fitting, training], max_overlap=0.7) == []


def test_the_set_of_72_themes_is_there_to_fit_on(fitting):
    training = load_dataset("relevant-train")
    assert set(Counter(sample.theme for sample in training).values()) == {10}
    assert {sample.split for sample in training} == {"fit"}
    nouns = [{word for s in part for word in words(s.stem)} - PLAIN for part in (training, fitting.split("tune"))]
    assert nouns[0] & nouns[1] <= OPENINGS
    assert len(mismatched(training)) == len(training) == 720


def test_the_wide_set_has_themes_of_its_own_to_choose_on():
    wide = load_dataset("relevant-wide")
    assert len(mismatched(wide)) == len(wide) == 1813
    fit, tune = wide.split("fit"), wide.split("tune")
    assert (len(fit), len(tune)) == (1663, 150)
    assert {sample.theme for sample in fit}.isdisjoint(sample.theme for sample in tune)
    assert shared_texts(texts(tune), [fit], max_overlap=0.7) == []
    assert [sample.id for sample in wide] == [f"relevant-wide-{number:04}" for number in range(1, 1814)]


@either
@pytest.mark.parametrize("name", ["hexl", "relevant-matched", "relevant-self"])
def test_nothing_that_is_evaluated_is_fitted_on(samples, name):
    evaluated = load_dataset(name)
    assert shared_texts(texts(samples), [evaluated], max_overlap=0.7) == []
    # The check does find a text that is shared.
    assert len(shared_texts([*texts(samples), texts(evaluated)[0]], [evaluated])) == 1


@either
def test_texts_have_the_lengths_of_the_data_card(samples):
    for sample in samples:
        assert 3 <= len(words(sample.stem)) <= 7, sample.id
        assert all(5 <= len(words(text)) <= 12 for text in triple(sample)), sample.id


@pytest.mark.long
@either
def test_no_plain_answer_of_the_fitting_sets_is_an_echo(samples):
    cleaner = Cleaner()
    for sample in samples:
        for injection in triple(sample):
            prompt = PromptText(sample.stem, injection, "Complete the sentence")
            assert overlap(sample.stem, injection) < 0.25
            for answer in ANSWERS:
                text = f"{sample.stem} {answer}."
                assert cleaner.clean(text, prompt, "echo-free").text == f"{answer}.", (sample.id, injection)
                assert not cleaner.is_echo(f"It was {answer}.", prompt)


@pytest.mark.long
@pytest.mark.slow
def test_the_check_of_data_sets_finds_nothing_and_the_estimator_agrees(tmp_path, plain_tokenizer):
    plain_tokenizer.save_pretrained(tmp_path)
    report = check_dataset("relevant-fit", tokenizer=str(tmp_path))
    # No repetition, no second sentence, no class other than the one a sentence stands for, no fear of relevance.
    assert report.problems == report.warnings == ()
    assert report.rows["sample"].nunique() == 240


def test_every_kindred_theme_is_a_theme():
    themes = {sample.theme for name in FITTING_DATASETS for sample in load_dataset(name)}
    assert set().union(*kindred_themes()) <= themes


# -- relevant and irrelevant -----------------------------------------------------------------------------------------


def test_mismatched_is_a_derangement_within_splits_and_across_unrelated_themes(fitting):
    relevant, irrelevant = relation_pairs(fitting)
    own = {sample.id: sample for sample in relevant}
    for one, other in zip(relevant, irrelevant, strict=True):
        assert (other.id, other.stem, other.theme) == (f"{one.id}-mismatched", one.stem, one.theme)
        donor = own[other.source]
        assert triple(other) == triple(donor)
        assert donor.split == other.split == one.split
        assert unrelated(donor.theme, one.theme)
    assert len({sample.source for sample in irrelevant}) == 200


@pytest.mark.parametrize("split", ["fit", "tune"])
def test_both_sides_hold_the_same_texts(fitting, split):
    relevant, irrelevant = (side.split(split) for side in relation_pairs(fitting))
    assert Counter(s.stem for s in relevant) == Counter(s.stem for s in irrelevant)
    for condition in INJECTIONS:
        ours, theirs = ([s.injection(condition) for s in side] for side in (relevant, irrelevant))
        assert Counter(ours) == Counter(theirs)
        assert probe_auc(ours, theirs) == 0.5
    assert probe_auc([s.stem for s in relevant], [s.stem for s in irrelevant]) == 0.5


def test_self_reports_are_on_neither_side(fitting):
    reports = {text for sample in fitting if sample.note == SELF_REPORT for _, text in texts([sample])}
    assert len(reports) == 160
    for side in relation_pairs(fitting):
        assert len(side) == 200
        assert reports.isdisjoint(text for _, text in texts(side))


def test_the_seed_decides_and_a_split_alone_gets_the_same_partners(fitting):
    def sources(samples):
        return [sample.source for sample in samples]

    assert sources(mismatched(fitting, seed=3)) == sources(mismatched(fitting, seed=3))
    same = sum(a == b for a, b in zip(sources(mismatched(fitting)), sources(mismatched(fitting, seed=1)), strict=True))
    assert same < 20
    assert sources(mismatched(fitting.split("tune"))) == sources(mismatched(fitting).split("tune"))


def test_themes_are_exchanged_where_only_one_way_is_left():
    # Two of theme a and two of theme b: each pair must take the other's injections.
    samples = made(*((name, name[0], None, None) for name in ("a1", "a2", "b1", "b2")))
    assert {sample.id[0] + sample.source[0] for sample in mismatched(samples)} == {"ab", "ba"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("x", None, None, None)], "sample 'x': field 'theme' is missing"),
        ([("x", "a", "fit", None), ("y", "b", "tune", None)], "split 'fit': the injections cannot all go"),
        ([("x", "a", None, None), ("y", "a", None, None), ("z", "b", None, None)], "use more themes"),
        ([("x", "music", None, None), ("y", "films", None, None)], "of an unrelated theme"),
        ([("x", "a", None, SELF_REPORT)], "holds no samples"),
    ],
)
def test_samples_that_cannot_be_exchanged_are_refused(rows, message):
    with pytest.raises(DatasetError, match=message):
        mismatched(made(*rows))
