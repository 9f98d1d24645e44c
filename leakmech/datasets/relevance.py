"""How a set with relevant injections and a leakage set compare, before a model sees either.

Retention on a *matched* set (design: relevant affect) means something only if the two sets differ in one thing: the
relation of injection and stem. Four checks, all on texts:

* every sample names its partner in the leakage set (``source``) and has its stem, verbatim (:func:`matched_pairs`);
* no injection is in both sets (:func:`shared_injections`);
* a classifier that reads one part of a prompt cannot tell the sets apart, AUC = 0.5 (:func:`probe_auc`): exactly so for
  stems, which are the same in both; for injections it says how much their wording alone gives away;
* injections of partners are alike in length and strength (:func:`match_statistics`): mean over pairs of
  x_matched - x_leakage, and of its absolute value, for x = words and for any measure of sentiment.

Whether injections have the polarity of their condition is asked of an estimator (:func:`label_agreement`), which is
not a human judge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.text import normalised_words
from leakmech.datasets.samples import INJECTIONS, Condition, PromptSet, Sample

Measure = Callable[[Sequence[str]], Float[np.ndarray, " n"]]
"""Texts to numbers, such as valence P[positive] - P[negative]."""
Classify = Callable[[Sequence[str]], Float[np.ndarray, "n 3"]]
"""Texts to probabilities of negative, neutral and positive, as an expression estimator gives them."""

_CLASSES: tuple[Condition, ...] = ("negative", "neutral", "positive")
_FOLDS = 5


@dataclass(frozen=True)
class MatchStatistics:
    """Injections of two sets compared pair by pair."""

    rows: tuple[tuple[Condition, str, float, float, float, float, float], ...]
    """Condition, measure, the means of both sets, their difference, and mean and largest distance within a pair."""
    n_pairs: int

    def to_frame(self) -> pd.DataFrame:
        """One row for each condition and measure."""
        columns = ["condition", "measure", "matched", "leakage", "difference", "mean_distance", "max_distance"]
        return pd.DataFrame(list(self.rows), columns=columns)


def matched_pairs(matched: PromptSet, leakage: PromptSet) -> list[tuple[Sample, Sample]]:
    """Every sample of `matched` with the sample of `leakage` that its ``source`` names; refused unless one to one."""
    by_id = {sample.id: sample for sample in leakage}
    pairs: dict[str, tuple[Sample, Sample]] = {}
    for sample in matched:
        where = f"{matched.name}: sample {sample.id!r}"
        partner = by_id.get(sample.source or "")
        if partner is None:
            raise DatasetError(f"{where}: field 'source' is {sample.source!r}; expected an id of {leakage.name}")
        if partner.id in pairs:
            raise DatasetError(
                f"{where}: field 'source': {partner.id!r} is used by {pairs[partner.id][0].id!r} already"
            )
        if sample.stem != partner.stem:
            raise DatasetError(f"{where}: stem {sample.stem!r} is not that of {partner.id!r}, {partner.stem!r}")
        pairs[partner.id] = sample, partner
    missing = [name for name in by_id if name not in pairs]
    if missing:
        raise DatasetError(f"{matched.name}: no sample has the source {missing[0]!r} ({len(missing)} are missing)")
    return list(pairs.values())


def shared_injections(one: PromptSet, other: PromptSet) -> list[str]:
    """Injections of `one` that are also in `other`, whatever their case, punctuation and condition."""
    theirs = {_key(text) for text in _injections(other)}
    return [text for text in _injections(one) if _key(text) in theirs]


def match_statistics(
    matched: PromptSet, leakage: PromptSet, measures: Mapping[str, Measure] | None = None
) -> MatchStatistics:
    """Compare the injections of partners, condition by condition, by number of words and by `measures` of sentiment."""
    pairs = matched_pairs(matched, leakage)
    rows = []
    for condition in INJECTIONS:
        texts = [[getattr(pair[side], condition) for pair in pairs] for side in (0, 1)]
        for name, measure in {"words": _count_words, **(measures or {})}.items():
            # One call, so that equal texts get equal numbers.
            ours, theirs = np.asarray(measure([*texts[0], *texts[1]]), dtype=float).reshape(2, len(pairs))
            distance = np.abs(ours - theirs)
            difference = float(np.mean(ours - theirs))
            own = (condition, name, float(np.mean(ours)), float(np.mean(theirs)), difference)
            rows.append((*own, float(np.mean(distance)), float(np.max(distance))))
    return MatchStatistics(tuple(rows), n_pairs=len(pairs))


def label_agreement(samples: PromptSet, classify: Classify) -> dict[Condition, float]:
    """Share of the injections of each condition that `classify` finds most likely to be of that class."""
    texts = _injections(samples)
    most_likely = np.asarray(classify(texts)).argmax(axis=-1)
    found = np.array([_CLASSES[index] for index in most_likely]).reshape(len(samples), len(INJECTIONS))
    return {condition: float(np.mean(found[:, index] == condition)) for index, condition in enumerate(INJECTIONS)}


def probe_auc(one: Sequence[str], other: Sequence[str]) -> float:
    """AUC of a bag-of-words probe in telling two lists of texts apart, cross-validated.

    A logistic regression on words and pairs of words is fitted on four fifths of the texts and scores the last one;
    scores are pooled over the folds. Equal texts are never divided between fitting and scoring, for a probe that knows
    the partner of a text by heart would fall *below* chance.
    """
    # Here, not above: scikit-learn takes a second to import, and most of what reads samples needs none of it.
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline

    texts = [*one, *other]
    labels = np.array([1] * len(one) + [0] * len(other))
    belongs = [_key(text) for text in texts]
    if len(set(belongs)) < _FOLDS:
        raise UsageError(f"a probe needs {_FOLDS} different texts or more, found {len(set(belongs))}")
    scores = np.zeros(len(texts))
    for fit, held_out in GroupKFold(n_splits=_FOLDS).split(texts, labels, belongs):
        probe = make_pipeline(CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+"), LogisticRegression())
        probe.fit([texts[index] for index in fit], labels[fit])
        scores[held_out] = probe.decision_function([texts[index] for index in held_out])
    return float(roc_auc_score(labels, scores))


def _injections(samples: PromptSet) -> list[str]:
    """All injections, sample by sample in the order of :data:`INJECTIONS`."""
    return [getattr(sample, condition) for sample in samples for condition in INJECTIONS]


def _key(text: str) -> str:
    return " ".join(normalised_words(text))


def _count_words(texts: Sequence[str]) -> Float[np.ndarray, " n"]:
    return np.array([len(normalised_words(text)) for text in texts], dtype=float)
