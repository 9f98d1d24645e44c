"""How well expression estimators agree with human ratings, with labels and with each other; used by train_*.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, roc_auc_score
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.datasets.archive import SOURCES
from leakmech.datasets.samples import INJECTIONS, PromptSet
from leakmech.reports.tables import Table
from leakmech.scoring.classifiers import LABELS

THRESHOLD = 0.8  # of the mean rating, on the scale -4 to 4
VADER_THRESHOLD = 0.05  # of the compound score, as VADER's authors set it
SHORT_WORDS = 8
N_BINS = 15
METRICS = ("accuracy", "macro_f1", "kappa", "correlation", "ece")
HEADER = ("accuracy", "macro-F1", "kappa", "correlation", "ECE")
HUMAN = "one rater"

Probabilities = Float[np.ndarray, "n 3"]
Classes = Int[np.ndarray, " n"]
Opinion = tuple[Classes, Float[np.ndarray, " n"]]
"""Class and valence of every text."""


def class_of(ratings: Float[np.ndarray, " n"]) -> Classes:
    """0 (negative), 1 (neutral) or 2 (positive) by the thresholds."""
    return np.where(ratings <= -THRESHOLD, 0, np.where(ratings >= THRESHOLD, 2, 1))


def evaluate(texts: pd.DataFrame, estimators: Mapping[str, Probabilities]) -> pd.DataFrame:
    """Quality on some texts: per source, on the short ones and on all; one row an estimator and group of texts.

    VADER by the class that its authors read off the compound score, and one rater against the others, stand beside
    `estimators`.
    """
    compound, ruled = by_rule(texts["text"].tolist())
    ratings = texts["mean_rating"].to_numpy()
    classes = class_of(ratings)
    rows: list[dict[str, Any]] = []
    for group, chosen in groups(texts).items():
        common = {"texts": group, "n": int(chosen.sum())}
        for name, probabilities in estimators.items():
            rows.append(common | {"estimator": name} | classifier_quality(probabilities[chosen], ratings[chosen]))
        vader = quality(classes[chosen], ruled[chosen], ratings[chosen], compound[chosen])
        rows.append(common | {"estimator": "vader (compound)"} | vader)
        rows.append(common | {"estimator": HUMAN} | rater_quality(texts.loc[chosen, "ratings"].tolist()))
    return pd.DataFrame(rows, columns=["texts", "n", "estimator", *METRICS])


def groups(texts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Masks of the groups of texts that every table reports."""
    sources = {source: (texts["source"] == source).to_numpy() for source in SOURCES}
    short = (texts["text"].str.split().str.len() <= SHORT_WORDS).to_numpy()
    return sources | {f"<= {SHORT_WORDS} words": short, "all": np.ones(len(texts), dtype=bool)}


def classifier_quality(probabilities: Probabilities, ratings: Float[np.ndarray, " n"]) -> dict[str, float]:
    """All five metrics; the correlation is that of P[positive] - P[negative] with the mean rating."""
    classes, predicted = class_of(ratings), probabilities.argmax(axis=1)
    error = calibration_error(probabilities.max(axis=1), predicted == classes)
    return quality(classes, predicted, ratings, probabilities[:, 2] - probabilities[:, 0]) | {"ece": error}


def quality(classes: Classes, predicted: Classes, ratings: np.ndarray, valence: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(classes, predicted)),
        "macro_f1": float(f1_score(classes, predicted, average="macro")),
        "kappa": float(cohen_kappa_score(classes, predicted)),
        "correlation": float(np.corrcoef(valence, ratings)[0, 1]),
    }


def rater_quality(ratings: Sequence[Sequence[int]]) -> dict[str, float]:
    """Every single rater against the mean of the others on the same text, all texts with equal weight."""
    one = np.concatenate([np.asarray(row, dtype=float) for row in ratings])
    others = np.concatenate([(np.sum(row) - np.asarray(row)) / (len(row) - 1) for row in ratings])
    weight = np.concatenate([np.full(len(row), 1 / len(row)) for row in ratings])
    covariance = np.cov(one, others, aweights=weight)
    truth, said = class_of(others), class_of(one)
    return {
        "accuracy": float(accuracy_score(truth, said, sample_weight=weight)),
        "macro_f1": float(f1_score(truth, said, average="macro", sample_weight=weight)),
        "kappa": float(cohen_kappa_score(truth, said, sample_weight=weight)),
        "correlation": float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])),
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error over bins of equal width of the winning class's probability (Naeini et al. 2015)."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))


def as_values(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The table as nested values for the JSON file: estimator, texts, metric; a metric without meaning is left out."""
    values: dict[str, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        metrics = {metric: round(row[metric], 4) for metric in METRICS if row[metric] == row[metric]}
        values.setdefault(row["estimator"], {})[row["texts"]] = {"n": row["n"], **metrics}
    return values


def as_table(table: pd.DataFrame, title: str) -> Table:
    """The table for reading."""
    rows = [
        [row["texts"], str(row["n"]), row["estimator"], *("" if row[m] != row[m] else f"{row[m]:.3f}" for m in METRICS)]
        for row in table.to_dict("records")
    ]
    return Table(title=title, header=["texts", "n", "estimator", *HEADER], rows=rows)


# -- estimators against each other -----------------------------------------------------------------------------------


def by_rule(texts: Sequence[str]) -> tuple[Float[np.ndarray, " n"], Classes]:
    """VADER's compound scores, and the classes that its authors read off them."""
    analyser = SentimentIntensityAnalyzer()
    compound = np.array([analyser.polarity_scores(text)["compound"] for text in texts])
    return compound, np.where(compound <= -VADER_THRESHOLD, 0, np.where(compound >= VADER_THRESHOLD, 2, 1))


def opinions(texts: Sequence[str], estimators: Mapping[str, Probabilities]) -> dict[str, Opinion]:
    """Classes and valences by estimator; VADER's are those of its authors' rule."""
    found = {name: (rows.argmax(axis=1), rows[:, 2] - rows[:, 0]) for name, rows in estimators.items()}
    compound, classes = by_rule(texts)
    return found | {"vader (compound)": (classes, compound)}


def errors_in_common(found: Mapping[str, Opinion], ratings: Float[np.ndarray, " n"]) -> list[dict[str, Any]]:
    """What every pair of estimators gets wrong together; one row a pair.

    ``both`` is the share of texts that both put into a wrong class, ``both_if_independent`` the product of the two
    shares, ``jaccard`` the errors of both over the errors of either, ``phi`` the correlation of the two indicators of
    an error, and ``residuals`` the correlation of the valences given the mean rating (partial correlation).
    """
    truth, rows = class_of(ratings), []
    for (a, (classes_a, valence_a)), (b, (classes_b, valence_b)) in combinations(found.items(), 2):
        wrong_a, wrong_b = classes_a != truth, classes_b != truth
        residuals = [
            valence - np.polyval(np.polyfit(ratings, valence, 1), ratings) for valence in (valence_a, valence_b)
        ]
        rows.append(
            {
                "first": a,
                "second": b,
                "both": float((wrong_a & wrong_b).mean()),
                "both_if_independent": float(wrong_a.mean() * wrong_b.mean()),
                "jaccard": float((wrong_a & wrong_b).sum() / (wrong_a | wrong_b).sum()),
                "phi": float(np.corrcoef(wrong_a, wrong_b)[0, 1]),
                "residuals": float(np.corrcoef(residuals[0], residuals[1])[0, 1]),
            }
        )
    return rows


def label_quality(samples: PromptSet, found: Mapping[str, Opinion]) -> list[dict[str, Any]]:
    """Agreement with the polarity labels of injections, in the order of :func:`injections`: one row an estimator.

    ``auc`` is the area under the curve of the valence as a detector of positive among charged injections.
    """
    labels = np.array([LABELS.index(condition) for _ in samples for condition in INJECTIONS])
    charged = labels != LABELS.index("neutral")
    return [
        {
            "estimator": name,
            "n": len(labels),
            **{c: float((classes == labels)[labels == LABELS.index(c)].mean()) for c in INJECTIONS},
            "kappa": float(cohen_kappa_score(labels, classes)),
            "auc": float(roc_auc_score(labels[charged] == LABELS.index("positive"), valence[charged])),
        }
        for name, (classes, valence) in found.items()
    ]


def injections(samples: PromptSet) -> list[str]:
    """All injections, sample by sample."""
    return [str(sample.injection(condition)) for sample in samples for condition in INJECTIONS]
