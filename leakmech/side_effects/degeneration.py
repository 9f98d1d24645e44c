"""Degenerate texts: repetition, loops, lengths that are off, nothing at all.

The K generations of one prompt are taken together, so that a model that loops and one that says the same thing every
time are both seen. With words in lower case, without punctuation:

    distinct_n      different n-grams / n-grams of the generations of a prompt (Li et al. 2016), n = 1, 2, 3
    repeated        1 - (different 4-grams / 4-grams) inside each generation (seq-rep-4 of Welleck et al. 2020)
    compression     bytes of the generations, a line each / bytes after DEFLATE (zlib, level 9, no header)
    length          tokens a generation (words where tokens are not known)
    empty           share of generations without a word or an emoji
    looping         share of generations that end in a loop

A text *ends in a loop* when some period p repeats to its end: with white space and case normalised, its last
L >= max(3 p - 1, 24) characters satisfy s[i] = s[i - p] (the space after the last period is not there). So a loop
shows at least three times and over 24 characters; "no, no, no" is not one.

Every measure is a ratio of sums over prompts, kept per sample: a prompt without n-grams says nothing of them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.text import is_emoji, normalised_words
from leakmech.scoring.statistics import DRAWS
from leakmech.side_effects.answers import Answers
from leakmech.side_effects.equivalence import Estimate, estimate, mean_ratio

DISTINCT = (1, 2, 3)
_REPEATED = 4
_LOOP_PERIODS = 3
_LOOP_CHARACTERS = 24

MEASURES = (*(f"distinct_{n}" for n in DISTINCT), "repeated", "compression", "length", "empty", "looping")

Columns = Float[np.ndarray, "samples 2"]


@dataclass(frozen=True, eq=False)
class Degeneration:
    """Degeneration of one model's generations."""

    samples: tuple[str, ...]
    columns: dict[str, Columns]
    """For each of :data:`MEASURES` numerator and denominator of every sample."""

    def value(self, measure: str) -> float:
        """Compute one measure over all samples; NaN where nothing says anything about it."""
        return float(mean_ratio(self.columns[measure].sum(axis=0, keepdims=True))[0, 0])

    def estimates(self, *, seed: int = 0, draws: int = DRAWS) -> dict[str, Estimate]:
        """Compute every measure with its bootstrap interval over samples."""
        return {name: estimate(c, mean_ratio, seed=seed, draws=draws) for name, c in self.columns.items()}

    def to_frame(self) -> pd.DataFrame:
        """Make one row per sample, one column per measure."""
        values = {name: mean_ratio(columns)[:, 0] for name, columns in self.columns.items()}
        return pd.DataFrame({"sample": self.samples, **values})


def degeneration(answers: Answers) -> Degeneration:
    """Measure the whole texts of a model's generations."""
    lengths = answers.n_tokens
    if np.isnan(lengths).any():
        lengths = np.array([len(normalised_words(text)) for text in answers.texts], dtype=np.float64)
    by_prompt: dict[tuple[str, str], list[int]] = {}
    for index, prompt in enumerate(answers.prompts):
        by_prompt.setdefault(prompt, []).append(index)
    samples = answers.units
    place = {sample: i for i, sample in enumerate(samples)}
    columns = {name: np.zeros((len(samples), 2)) for name in MEASURES}
    for (sample, _), members in by_prompt.items():
        texts = [answers.texts[i] for i in members]
        for name, values in _measure(texts, lengths[members]).items():
            columns[name][place[sample]] += values
    return Degeneration(samples, columns)


def _measure(texts: Sequence[str], lengths: Float[np.ndarray, " texts"]) -> dict[str, tuple[float, float]]:
    """Compute numerator and denominator of every measure for the generations of one prompt."""
    words = [normalised_words(text) for text in texts]
    found: dict[str, tuple[float, float]] = {f"distinct_{n}": distinct(words, n) for n in DISTINCT}
    within = [distinct([one], _REPEATED) for one in words]
    found["repeated"] = (sum(total - different for different, total in within), sum(total for _, total in within))
    found["compression"] = compression(texts)
    found["length"] = (float(lengths.sum()), len(texts))
    found["empty"] = (sum(map(is_empty, texts)), len(texts))
    found["looping"] = (sum(map(ends_in_loop, texts)), len(texts))
    return found


def distinct(texts: Sequence[Sequence[str]], n: int) -> tuple[int, int]:
    """Count the different n-grams of words in all texts together, and all n-grams."""
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)), len(grams)


def compression(texts: Sequence[str]) -> tuple[int, int]:
    """Count the bytes of the texts, each a line, and those that DEFLATE needs for them; (0, 0) when all are empty."""
    data = "\n".join(text for text in texts if text.strip()).encode()
    if not data:
        return 0, 0
    squeeze = zlib.compressobj(level=9, wbits=-zlib.MAX_WBITS)
    return len(data), len(squeeze.compress(data) + squeeze.flush())


def is_empty(text: str) -> bool:
    """Say whether a text holds neither a word nor an emoji."""
    return not normalised_words(text) and not any(map(is_emoji, text))


def ends_in_loop(text: str) -> bool:
    """Say whether some period repeats to the end of the text; see the head of this module."""
    characters = " ".join(text.lower().split())[::-1]
    for period, matched in enumerate(_prefix_matches(characters)):
        if period and matched + period >= max(_LOOP_PERIODS * period - 1, _LOOP_CHARACTERS):
            return True
    return False


def _prefix_matches(text: str) -> list[int]:
    """Give for every place the length of the longest common prefix of the text and its rest from there (Z function)."""
    n = len(text)
    matches = [n, *[0] * (n - 1)] if n else []
    left = right = 0
    for i in range(1, n):
        length = min(right - i, matches[i - left]) if i < right else 0
        while i + length < n and text[length] == text[i + length]:
            length += 1
        if i + length > right:
            left, right = i, i + length
        matches[i] = length
    return matches
