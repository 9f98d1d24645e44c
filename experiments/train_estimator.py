"""Fit the head of the embedded expression estimator to the human ratings of Hutto & Gilbert (2014).

Texts with a mean rating of at most -0.8 are negative, of at least 0.8 positive, and neutral between. They are split by
the document they come from, so that no review or editorial is on both sides; what is nearly a copy of a training text
(some tweets are variants of one another: "Anger is ugly.", "Anger is UGLY!!") is left out of the other two parts. A
multinomial logistic regression on sentence embeddings is fitted on the training part; its penalty and then its
temperature are chosen on the validation part; the test part is looked at once, beside VADER on the same texts.

    python experiments/train_estimator.py                  # pip fetches the ratings into the cache
    python experiments/train_estimator.py --sdist vaderSentiment-3.3.2.tar.gz --out /tmp/head

Takes about two minutes on two cores, nearly all of it for the embeddings. Prints the tables and writes
embedded_head.safetensors and embedded_head.json.
"""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from safetensors.numpy import save
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.errors import LeakmechError
from leakmech.scoring.archive import SOURCES, fetch_archive, load_ratings
from leakmech.scoring.expression import HEAD_FORMAT_VERSION, LABELS, load_estimator
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.seeds import stable_hash
from leakmech.store import atomic_path, content_hash, write_json

THRESHOLD = 0.8  # of the mean rating, on the scale -4 to 4
VADER_THRESHOLD = 0.05  # of the compound score, as VADER's authors set it
PENALTIES = (0.3, 1.0, 3.0, 10.0)  # scikit-learn's C; the strongest first, which wins a tie
SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
COPY_SIMILARITY = 0.95  # cosine
N_BINS = 15

Probabilities = Float[np.ndarray, "n 3"]
Classes = Int[np.ndarray, " n"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="a vaderSentiment-3.3.2.tar.gz on disk (default: fetched by pip)")
    data = Path(str(resources.files("leakmech.scoring"))) / "data"
    parser.add_argument("--out", type=Path, default=data, help="folder for the head (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        train(sdist=arguments.sdist, out=arguments.out)
    except LeakmechError as error:
        raise SystemExit(f"error: {error}") from error


def train(*, sdist: Path | None, out: Path) -> None:
    """Fit, report and write the head."""
    texts = prepare(load_ratings(fetch_archive(sdist=sdist)))
    encoder = load_encoder("embedded")
    embeddings = encoder(texts["text"].tolist())
    texts.loc[near_copies(embeddings, texts["split"].to_numpy()), "split"] = "left out"
    parts = {name: (texts["split"] == name).to_numpy() for name in SHARES}
    classes = texts["class"].to_numpy()

    model, penalty, trials = choose_penalty(embeddings, classes, parts)
    temperature = fit_temperature(
        model.decision_function(embeddings[parts["validation"]]), classes[parts["validation"]]
    )
    weight = (np.asarray(model.coef_) / temperature).astype(np.float32)
    bias = (np.asarray(model.intercept_) / temperature).astype(np.float32)
    print(f"validation log loss by C: {trials}; chosen C {penalty}, temperature {temperature:.3f}\n")

    test = texts.loc[parts["test"]]
    table = evaluate(test, softmax(embeddings[parts["test"]] @ weight.T + bias))
    print(table.to_string(index=False, float_format="%.3f"))
    fitted = {"penalty": penalty, "temperature": round(temperature, 6)}
    write_head(out, weight=weight, bias=bias, description=describe(encoder, texts, table) | fitted)
    print(f"\nwrote {out / 'embedded_head.safetensors'} and .json")


def describe(encoder: SentenceEncoder, texts: pd.DataFrame, table: pd.DataFrame) -> dict[str, Any]:
    """What the JSON file says about the head; leakmech.scoring.expression.load_head checks the first six."""
    return {
        "format_version": HEAD_FORMAT_VERSION,
        "kind": "logistic",
        "encoder": "embedded",
        "encoder_hash": encoder.hash,
        "dimension": encoder.dimension,
        "labels": list(LABELS),
        "thresholds": [-THRESHOLD, THRESHOLD],
        "training_data": {
            "source": "Hutto & Gilbert 2014 (vaderSentiment 3.3.2 source distribution)",
            "hash": training_hash(texts),
        },
        "split_sizes": {name: texts["split"].tolist().count(name) for name in (*SHARES, "left out")},
        "test": test_metrics(table),
    }


def prepare(ratings: pd.DataFrame) -> pd.DataFrame:
    """Classes and splits; a text that occurs more than once counts once, where it occurs first."""
    texts = ratings.drop_duplicates("text").reset_index(drop=True)
    label = np.where(texts["mean_rating"] <= -THRESHOLD, 0, np.where(texts["mean_rating"] >= THRESHOLD, 2, 1))
    split = [split_of(source, document) for source, document in zip(texts["source"], texts["document"], strict=True)]
    return texts.assign(**{"class": label, "split": split})


def training_hash(texts: pd.DataFrame) -> str:
    """Hash of everything that the head depends on: texts, ratings, splits."""
    rows = zip(texts["text"], texts["mean_rating"], texts["split"], strict=True)
    return content_hash(*(f"{text}\t{rating:.6f}\t{split}" for text, rating, split in rows))


def split_of(source: str, document: str) -> str:
    """The split of a document, from a hash of its name: the same on every machine, whatever else is in the data."""
    position = stable_hash("train_estimator", source, document) % 10_000 / 10_000
    if position < SHARES["train"]:
        return "train"
    return "validation" if position < SHARES["train"] + SHARES["validation"] else "test"


def near_copies(embeddings: Float[np.ndarray, "n d"], split: np.ndarray) -> np.ndarray:
    """Mask of the texts outside the training part that nearly repeat a training text."""
    training = embeddings[split == "train"]
    copies = np.zeros(len(embeddings), dtype=bool)
    for index in np.array_split(np.flatnonzero(split != "train"), 20):
        copies[index] = (embeddings[index] @ training.T).max(axis=1) > COPY_SIMILARITY
    return copies


def choose_penalty(
    embeddings: Float[np.ndarray, "n d"], classes: Classes, parts: dict[str, np.ndarray]
) -> tuple[LogisticRegression, float, dict[float, float]]:
    """The regression with the smallest log loss on the validation part, its C, and the loss of every C."""
    models: dict[float, LogisticRegression] = {}
    losses: dict[float, float] = {}
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2000)
        model.fit(embeddings[parts["train"]], classes[parts["train"]])
        predicted = model.predict_proba(embeddings[parts["validation"]])
        models[penalty] = model
        losses[penalty] = round(float(log_loss(classes[parts["validation"]], predicted)), 4)
    best = min(losses, key=lambda penalty: losses[penalty])
    return models[best], best, losses


def fit_temperature(logits: Float[np.ndarray, "n 3"], classes: Classes) -> float:
    """The divisor of the logits with the smallest log loss (Guo et al. 2017)."""
    found = minimize_scalar(
        lambda log_t: log_loss(classes, softmax(logits / np.exp(log_t)), labels=[0, 1, 2]),
        bounds=(-2.0, 2.0),
        method="bounded",
    )
    return float(np.exp(found.x))  # pyright: ignore[reportAttributeAccessIssue] - OptimizeResult sets it


def softmax(logits: Float[np.ndarray, "n 3"]) -> Probabilities:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def evaluate(test: pd.DataFrame, head: Probabilities) -> pd.DataFrame:
    """Quality of the head and of VADER on the test texts, per source and overall.

    VADER stands there twice: by the class its authors read off the compound score, and by the proportions that
    leakmech's ``vader`` estimator returns.
    """
    texts = test["text"].tolist()
    proportions = load_estimator("vader")(texts)
    analyser = SentimentIntensityAnalyzer()
    compound = np.array([analyser.polarity_scores(text)["compound"] for text in texts])
    compound_class = np.where(compound <= -VADER_THRESHOLD, 0, np.where(compound >= VADER_THRESHOLD, 2, 1))
    rows = []
    for source in (*SOURCES, "all"):
        chosen = np.ones(len(test), dtype=bool) if source == "all" else (test["source"] == source).to_numpy()
        classes, ratings = test["class"].to_numpy()[chosen], test["mean_rating"].to_numpy()[chosen]
        common = {"source": source, "n": int(chosen.sum())}
        for name, rows_of in (("embedded", head), ("vader (proportions)", proportions)):
            predicted, confidence = rows_of[chosen].argmax(axis=1), rows_of[chosen].max(axis=1)
            valence = rows_of[chosen, 2] - rows_of[chosen, 0]
            error = calibration_error(confidence, predicted == classes)
            rows.append(common | {"estimator": name} | quality(classes, predicted, ratings, valence) | {"ece": error})
        by_rule = quality(classes, compound_class[chosen], ratings, compound[chosen])
        rows.append(common | {"estimator": "vader (compound)"} | by_rule | {"ece": np.nan})
    return pd.DataFrame(rows)


def quality(classes: Classes, predicted: Classes, ratings: np.ndarray, valence: np.ndarray) -> dict[str, float]:
    return {
        "accuracy": float(accuracy_score(classes, predicted)),
        "macro_f1": float(f1_score(classes, predicted, average="macro")),
        "correlation": float(np.corrcoef(valence, ratings)[0, 1]),
    }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Expected calibration error over bins of equal width of the winning class's probability (Naeini et al. 2015)."""
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    gaps = [abs(correct[bins == b].mean() - confidence[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return float(np.sum(gaps))


def test_metrics(table: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """The table as nested values for the JSON file: estimator, source, metric; None where a metric has no meaning."""
    metrics: dict[str, dict[str, Any]] = {}
    for row in table.to_dict("records"):
        values = {
            key: round(row[key], 4) for key in ("accuracy", "macro_f1", "correlation", "ece") if row[key] == row[key]
        }
        metrics.setdefault(row["estimator"], {})[row["source"]] = {"n": row["n"], **values}
    return metrics


def write_head(out: Path, *, weight: np.ndarray, bias: np.ndarray, description: dict[str, Any]) -> None:
    with atomic_path(out / "embedded_head.safetensors") as temporary:
        temporary.write_bytes(save({"weight": np.ascontiguousarray(weight), "bias": np.ascontiguousarray(bias)}))
    write_json(out / "embedded_head.json", description)


if __name__ == "__main__":
    main()
