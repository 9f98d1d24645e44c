"""Do injection and stem belong together? Pairs that differ in this and in nothing else, to fit what decides it.

In a set of relevant affect every stem s_i comes after the injections x_i that are about it. Its irrelevant
counterpart puts other injections of the set before the same stems,

    relevant: (x_i, s_i)        irrelevant: (x_d(i), s_i),    d a permutation with d(i) != i,

where i and d(i) are of one split and of themes that have little to do with each other. Each stem and each injection
is then once on either side, so that a probe that reads only stems or only injections is exactly at chance.

A *self-report* ("By now I am simply") is on neither side: whatever happens to a speaker bears on how the speaker feels,
so that no event told in the first person is irrelevant to it. Such samples have :data:`SELF_REPORT` in ``note``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from jaxtyping import Bool
from scipy.optimize import linear_sum_assignment

from leakmech.core.errors import DatasetError
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.english import data_text
from leakmech.datasets.samples import PromptSet, Sample

SELF_REPORT = "self-report"
"""The ``note`` of a sample whose stem asks how the speaker feels."""


def without_self_reports(samples: PromptSet) -> PromptSet:
    """The samples whose stem does not ask how the speaker feels."""
    kept = tuple(sample for sample in samples if sample.note != SELF_REPORT)
    return replace(samples, samples=kept)


def mismatched(samples: PromptSet, *, seed: int = 0) -> PromptSet:
    """The same stems, each with the three injections of another sample, of the same split and an unrelated theme.

    Self-reports are left out, as stems and as injections. Ids end in ``-mismatched``, theme and split are those of the
    stem, and ``source`` is the id of the sample that the injections are from.
    """
    kept = without_self_reports(samples)
    refuse_missing_themes(kept)
    donors: dict[str, Sample] = {}
    for split in dict.fromkeys(sample.split for sample in kept):
        own = [sample for sample in kept if sample.split == split]
        themes = [str(sample.theme) for sample in own]
        chosen = assigned(unrelated_pairs(themes, themes), numpy_generator("mismatched", seed, split))
        if len(chosen) < len(own):
            raise DatasetError(
                f"{samples.name}: split {split!r}: the injections cannot all go to samples of an unrelated theme; "
                "use more themes, or themes of more equal size"
            )
        donors |= {own[stem].id: own[donor] for stem, donor in chosen}
    moved = tuple(with_injections(sample, donors[sample.id]) for sample in kept)
    return PromptSet(f"{samples.name}-mismatched", moved)


def with_exchanged(leakage: PromptSet, exchanged: PromptSet) -> PromptSet:
    """Samples of a leakage set and samples whose injections were exchanged, as one set.

    If the two were of different writers, their texts alone would give away which affect is irrelevant.
    """
    return PromptSet(leakage.name, (*leakage, *exchanged))


def relation_pairs(samples: PromptSet, *, seed: int = 0) -> tuple[PromptSet, PromptSet]:
    """Samples in which injection and stem belong together, and their :func:`mismatched` counterpart.

    Both hold the same stems and the same injections, once each, sample k of one and sample k of the other have the same
    stem, and neither holds a self-report.
    """
    return without_self_reports(samples), mismatched(samples, seed=seed)


def refuse_missing_themes(samples: PromptSet) -> None:
    """Refuse samples without a theme: injections are exchanged by what they are about."""
    for sample in samples:
        if sample.theme is None:
            raise DatasetError(f"{samples.name}: sample {sample.id!r}: field 'theme' is missing; injections need one")


def with_injections(sample: Sample, donor: Sample) -> Sample:
    """`sample` with the injections of `donor`, whose id becomes its ``source``; its own id ends in ``-mismatched``."""
    return replace(
        sample,
        id=f"{sample.id}-mismatched",
        positive=donor.positive,
        neutral=donor.neutral,
        negative=donor.negative,
        source=donor.id,
        note=None,
    )


@cache
def kindred_themes() -> tuple[frozenset[str], ...]:
    """Themes of the built-in fitting sets that share people, places or things: an injection of one may suit another."""
    return tuple(frozenset(themes) for themes in tomllib.loads(data_text("kindred_themes.toml"))["kindred"])


def unrelated(one: str, other: str) -> bool:
    """Whether two themes are different, and not :func:`kindred_themes`."""
    return one != other and not any(one in kindred and other in kindred for kindred in kindred_themes())


def unrelated_pairs(ones: Sequence[str], others: Sequence[str]) -> Bool[np.ndarray, "ones others"]:
    """:func:`unrelated` of every theme of one list with every theme of another."""
    (rows, row_of), (columns, column_of) = (np.unique(themes, return_inverse=True) for themes in (ones, others))
    return np.array([[unrelated(row, column) for column in columns] for row in rows])[np.ix_(row_of, column_of)]


def assigned(allowed: Bool[np.ndarray, "stems donors"], rng: np.random.Generator) -> list[tuple[int, int]]:
    """A donor for each stem: indices of both, for as many stems as can have an allowed one, no donor much more often.

    The assignment of least cost, for costs drawn at random: every assignment that is allowed can come out.
    """
    n_stems, n_donors = allowed.shape
    rounds = -(-n_stems // n_donors)
    costs = rng.random((n_stems, rounds * n_donors))
    # It costs more than all that is allowed together, so that it is taken only where nothing else is left.
    rows, columns = linear_sum_assignment(np.where(np.tile(allowed, rounds), costs, n_stems + 1.0))
    pairs = [(int(row), int(column) % n_donors) for row, column in zip(rows, columns, strict=True)]
    return [(stem, donor) for stem, donor in pairs if allowed[stem, donor]]
