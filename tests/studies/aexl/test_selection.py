"""Algorithm 1: the best of each class, draws in proportion to confidence, combinations, disjoint splits."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakmech.core.errors import ConfigError, DatasetError
from leakmech.datasets.filters import words
from leakmech.datasets.overlap import OverlapIndex, overlap
from leakmech.datasets.samples import INJECTIONS, Sample
from leakmech.studies.aexl.selection import (
    Candidate,
    Combining,
    StemPool,
    TopSentences,
    check_disjoint,
    combine,
    draw_in_proportion,
    drop_near_duplicates,
)
from leakmech.studies.aexl.settings import AexlSettings

LETTERS = "abcdefghij"


def candidate(text: str, confidence: float = 0.9, *, position: int = 0, group: str | None = None) -> Candidate:
    return Candidate(text, position, confidence, group)


def numbered(prefix: str, n: int, *, lengths: tuple[int, ...] = (5,), group: str | None = None) -> list[Candidate]:
    """Sentences that share no word; sentence i has lengths[i % len(lengths)] words."""
    return [
        candidate(" ".join(f"{prefix}{i}x{j}" for j in range(lengths[i % len(lengths)])) + ".", position=i, group=group)
        for i in range(n)
    ]


def no_meaning(texts):
    raise AssertionError("nothing should ask for embeddings")


def combining(**changes) -> Combining:
    settings = {"name": "aexl", "seed": 0, "match_length": True, "max_similarity": 1.0, "embed": no_meaning}
    return Combining(**(settings | changes))


# -- selecting ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(LETTERS), st.integers(1, 99)), max_size=60), st.integers(1, 5))
def test_the_heap_keeps_what_sorting_everything_would_keep(offers, size):
    top = TopSentences(size)
    for text, confidence in offers:
        top.offer(candidate(text, confidence / 100))
    kept = top.best()
    assert len({one.key for one in kept}) == len(kept) == min(size, len({text for text, _ in offers}))
    assert [one.confidence for one in kept] == sorted((one.confidence for one in kept), reverse=True)
    # No sentence outside is surer than the least sure one inside, at any of its occurrences after the last eviction.
    if len(offers) == len({text for text, _ in offers}):
        expected = sorted((confidence / 100 for _, confidence in offers), reverse=True)[:size]
        assert [one.confidence for one in kept] == expected


def test_copies_that_differ_in_case_or_punctuation_are_kept_once():
    top = TopSentences(3)
    for text in ("I am here.", "I AM HERE!", "You are here."):
        top.offer(candidate(text))
    assert [one.text for one in top.best()] == ["I am here.", "You are here."]
    assert (top.offered, top.repeated) == (3, 1)


@given(st.lists(st.sampled_from(LETTERS), max_size=40), st.integers(0, 5))
def test_the_stem_pool_depends_on_seed_and_stems_only(texts, seed):
    def pool(order):
        pool = StemPool(4, seed)
        for text in order:
            pool.offer(candidate(text))
        return [stem.text for stem in pool.stems()]

    assert pool(texts) == pool(sorted(texts)) == pool(texts + texts)
    assert len(pool(texts)) == min(4, len(set(texts)))


def test_another_seed_gives_another_stem_pool():
    pools = []
    for seed in range(2):
        pool = StemPool(20, seed)
        for one in numbered("stem", 200):
            pool.offer(one)
        pools.append({stem.text for stem in pool.stems()})
    assert pools[0] != pools[1]


def test_draws_are_in_proportion_to_confidence():
    sure, unsure = candidate("sure", 0.75), candidate("unsure", 0.25)
    first = Counter(draw_in_proportion([sure, unsure], 1, seed=seed)[0].text for seed in range(4000))
    # Binomial with 4,000 draws: a standard deviation is 0.007.
    assert first["sure"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_a_draw_is_without_replacement_and_does_not_depend_on_order():
    candidates = numbered("word", 30)
    drawn = draw_in_proportion(candidates, 10, seed=3)
    assert len({one.text for one in drawn}) == 10
    assert drawn == draw_in_proportion(candidates[::-1], 10, seed=3)


# -- near duplicates ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=7).map(" ".join), max_size=25),
    st.sampled_from([0.3, 0.5, 0.7, 1.0]),
)
def test_the_index_finds_what_comparing_all_pairs_finds(texts, threshold):
    expected: list[str] = []
    for text in texts:
        if all(overlap(text, other) < threshold for other in expected):
            expected.append(text)
    kept = drop_near_duplicates([candidate(text) for text in texts], OverlapIndex(threshold))
    assert [one.text for one in kept] == expected


def test_overlap_is_shared_words_over_all_words():
    assert overlap("The food is good.", "The FOOD is really good!") == pytest.approx(4 / 5)
    assert overlap("The food is good.", "A dog ran.") == 0


# -- combining ---------------------------------------------------------------------------------------------------------


def test_every_sample_has_one_injection_of_each_class_and_its_own_stem():
    injections = {label: numbered(label, 12) for label in INJECTIONS}
    samples = combine(injections, numbered("stem", 10), sizes={"test": 5, "fit": 3}, combining=combining())
    assert [sample.split for sample in samples] == ["test"] * 5 + ["fit"] * 3
    assert [sample.id for sample in samples][:2] == ["aexl-0001", "aexl-0002"]
    assert samples[5].id == "aexl-fit-0001"
    assert len({sample.stem for sample in samples}) == 8
    for label in INJECTIONS:
        assert all(getattr(sample, label).startswith(label) for sample in samples)
        assert len({getattr(sample, label) for sample in samples}) == 8
    check_disjoint(samples, 0.1)


@given(st.integers(0, 2**32))
@settings(max_examples=30)
def test_matched_injections_differ_in_length_only_when_they_must(seed):
    draw = random.Random(seed)
    injections = {
        label: numbered(label, 20, lengths=tuple(draw.randint(4, 8) for _ in range(20))) for label in INJECTIONS
    }
    counts = [Counter(len(words(one.text)) for one in own) for own in injections.values()]
    possible = sum(min(count[length] for count in counts) for length in range(4, 9))
    samples = combine(injections, numbered("stem", 20), sizes={"test": 10}, combining=combining(seed=seed))
    spreads = [
        max(lengths) - min(lengths)
        for lengths in ([len(words(getattr(sample, label))) for label in INJECTIONS] for sample in samples)
    ]
    assert sum(spread == 0 for spread in spreads) == min(10, possible)


def test_without_matching_the_lengths_are_as_drawn():
    injections = {
        "positive": numbered("positive", 4, lengths=(4,)),
        "neutral": numbered("neutral", 4, lengths=(9,)),
        "negative": numbered("negative", 4, lengths=(6,)),
    }
    samples = combine(injections, numbered("stem", 4), sizes={"test": 4}, combining=combining(match_length=False))
    assert [len(words(sample.neutral)) for sample in samples] == [9] * 4


def test_stem_and_injections_come_from_different_parts_of_the_corpus():
    injections = {label: numbered(label, 6, group=label) for label in INJECTIONS}
    stems = [*numbered("bad", 6, group="neutral"), *numbered("good", 6, group="news")]
    samples = combine(injections, stems, sizes={"test": 6}, combining=combining())
    assert all(sample.stem.startswith("good") for sample in samples)


def test_a_stem_that_means_what_an_injection_means_is_not_put_behind_it():
    def embed(texts):
        return np.array([[1.0, 0.0] if "close" in text or text.startswith("pos") else [0.0, 1.0] for text in texts])

    injections = {"positive": numbered("pos", 3), "neutral": numbered("x", 3), "negative": numbered("y", 3)}
    stems = [candidate("close one is"), candidate("a far one is")]
    # "close" equals the positive injections, "far" the two others: neither fits.
    with pytest.raises(DatasetError, match="only 0 of 2 samples could be combined, 2 stems are left"):
        combine(injections, stems, sizes={"test": 2}, combining=combining(max_similarity=0.9, embed=embed))
    samples = combine(injections, stems, sizes={"test": 2}, combining=combining(max_similarity=1.0, embed=embed))
    assert len(samples) == 2


def test_with_fewer_injections_than_samples_they_recur_within_a_split_only():
    injections = {label: numbered(label, 4) for label in INJECTIONS}
    samples = combine(injections, numbered("stem", 12), sizes={"test": 6, "fit": 6}, combining=combining())
    for label in INJECTIONS:
        used = {split: {getattr(s, label) for s in samples if s.split == split} for split in ("test", "fit")}
        assert len(used["test"]) == len(used["fit"]) == 2
        assert not used["test"] & used["fit"]
    check_disjoint(samples)


def test_too_few_stems_are_an_error_that_says_how_many_samples_there_would_be():
    injections = {label: numbered(label, 9) for label in INJECTIONS}
    with pytest.raises(DatasetError, match="split 'test': only 2 of 5 samples"):
        combine(injections, numbered("stem", 2), sizes={"test": 5}, combining=combining())


# -- the check of the result -------------------------------------------------------------------------------------------


def sample(split: str, stem: str, positive: str) -> Sample:
    return Sample(f"{split}-{stem}", stem, positive, f"neutral of {stem}", f"negative of {stem}", split=split)


def test_a_text_in_two_splits_is_found():
    samples = [sample("test", "The garden is", "I won."), sample("fit", "the garden is", "We lost again.")]
    with pytest.raises(DatasetError, match="splits 'test' and 'fit' share a text: 'The garden is' and 'the garden is'"):
        check_disjoint(samples)


def test_a_near_duplicate_across_splits_and_conditions_is_found():
    samples = [
        sample("test", "The garden is", "I won the first prize today."),
        Sample("fit-1", "My job seems", "We lost.", "I won the first prize.", "You left.", split="fit"),
    ]
    check_disjoint(samples)
    with pytest.raises(DatasetError, match=r"'I won the first prize today\.' and 'I won the first prize\.'"):
        check_disjoint(samples, 0.7)


def test_a_text_that_is_stem_and_injection_is_found():
    samples = [sample("test", "The garden is", "I won."), sample("test", "I won", "You lost.")]
    with pytest.raises(DatasetError, match="'i won' is both a stem and an injection"):
        check_disjoint(samples)


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
@settings(max_examples=40)
def test_splits_of_any_sizes_share_nothing(seed, n_test, n_fit, n_tune):
    total = n_test + n_fit + n_tune
    injections = {label: numbered(label, 2 * total, lengths=(4, 5, 6)) for label in INJECTIONS}
    sizes = {name: size for name, size in (("test", n_test), ("fit", n_fit), ("tune", n_tune)) if size}
    samples = combine(injections, numbered("stem", total), sizes=sizes, combining=combining(seed=seed))
    assert Counter(one.split for one in samples) == sizes
    check_disjoint(samples, 0.2)
    texts = [text for one in samples for text in (one.stem, one.positive, one.neutral, one.negative)]
    assert len(set(texts)) == 4 * total


# -- settings ----------------------------------------------------------------------------------------------------------


def test_m_n_and_the_stem_pool_follow_from_the_number_of_samples():
    chosen = AexlSettings.parse({"samples": 101, "fit": 50})
    assert (chosen.m, chosen.n, chosen.stem_pool) == (227, 189, 3020)
    assert chosen.sizes == {"test": 101, "fit": 50}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample": 5}, "unknown key 'sample'; did you mean 'samples'"),
        ({"samples": 0}, "samples must be greater than or equal to 1, found 0"),
        ({"fit": -1}, "fit must be greater than or equal to 0, found -1"),
        ({"limit": 0}, "limit must be greater than or equal to 1, found 0"),
        ({"m": 10, "n": 20}, "n = 20 injections cannot be drawn from m = 10"),
        ({"max_overlap": 0.0}, "max_overlap must be greater than 0, found 0"),
        ({"min_confidence": 1.5}, "min_confidence must be less than or equal to 1, found 1.5"),
        ({"stem_source": "neutrals"}, "did you mean 'neutral'"),
        ({"stem_end": "phrases"}, "did you mean 'phrase'"),
        ({"min_words": 30}, "found 30 and 20"),
    ],
)
def test_settings_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        AexlSettings.parse(values)
