"""Injections that are nearer to the stems than their own, and not about them: the exchange of arrangement ``graded``.

Sample i gets the three injections of sample p(i), where the permutation p makes

    sum over i of the mean cosine of stem i with the three injections of p(i)

as large as it can be (an assignment problem), no sample keeps its own, and no injection has a word of its new stem, or
one with the same first five letters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import linear_sum_assignment

from leakmech.core.errors import DatasetError
from leakmech.core.text import normalised_words
from leakmech.datasets.english import word_list
from leakmech.datasets.samples import INJECTIONS, Sample
from leakmech.prompts.bodies import ArrangedSample

Encode = Callable[[Sequence[str]], Float[np.ndarray, "n d"]]
"""Unit vectors of texts."""

_LETTERS = 5
_DECIMALS = 4  # of a cosine that decides, so that the last bits of two machines do not


def exchanged(members: Sequence[Sample], encode: Encode, *, name: str) -> list[ArrangedSample]:
    """The samples with exchanged injections; DatasetError, about the set `name`, if there is no such exchange."""
    near = _relatedness(members, encode)
    refused = _sharing_words(members)
    _, given = linear_sum_assignment(np.where(refused, -4.0 * len(members), near), maximize=True)
    if refused[np.arange(len(members)), given].any():
        raise DatasetError(
            f"{name}: arrangement 'graded' finds no other injections for every stem that share no word with it; it "
            "needs more samples, or more different ones"
        )
    found = []
    for i, (sample, donor) in enumerate(zip(members, given, strict=True)):
        other = members[donor]
        fields: dict[str, Any] = {**sample.to_dict(), **{c: other.injection(c) for c in INJECTIONS}, "source": other.id}
        found.append(ArrangedSample(**fields, relatedness=(float(near[i, i]), float(near[i, donor]))))
    return found


def _sharing_words(members: Sequence[Sample]) -> Bool[np.ndarray, "stems injections"]:
    """Whether a stem has a word of a sample's injections, or one that begins alike; its own count as such."""
    stems = [_beginnings(sample.stem) for sample in members]
    injected = [_beginnings(" ".join(sample.injection(name) or "" for name in INJECTIONS)) for sample in members]
    return np.array([[i == j or bool(stem & own) for j, own in enumerate(injected)] for i, stem in enumerate(stems)])


def _beginnings(text: str) -> set[str]:
    """The first five letters of every word that is not a function word."""
    return {word[:_LETTERS] for word in normalised_words(text) if word not in word_list("function_words")}


def _relatedness(members: Sequence[Sample], encode: Encode) -> Float[np.ndarray, "stems injections"]:
    """Mean cosine of every stem with the three injections of every sample."""
    texts = [sample.stem for sample in members]
    for name in INJECTIONS:
        texts += [sample.injection(name) or "" for sample in members]
    rows = np.asarray(encode(texts), dtype=np.float64)
    stems, *injections = np.split(rows, 1 + len(INJECTIONS))
    return np.round(np.mean([stems @ own.T for own in injections], axis=0), _DECIMALS)
