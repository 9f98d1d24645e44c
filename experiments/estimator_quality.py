"""How well an expression estimator agrees with human ratings; used by train_estimator.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from sklearn.metrics import accuracy_score, f1_score
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.datasets.archive import SOURCES
from leakmech.reports.tables import Table

THRESHOLD = 0.8  # of the mean rating, on the scale -4 to 4
VADER_THRESHOLD = 0.05  # of the compound score, as VADER's authors set it
SHORT_WORDS = 8
N_BINS = 15
METRICS = ("accuracy", "macro_f1", "correlation", "ece")
HUMAN = "one rater"

Probabilities = Float[np.ndarray, "n 3"]
Classes = Int[np.ndarray, " n"]


def class_of(ratings: Float[np.ndarray, " n"]) -> Classes:
    """0 (negative), 1 (neutral) or 2 (positive) by the thresholds."""
    return np.where(ratings <= -THRESHOLD, 0, np.where(ratings >= THRESHOLD, 2, 1))


def evaluate(texts: pd.DataFrame, estimators: Mapping[str, Probabilities]) -> pd.DataFrame:
    """Quality on some texts: per source, on the short ones and on all; one row an estimator and group of texts.

    VADER by the class that its authors read off the compound score, and one rater against the others, stand beside
    `estimators`.
    """
    analyser = SentimentIntensityAnalyzer()
    compound = np.array([analyser.polarity_scores(text)["compound"] for text in texts["text"]])
    by_rule = np.where(compound <= -VADER_THRESHOLD, 0, np.where(compound >= VADER_THRESHOLD, 2, 1))
    ratings = texts["mean_rating"].to_numpy()
    classes = class_of(ratings)
    rows: list[dict[str, Any]] = []
    for group, chosen in groups(texts).items():
        common = {"texts": group, "n": int(chosen.sum())}
        for name, probabilities in estimators.items():
            rows.append(common | {"estimator": name} | classifier_quality(probabilities[chosen], ratings[chosen]))
        vader = quality(classes[chosen], by_rule[chosen], ratings[chosen], compound[chosen])
        rows.append(common | {"estimator": "vader (compound)"} | vader)
        rows.append(common | {"estimator": HUMAN} | rater_quality(texts.loc[chosen, "ratings"].tolist()))
    return pd.DataFrame(rows, columns=["texts", "n", "estimator", *METRICS])


def groups(texts: pd.DataFrame) -> dict[str, np.ndarray]:
    """Masks of the groups of texts that every table reports."""
    sources = {source: (texts["source"] == source).to_numpy() for source in SOURCES}
    short = (texts["text"].str.split().str.len() <= SHORT_WORDS).to_numpy()
    return sources | {f"<= {SHORT_WORDS} words": short, "all": np.ones(len(texts), dtype=bool)}


def classifier_quality(probabilities: Probabilities, ratings: Float[np.ndarray, " n"]) -> dict[str, float]:
    """All four metrics; the correlation is that of P[positive] - P[negative] with the mean rating."""
    classes, predicted = class_of(ratings), probabilities.argmax(axis=1)
    error = calibration_error(probabilities.max(axis=1), predicted == classes)
    return quality(classes, predicted, ratings, probabilities[:, 2] - probabilities[:, 0]) | {"ece": error}


def quality(classes: Classes, predicted: Classes, ratings: np.ndarray, valence: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(classes, predicted)),
        "macro_f1": float(f1_score(classes, predicted, average="macro")),
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
    return Table(
        title=title, header=["texts", "n", "estimator", "accuracy", "macro-F1", "correlation", "ECE"], rows=rows
    )
