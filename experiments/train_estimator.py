"""Tune the embedded expression estimator on the human ratings of Hutto & Gilbert (2014), and say how good it is.

Texts with a mean rating of at most -0.8 are negative, of at least 0.8 positive, and neutral between. They are split by
the document they come from, so that no review or editorial is on both sides; what is nearly a copy of a training text
(some tweets are variants of one another: "Anger is ugly.", "Anger is UGLY!!") is left out of the other two parts.

Adapters for MiniLM are trained on the training part (see tuning.py). A multinomial logistic regression of the class on
the four outputs (three logits and the rating), fitted on the validation part, calibrates them: with one factor for all
logits it would be temperature scaling. It is linear, and so are the heads, so both are shipped as one layer. Everything
was chosen on the validation part; the test part is looked at once, beside VADER and single raters on the same texts.

    python experiments/train_estimator.py                  # pip fetches the ratings into the cache
    python experiments/train_estimator.py --sdist vaderSentiment-3.3.2.tar.gz --out build/estimator
    python experiments/train_estimator.py --trained ~/.cache/leakmech/train_estimator/trained.safetensors  # all but it

Takes about a quarter of an hour on one core of a CPU with bfloat16 arithmetic, two to three times that without. Prints
the tables and writes embedded_estimator.safetensors, .json and .md. The same machine and versions give the same files;
elsewhere floating point differs, and with it the third digit of the metrics.
"""

from __future__ import annotations

import argparse
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from estimator_quality import SHORT_WORDS, THRESHOLD, as_table, as_values, class_of, classifier_quality, evaluate
from jaxtyping import Float
from rich.console import Console
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from tuning import ALPHA, EPOCHS, RANK, TunedClassifier, outputs, soft_labels, tune
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from leakmech.core.errors import LeakmechError
from leakmech.core.paths import cache_root
from leakmech.core.seeds import stable_hash
from leakmech.core.store import content_hash, write_text
from leakmech.datasets.archive import fetch_archive, load_ratings
from leakmech.reports.tables import Table
from leakmech.scoring.classifiers import LABELS, softmax
from leakmech.scoring.expression import load_estimator
from leakmech.scoring.semantic import SentenceEncoder, load_encoder
from leakmech.scoring.tuned import FORMAT, KIND, load_tuned, shipped

SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}
LEFT_OUT = "left out"
COPY_SIMILARITY = 0.95  # cosine
SEED = 0
SOURCE = "Hutto & Gilbert 2014 (vaderSentiment 3.3.2 source distribution), MIT licence"
CHECKPOINT = cache_root() / "train_estimator" / "trained.safetensors"

Embeddings = Float[np.ndarray, "n d"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="a vaderSentiment-3.3.2.tar.gz on disk (default: fetched by pip)")
    parser.add_argument("--out", type=Path, default=shipped().parent, help="folder to write to (default: %(default)s)")
    parser.add_argument("--trained", type=Path, help=f"use these tensors of an earlier call ({CHECKPOINT})")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    try:
        train(sdist=arguments.sdist, out=arguments.out, trained=arguments.trained)
    except LeakmechError as error:
        raise SystemExit(f"error: {error}") from error


def train(*, sdist: Path | None, out: Path, trained: Path | None) -> None:
    """Tune, calibrate, report and write."""
    console = Console()
    encoder = load_encoder("embedded", device="cpu")
    texts, embeddings = split_texts(encoder, sdist=sdist)
    parts = {name: texts.loc[texts["split"] == name] for name in SHARES}

    if trained is None:
        trained = CHECKPOINT
        tune_on(parts, encoder=encoder, checkpoint=trained)
    model = TunedClassifier.load(encoder.folder, trained)
    found = outputs(model, parts["validation"]["text"].tolist(), folder=encoder.folder)
    choice = validation_table(parts, embeddings=embeddings, found=found)
    console.print(choice.to_rich())

    tensors = calibrate(model, found, parts["validation"])
    stem = out / shipped().name
    description = describe(encoder, texts)
    written = stem.with_name(f"{stem.name}.json")
    FORMAT.write(written, description, tensors)
    estimator = load_tuned(stem, encoder=encoder)

    started = time.perf_counter()
    probabilities = {"embedded": estimator(parts["test"]["text"].tolist())}
    speed = len(parts["test"]) / (time.perf_counter() - started)
    probabilities["vader (proportions)"] = load_estimator("vader")(parts["test"]["text"].tolist())
    result = evaluate(parts["test"], probabilities)
    table = as_table(result, "Test part, by source, on short texts and on all")
    console.print(table.to_rich())
    console.print(f"{speed:.0f} texts a second with {torch.get_num_threads()} thread(s)")
    FORMAT.write(written, description | {"test": as_values(result)}, tensors)
    write_text(stem.with_name(f"{stem.name}.md"), card(description, choice, table))
    console.print(f"wrote {stem}.safetensors, .json and .md")


def split_texts(encoder: SentenceEncoder, *, sdist: Path | None) -> tuple[pd.DataFrame, Embeddings]:
    """All rated texts with class and split, near copies of training texts left out, and their embeddings."""
    texts = prepare(load_ratings(fetch_archive(sdist=sdist)))
    embeddings = encoder(texts["text"].tolist())
    texts.loc[near_copies(embeddings, texts["split"].to_numpy()), "split"] = LEFT_OUT
    return texts, embeddings


def prepare(ratings: pd.DataFrame) -> pd.DataFrame:
    """Classes and splits; a text that occurs more than once counts once, where it occurs first."""
    texts = ratings.drop_duplicates("text").reset_index(drop=True)
    split = [split_of(source, document) for source, document in zip(texts["source"], texts["document"], strict=True)]
    return texts.assign(**{"class": class_of(texts["mean_rating"].to_numpy()), "split": split})


def training_hash(texts: pd.DataFrame) -> str:
    """Hash of everything that the estimator depends on: texts, ratings, splits."""
    rows = zip(texts["text"], texts["mean_rating"], texts["split"], strict=True)
    return content_hash(*(f"{text}\t{rating:.6f}\t{split}" for text, rating, split in rows))


def split_sizes(texts: pd.DataFrame) -> dict[str, int]:
    """Number of texts of each split."""
    return {name: texts["split"].tolist().count(name) for name in (*SHARES, LEFT_OUT)}


def split_of(source: str, document: str) -> str:
    """The split of a document, from a hash of its name: the same on every machine, whatever else is in the data."""
    position = stable_hash("train_estimator", source, document) % 10_000 / 10_000
    if position < SHARES["train"]:
        return "train"
    return "validation" if position < SHARES["train"] + SHARES["validation"] else "test"


def near_copies(embeddings: Embeddings, split: np.ndarray) -> np.ndarray:
    """Mask of the texts outside the training part that nearly repeat a training text."""
    training = embeddings[split == "train"]
    copies = np.zeros(len(embeddings), dtype=bool)
    for index in np.array_split(np.flatnonzero(split != "train"), 20):
        copies[index] = (embeddings[index] @ training.T).max(axis=1) > COPY_SIMILARITY
    return copies


def tune_on(parts: dict[str, pd.DataFrame], *, encoder: SentenceEncoder, checkpoint: Path) -> None:
    """Train on the training part; prints the quality on the validation part after every epoch."""
    validation, training = parts["validation"], parts["train"]

    def report(epoch: int, model: TunedClassifier) -> None:
        logits = outputs(model, validation["text"].tolist(), folder=encoder.folder)[:, :3]
        values = classifier_quality(softmax(logits), validation["mean_rating"].to_numpy())
        print(f"epoch {epoch}, validation: " + ", ".join(f"{name} {value:.3f}" for name, value in values.items()))

    tune(
        training["text"].tolist(),
        folder=encoder.folder,
        labels=soft_labels(training["ratings"].tolist()),
        ratings=training["mean_rating"].to_numpy(),
        seed=SEED,
        checkpoint=checkpoint,
        after_epoch=report,
    )


def validation_table(
    parts: dict[str, pd.DataFrame], *, embeddings: Embeddings, found: Float[np.ndarray, "n 4"]
) -> Table:
    """What was compared before the choice, on the validation part.

    Heads on the untuned encoder are fitted on the training part, those on the tuned outputs in ten-fold
    cross-validation on the validation part itself.
    """
    training, validation = parts["train"], parts["validation"]
    features = {name: lexicon_features(part["text"].tolist()) for name, part in parts.items() if name != "test"}
    classes = validation["class"].to_numpy()

    def on_training(with_lexicon: bool) -> Float[np.ndarray, "n 3"]:
        rows = {name: embeddings[parts[name].index] for name in features}
        if with_lexicon:
            rows = {name: np.hstack([rows[name] * np.sqrt(embeddings.shape[1]), features[name]]) for name in rows}
        head = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, max_iter=2000))
        return head.fit(rows["train"], training["class"]).predict_proba(rows["validation"])

    def on_validation(rows: np.ndarray) -> Float[np.ndarray, "n 3"]:
        head = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
        return np.asarray(cross_val_predict(head, rows, classes, cv=10, method="predict_proba"))

    candidates = {
        "MiniLM, logistic head": on_training(with_lexicon=False),
        "MiniLM + VADER features, logistic head": on_training(with_lexicon=True),
        "LoRA, its logits": softmax(found[:, :3]),
        "LoRA, calibrated (shipped)": on_validation(found),
        "LoRA + VADER features, calibrated": on_validation(np.hstack([found, features["validation"]])),
    }
    rows = []
    for name, probabilities in candidates.items():
        values = classifier_quality(probabilities, validation["mean_rating"].to_numpy())
        rows.append([name, *(f"{values[metric]:.3f}" for metric in ("accuracy", "macro_f1", "correlation", "ece"))])
    header = ["candidate", "accuracy", "macro-F1", "correlation", "ECE"]
    return Table(title=f"Validation part ({len(validation)} texts): the choice", header=header, rows=rows)


def lexicon_features(texts: list[str]) -> Float[np.ndarray, "n 8"]:
    """VADER's four scores, and sums and extremes of its lexicon's valences over the words of a text."""
    analyser = SentimentIntensityAnalyzer()
    rows = []
    for text in texts:
        scores = analyser.polarity_scores(text)
        valences = np.array(
            [analyser.lexicon.get(word.strip(".,!?;:\"'()").lower(), 0.0) for word in text.split()] or [0]
        )
        sums = [valences.clip(min=0).sum(), valences.clip(max=0).sum(), valences.max(), valences.min()]
        rows.append([scores["neg"], scores["neu"], scores["pos"], scores["compound"], *sums])
    return np.array(rows)


def calibrate(model: TunedClassifier, found: Float[np.ndarray, "n 4"], validation: pd.DataFrame) -> dict[str, Tensor]:
    """The tensors to ship, in half precision: adapters, and the calibrated head as one layer on the mean state."""
    regression = LogisticRegression(max_iter=2000).fit(found, validation["class"])
    factors, intercept = (torch.tensor(value).float() for value in (regression.coef_, regression.intercept_))
    heads = {name: value.detach() for name, value in model.heads.named_parameters()}
    head = {"head.weight": factors @ heads["weight"], "head.bias": factors @ heads["bias"] + intercept}
    return {name: value.to(torch.float16).contiguous() for name, value in (model.adapters() | head).items()}


def describe(encoder: SentenceEncoder, texts: pd.DataFrame) -> dict[str, Any]:
    """What the JSON file says; leakmech.scoring.tuned.load_tuned checks the first five."""
    return {
        "kind": KIND,
        "labels": list(LABELS),
        "encoder": "embedded",
        "encoder_hash": encoder.hash,
        "lora_scale": ALPHA / RANK,
        "thresholds": [-THRESHOLD, THRESHOLD],
        "training_data": {"source": SOURCE, "hash": training_hash(texts)},
        "split_sizes": split_sizes(texts),
        "training": {"rank": RANK, "epochs": EPOCHS, "seed": SEED},
        "versions": {package: version(package) for package in ("torch", "transformers", "peft", "scikit-learn")},
    }


def card(description: dict[str, Any], choice: Table, test: Table) -> str:
    """The card that ships beside the estimator."""
    sizes = description["split_sizes"]
    return CARD.format(
        choice=choice.to_markdown(),
        test=test.to_markdown(),
        threshold=THRESHOLD,
        rank=RANK,
        epochs=EPOCHS,
        short=SHORT_WORDS,
        copies=sizes[LEFT_OUT],
        train=sizes["train"],
        validation=sizes["validation"],
        test_n=sizes["test"],
    )


CARD = """# The embedded expression estimator

**What it is.** all-MiniLM-L6-v2 with low-rank adapters (rank {rank}, merged at load) and a linear head: text ->
probabilities of negative, neutral and positive sentiment. `experiments/train_estimator.py` makes these files and this
page; the JSON file beside it holds hashes, versions and every number.

**Data.** The human ratings of Hutto & Gilbert (ICWSM 2014): tweets, sentences of film reviews, product reviews and
newspaper editorials in English, each rated by about twenty people from -4 to 4. They come with the source distribution
of vaderSentiment 3.3.2 (MIT licence) and are not copied into this repository. Classes are cut at a mean rating of
-{threshold} and {threshold}. There are {train} training, {validation} validation and {test_n} test texts; no review or
editorial is in two parts, and {copies} near copies of training texts are left out.

**Training.** {epochs} epochs; soft class labels that carry the standard error of each mean rating, and the mean rating
itself. Calibrated by multinomial logistic regression on the validation part (temperature scaling with a factor for
each output). VADER's features were tried and are not used: they add nothing to the tuned encoder, and without them
VADER stays a separate opinion.

{choice}

The test part was looked at once, with the files that ship:

{test}

`one rater`: every rater against the class, or mean, of the others: the human ceiling. `vader (compound)`: VADER by the
rule of its authors. Correlation: of P[positive] - P[negative] with the mean rating. ECE: expected calibration error of
the winning class in fifteen bins. `<= {short} words` cuts across the sources.

**Limits.** No person judged generations of language models: the numbers hold for the four sources, and no source is
dialogue or story. Film reviews have few neutral sentences. English only; texts are cut at 256 tokens, and few training
texts have more than 60. A sentence is read by itself: irony and what the context supplies are lost. Probabilities are
those of the mean of a panel, not of any one reader.
"""


if __name__ == "__main__":
    main()
