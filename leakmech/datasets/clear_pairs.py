"""Injections and stems that clearly belong together, and ones that clearly do not: what an adapter is trained on.

It may take knowledge of the world to see that a sample of relevant affect is relevant, and an exchanged injection may
be read as if it were about the stem after all ("They laugh a lot in there." can come before anything). From such pairs
a small model learns to answer all affect half as strongly. Here

* a sample is *clear* if a sentence encoder finds its charged injections like its stem: their cosine similarity has a
  mean of at least `least`; self-reports are kept as they are;
* an exchanged injection is *clear* if its theme has little to do with the stem's, no word of it refers to something
  outside of it, and its cosine similarity with the stem is at most `most`, whichever its sign.

Neither looks at what a model makes of the prompts, nor at what is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from sklearn.metrics.pairwise import cosine_similarity, paired_cosine_distances

from leakmech.core.errors import DatasetError
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.english import word_list
from leakmech.datasets.filters import words
from leakmech.datasets.relation import (
    SELF_REPORT,
    assigned,
    refuse_missing_themes,
    unrelated_pairs,
    with_injections,
    without_self_reports,
)
from leakmech.datasets.samples import PromptSet, Sample

Encode = Callable[[Sequence[str]], Float[np.ndarray, "n d"]]
"""From texts to embeddings (:func:`leakmech.scoring.semantic.load_encoder`)."""


def clearly_relevant(samples: PromptSet, encode: Encode, *, least: float) -> PromptSet:
    """The samples whose injections are like their stems, and all self-reports.

    `least` is the mean cosine similarity of the stem and its charged injections.
    """
    stems = encode([sample.stem for sample in samples])
    injections = encode([s.positive for s in samples]), encode([s.negative for s in samples])
    likeness = np.mean([1 - paired_cosine_distances(stems, texts) for texts in injections], axis=0)
    kept = tuple(s for s, like in zip(samples, likeness, strict=True) if s.note == SELF_REPORT or like >= least)
    if not kept:
        raise DatasetError(f"{samples.name}: no sample has a mean similarity of {least:g}; lower clear_pairs.relevant")
    return replace(samples, samples=kept)


def clearly_irrelevant(stems: PromptSet, donors: PromptSet, encode: Encode, *, most: float, seed: int = 0) -> PromptSet:
    """The stems of one set with injections of the other that have nothing to do with them, each donor about as often.

    `most` is the absolute cosine similarity of stem and injection. Stems and donors of different splits do not meet;
    stems for which no donor is left are missing.
    """
    stems, donors = without_self_reports(stems), without_self_reports(donors)
    for samples in (stems, donors):
        refuse_missing_themes(samples)
    found: dict[str, Sample] = {}
    for split in dict.fromkeys(sample.split for sample in stems):
        taking = [sample for sample in stems if sample.split == split]
        giving = [sample for sample in donors if sample.split == split and _stands_alone(sample)]
        if giving:
            allowed = unrelated_pairs([str(s.theme) for s in taking], [str(s.theme) for s in giving])
            allowed &= np.all(np.abs(_similarities(taking, giving, encode)) <= most, axis=0)
            chosen = assigned(allowed, numpy_generator("clearly irrelevant", seed, split))
            found |= {taking[i].id: giving[j] for i, j in chosen}
    moved = tuple(with_injections(sample, found[sample.id]) for sample in stems if sample.id in found)
    if not moved:
        raise DatasetError(
            f"{stems.name}: no stem has injections of another theme with a similarity of at most {most:g}; "
            "raise clear_pairs.irrelevant"
        )
    return PromptSet(f"{stems.name}-mismatched", moved)


def _stands_alone(sample: Sample) -> bool:
    """Whether the charged injections refer to nothing but what they name themselves."""
    referring = word_list("referring") | word_list("referring_inside")
    return referring.isdisjoint(words(f"{sample.positive} {sample.negative}".replace("-", " ")))


def _similarities(
    stems: Sequence[Sample], donors: Sequence[Sample], encode: Encode
) -> Float[np.ndarray, "2 stems donors"]:
    """Cosine similarity of every stem with the positive and the negative injection of every donor."""
    stem = encode([sample.stem for sample in stems])
    injections = [s.positive for s in donors], [s.negative for s in donors]
    return np.stack([cosine_similarity(stem, encode(texts)) for texts in injections])
