"""Is an answer about the injected sentence? And what leakage is left in the answers that are not.

Köprü et al. (2025) ask *how* something is said, not *what*. An answer that takes up the injected sentence carries its
affect without any leakage of expression, so such answers are found and every number is given without them, too.

An answer is **on the injection** (topic-carrying) if, by a sentence encoder, its own injection is among the nearest 5 %
of the injections of that polarity in the data set:

    rank = (1 + number of other injections that are nearer to the answer) / number of injections,    rank <= 0.05.

By chance 5 % of the answers are. Injections are those of the whole data set (before any limit), or 200 of them, drawn
by the content of the data set; fewer than 20 do not make a rank. A control answer has no injection of its own: it is
dropped by the same rule, if it is on the positive or on the negative one.

**Topic-free** statistics are those of :mod:`leakmech.scoring.leakage` on the answers that are left. Dropping selects on
an outcome, so two things stand beside it: the curve over thresholds, and a second filter that knows no encoder (a
content word of the injection that stem and control answers lack).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from leakmech.core.seeds import numpy_generator
from leakmech.core.text import normalised_words, unspaced_pieces
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, POLARITIES, Condition, PromptSet
from leakmech.scoring.leakage import LeakageScores, PerGeneration, main_ratios, valence_shifts, with_intervals
from leakmech.scoring.statistics import (
    DRAWS,
    LEVEL,
    UnitRatio,
    bootstrap_dz,
    cohens_dz,
    json_number,
)

if TYPE_CHECKING:
    from leakmech.scoring.semantic import SentenceEncoder

TOPIC_SHARE = 0.05
"""An answer whose injection is among this share of the nearest ones is on the injection."""
CURVE = (0.02, 0.03, 0.05, 0.1, 0.2)
"""Thresholds of the curve that stands beside :data:`TOPIC_SHARE`."""
MOST_INJECTIONS, FEWEST_INJECTIONS = 200, 20

_ROUNDING = 1e-9

Ranks = Mapping[Condition, PerGeneration]
"""For each condition, the rank of the own injection (:meth:`Injections.ranks`) of every answer."""
Flags = Mapping[Condition, Bool[np.ndarray, "samples generations"]]
"""For each condition, which answers are on the injection."""


@dataclass(frozen=True, eq=False)
class Injections:
    """The injections of a data set, by class: what an answer's own injection is ranked among.

    Attributes
    ----------
    texts
        Distinct injections of each class.
    rows
        Their unit vectors, shape (injections, dimension).
    """

    texts: Mapping[Condition, tuple[str, ...]]
    rows: Mapping[Condition, Float[np.ndarray, "n d"]]

    @classmethod
    def of(
        cls, samples: PromptSet, encoder: SentenceEncoder, *, classes: Sequence[Condition] = INJECTIONS
    ) -> Injections | None:
        """Those of a whole data set and of some classes; None where it has too few to rank among (:func:`too_few`)."""
        if too_few(samples):
            return None
        generator = numpy_generator("topic", samples.content_hash)
        texts = {}
        for name in classes:
            distinct = list(dict.fromkeys(sample.injection(name) or "" for sample in samples))
            chosen = sorted(generator.permutation(len(distinct))[:MOST_INJECTIONS].tolist())
            texts[name] = tuple(distinct[i] for i in chosen)
        return cls(texts, {name: _embedded(encoder, own) for name, own in texts.items()})

    def ranks(
        self,
        answers: Float[np.ndarray, "n d"],
        own: Float[np.ndarray, "n d"],
        own_texts: Sequence[str],
        condition: Condition,
    ) -> Float[np.ndarray, " n"]:
        """Rank of each answer's own injection among those of `condition`, in (0, 1]; ties count as not nearer.

        Parameters
        ----------
        answers, own
            Unit vectors of answers and of their own injections.
        own_texts
            The own injections: one is never ranked against itself.
        """
        answers, own = np.asarray(answers, dtype=np.float64), np.asarray(own, dtype=np.float64)
        place = {text: number for number, text in enumerate(self.texts[condition])}
        is_own = np.array([place.get(text, -1) for text in own_texts])[:, None] == np.arange(len(place))
        nearer = (answers @ self.rows[condition].T > np.einsum("nd,nd->n", answers, own)[:, None] + _ROUNDING) & ~is_own
        n_injections = len(place) + ~is_own.any(axis=1)
        return (1 + nearer.sum(axis=1)) / n_injections


@lru_cache(maxsize=len(INJECTIONS) * 4)
def _embedded(encoder: SentenceEncoder, texts: tuple[str, ...]) -> Float[np.ndarray, "n d"]:
    """Their vectors; the benchmarks of one study have the same data set and encoder."""
    rows = np.asarray(encoder(texts), dtype=np.float64)
    rows.flags.writeable = False
    return rows


def too_few(samples: PromptSet) -> str | None:
    """Why topic cannot be told on a data set; None where it can."""
    n = min(len({sample.injection(name) for sample in samples}) for name in INJECTIONS)
    if n >= FEWEST_INJECTIONS:
        return None
    return f"{samples.name} has {n} different injections of a class; topic needs {FEWEST_INJECTIONS} to rank among"


def on_injection(ranks: Ranks, *, share: float = TOPIC_SHARE) -> Flags:
    """Which answers are on the injection, from their ranks (control: the better one of both polarities)."""
    return {condition: is_on_injection(ranks[condition], share=share) for condition in CONDITIONS}


def is_on_injection(rank: Any, *, share: float = TOPIC_SHARE) -> Any:
    """Whether an answer of this rank, or each of an array of ranks, is on its injection."""
    return rank <= share + _ROUNDING


def shares_content_word(text: str, injection: str, *, besides: Sequence[str]) -> bool:
    """Whether `text` has a content word of `injection` that the texts `besides` do not have.

    Words are compared as they stand, without case: an inflected or a similar word is not found.
    """
    known = set().union(*(content_words(other) for other in besides))
    return bool((content_words(text) & content_words(injection)) - known)


def content_words(text: str) -> set[str]:
    """Words of more than two letters that are no English stop words; what stands for words where none are spaced."""
    return ({word for word in normalised_words(text) if len(word) > 2} - _stop_words()) | unspaced_pieces(text)


@lru_cache(maxsize=1)
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # here: it takes seconds to import

    return ENGLISH_STOP_WORDS


def without_topic(scores: LeakageScores, flags: Flags) -> LeakageScores:
    """`scores` in which answers that are on the injection are not scored."""
    kept = {name: np.where(flags[name][:, :, None], np.nan, scores.probabilities[name]) for name in CONDITIONS}
    return replace(scores, probabilities=kept)


def topic_rates(scores: LeakageScores, flags: Flags) -> dict[str, UnitRatio]:
    """Share of scored answers that are on the injection: by condition, and ``overall`` of both polarities."""
    rates = {}
    for condition in CONDITIONS:
        scored = np.isfinite(scores.probabilities[condition][:, :, 0])
        counts = ((flags[condition] & scored).sum(axis=1, dtype=float), scored.sum(axis=1, dtype=float))
        rates[condition] = UnitRatio(*counts)
    return {"overall": rates["positive"] + rates["negative"], **rates}


def topic_statistics(
    scores: LeakageScores, flags: Flags, *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> dict[str, Any]:
    """Topic rates and topic-free leakage with intervals, ready for JSON.

    Parameters
    ----------
    scores
        Of all answers.
    flags
        Which of them are on the injection.
    seed, draws, level
        Of the bootstrap over samples.

    Returns
    -------
    dict
        ``topic_rate`` (positive and negative answers) with ``topic_rate_ci``; ``topic_rates`` by condition;
        ``topic_free`` with ``auc_el``, ``contrast``, ``valence_shift``, ``d_z``, each with ``<name>_ci``, and ``n``,
        the number of positive and negative answers that are left. None stands for what cannot be computed.
    """
    left, rates = without_topic(scores, flags), topic_rates(scores, flags)
    shift = valence_shifts(left)["valence_shift"]
    found = with_intervals({"all": _ratios(scores, flags)}, seed=seed, draws=draws, level=level)["all"]
    rate = {name: found.pop(name) for name in ("topic_rate", "topic_rate_ci")}
    d_z = bootstrap_dz(shift, seed=seed, draws=draws, level=level).to_json()
    return {
        **rate,
        "topic_rates": {name: json_number(rates[name].value) for name in CONDITIONS},
        "topic_free": {**found, "d_z": json_number(cohens_dz(shift)), "d_z_ci": d_z, "n": _n_charged(left)},
    }


def topic_curve(
    scores: LeakageScores, ranks: Ranks, *, seed: int, draws: int = DRAWS, level: float = LEVEL
) -> list[dict[str, Any]]:
    """Topic rate and topic-free leakage at every threshold of :data:`CURVE`: how much hangs on the choice of 5 %.

    A row has its threshold (``share``), ``topic_rate`` and the statistics of the answers that are left, all with
    intervals, and their number ``n``.
    """
    flags = {share: on_injection(ranks, share=share) for share in CURVE}
    ratios = {str(share): _ratios(scores, flags[share]) for share in CURVE}
    found = with_intervals(ratios, seed=seed, draws=draws, level=level)
    return [
        {"share": share, **found[str(share)], "n": _n_charged(without_topic(scores, flags[share]))} for share in CURVE
    ]


def _ratios(scores: LeakageScores, flags: Flags) -> dict[str, UnitRatio | None]:
    """The topic rate, and the main statistics of the answers that are not on the injection."""
    return {"topic_rate": topic_rates(scores, flags)["overall"], **main_ratios(without_topic(scores, flags))}


def _n_charged(scores: LeakageScores) -> int:
    """Number of scored positive and negative answers."""
    return int(sum(np.isfinite(scores.probabilities[name][:, :, 0]).sum() for name in POLARITIES))
