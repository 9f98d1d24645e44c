"""Which pairs of injection and stem leave no doubt whether they belong together."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from leakmech.core.errors import DatasetError
from leakmech.datasets.clear_pairs import clearly_irrelevant, clearly_relevant
from leakmech.datasets.filters import words
from leakmech.datasets.relation import SELF_REPORT
from leakmech.datasets.samples import PromptSet, Sample, load_dataset
from leakmech.studies.lora.evaluation import Pairing
from leakmech.training.settings import ClearPairs


def encode(texts):
    """Bags of words: the cosine similarity is the share of words in common."""
    vocabulary = ("soup", "meeting", "dog", "salt", "boss", "barked", "painting")
    return np.array([[words(text).count(word) for word in vocabulary] + [0.5] for text in texts], dtype=float)


def sample(name, theme, stem, positive, negative, **fields):
    return Sample(name, stem, positive=positive, neutral="It is.", negative=negative, theme=theme, **fields)


SOUP = sample("soup", "food", "The soup is", "I love soup with salt.", "Salt spoiled our soup.")
MEETING = sample("meeting", "work", "The meeting was", "My boss cheered at the meeting.", "My boss left the meeting.")
DOG = sample("dog", "pets", "The dog has", "My dog barked.", "I cried.")
POINTING = sample("pointing", "art", "The painting is", "I adore them.", "People sneer at that.")
SELF = sample("self", "self", "I feel", "I won.", "I lost.", note=SELF_REPORT)


def made(*samples):
    return PromptSet("made", samples)


def test_relevant_samples_are_like_their_stems_on_average_and_self_reports_stay() -> None:
    every = made(SOUP, MEETING, DOG, POINTING, SELF)
    assert [s.id for s in clearly_relevant(every, encode, least=0.55)] == ["soup", "meeting", "dog", "self"]
    # One injection of the dog's names it, the other does not: 0.8 and 0.4 in the mean.
    assert [s.id for s in clearly_relevant(every, encode, least=0.65)] == ["soup", "meeting", "self"]
    with pytest.raises(DatasetError, match="made: no sample has a mean similarity of 1"):
        clearly_relevant(made(SOUP), encode, least=1)


def test_irrelevant_injections_are_unlike_the_stem_and_name_what_they_speak_of() -> None:
    every = made(SOUP, MEETING, POINTING, SELF)
    pairs = {s.stem: s.source for s in clearly_irrelevant(every, every, encode, most=0.3)}
    assert pairs["The soup is"] == "meeting"
    assert pairs["The meeting was"] == "soup"
    assert "pointing" not in pairs.values()
    assert "I feel" not in pairs


def test_no_stem_gets_what_resembles_it() -> None:
    kin = sample("broth", "drinks", "The tea is", "Our soup cheered me.", "The soup burned me.")
    found = clearly_irrelevant(made(SOUP), made(kin, MEETING), encode, most=0.3)
    assert [(s.stem, s.source) for s in found] == [("The soup is", "meeting")]
    with pytest.raises(DatasetError, match="made: no stem has injections of another theme"):
        clearly_irrelevant(made(SOUP), made(kin), encode, most=0.3)


def test_splits_do_not_meet_and_themes_are_needed() -> None:
    fit, tune = (
        sample(s.id, s.theme, s.stem, s.positive, s.negative, split=split)
        for s, split in ((SOUP, "fit"), (MEETING, "tune"))
    )
    with pytest.raises(DatasetError, match="no stem"):
        clearly_irrelevant(made(fit), made(tune), encode, most=0.5)
    with pytest.raises(DatasetError, match="field 'theme' is missing"):
        clearly_irrelevant(made(SOUP), made(sample("x", None, "A stem is", "I won.", "I lost.")), encode, most=0.5)


def test_donors_are_used_about_equally_often_and_a_seed_decides() -> None:
    samples = load_dataset("relevant-fit")

    def sources(seed):
        found = clearly_irrelevant(
            samples, samples, lambda texts: np.eye(1, 4).repeat(len(texts), 0), most=1, seed=seed
        )
        return [s.source for s in found]

    used = Counter(sources(0))
    assert set(Counter(used.values())) <= {1, 2, 3, 4}
    assert sources(0) == sources(0) != sources(1)


def test_real_encoder_on_the_sets_that_ship() -> None:
    pairing, tune = Pairing(ClearPairs.model_validate({})), load_dataset("relevant-fit").split("tune")
    relevant, irrelevant = pairing.relevant(tune), pairing.irrelevant(tune)
    assert 20 < len(relevant) < len(tune)
    assert {s.stem for s in irrelevant} <= {s.stem for s in relevant}
    assert all(s.source and s.id.endswith("-mismatched") for s in irrelevant)
    again = pairing.irrelevant(tune, number=1)
    assert [s.source for s in again] != [s.source for s in irrelevant]
