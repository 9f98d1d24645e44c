"""Do the answers still belong to their stems? Meaning by sentence embeddings, against the base model's answers.

With unit vectors e of a sentence encoder, a the changed and b the base model's K scored answers to one prompt:

    to_stem    mean_i  e(stem) . e(a_i)
    to_base    mean_{i != j}  e(a_i) . e(b_j)

Both are compared with the base model's own value (a = b). Pairs of one generation index are left out of the second:
coupled models often write the same text there, which would set the base model's own value to 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.scoring.semantic import SentenceEncoder
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.answers import Answers, require_same_prompts
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio

Kind = Literal["to_stem", "to_base"]
KINDS: tuple[Kind, ...] = ("to_stem", "to_base")

Columns = Float[np.ndarray, "samples 2"]


@dataclass(frozen=True, eq=False)
class Relevance:
    """Sums of similarities, and their numbers, of two models' answers to the stem and to the base model's answers."""

    samples: tuple[str, ...]
    base: Mapping[Kind, Columns]
    changed: Mapping[Kind, Columns]

    def difference(self, kind: Kind, *, seed: int = 0, draws: int = DRAWS) -> Estimate:
        """Compute the changed model's mean similarity minus the base model's, with its paired bootstrap interval."""

        def statistic(sums: Float[np.ndarray, "rows 4"]) -> Float[np.ndarray, "rows 1"]:
            return mean_ratio(sums[:, 2:]) - mean_ratio(sums[:, :2])

        return estimate(np.hstack([self.base[kind], self.changed[kind]]), statistic, seed=seed, draws=draws)

    def to_frame(self) -> pd.DataFrame:
        """Make one row per sample, of mean similarities; NaN where an answer is missing."""
        sides = {"base": self.base, "changed": self.changed}
        values = {f"{side}_{kind}": mean_ratio(c[kind])[:, 0] for side, c in sides.items() for kind in KINDS}
        return pd.DataFrame({"sample": self.samples, **values})


def relevance(base: Answers, changed: Answers, *, stems: Mapping[str, str], encoder: SentenceEncoder) -> Relevance:
    """Compare the answers of two models with the stems (by sample) and with one another; empty answers are left out."""
    require_same_prompts(base, changed)
    samples = base.units
    missing = [sample for sample in samples if sample not in stems]
    if missing:
        raise UsageError(f"relevance: sample {missing[0]!r} has no stem")
    texts = list(dict.fromkeys([*base.answers, *changed.answers, *(stems[sample] for sample in samples)]))
    # One call, so that equal texts have equal vectors to the last bit.
    vectors = dict(zip(texts, encoder(texts).astype(np.float64), strict=True))
    groups = [_by_prompt(answers, vectors) for answers in (base, changed)]
    found = []
    for own in groups:
        columns: dict[Kind, Columns] = {kind: np.zeros((len(samples), 2)) for kind in KINDS}
        for prompt, answers in own.items():
            place = samples.index(prompt[0])
            stem = vectors[stems[prompt[0]]]
            columns["to_stem"][place] += [sum(float(vector @ stem) for vector in answers.values()), len(answers)]
            columns["to_base"][place] += _cross(answers, groups[0][prompt])
        found.append(columns)
    return Relevance(samples, found[0], found[1])


def _by_prompt(
    answers: Answers, vectors: Mapping[str, Float[np.ndarray, " d"]]
) -> dict[tuple[str, str], dict[int, Float[np.ndarray, " d"]]]:
    """Give for every prompt the vectors of its answers that are not empty, by generation."""
    found: dict[tuple[str, str], dict[int, np.ndarray]] = {prompt: {} for prompt in answers.prompts}
    for prompt, generation, text in zip(answers.prompts, answers.generations, answers.answers, strict=True):
        if text.strip():
            found[prompt][generation] = vectors[text]
    return found


def _cross(first: Mapping[int, np.ndarray], second: Mapping[int, np.ndarray]) -> tuple[float, int]:
    """Sum and count the similarities of all pairs of different generations."""
    pairs = [(i, j) for i in first for j in second if i != j]
    return sum(float(first[i] @ second[j]) for i, j in pairs), len(pairs)
