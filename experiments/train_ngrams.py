"""Fit the n-gram expression estimator to the human ratings of Hutto & Gilbert (2014), and how unlike the others it is.

Classes, splits and near copies are those of the embedded estimator (train_estimator.py), so both have seen the same
training part and neither the test part. Terms and their weights (multinomial logistic regression on tf-idf of words and
pieces of words) are fitted on the training part; which terms, and how strongly the weights are held back, is chosen
among the CANDIDATES below, written down before any was fitted, by five-fold cross-validation on the training part: the
fewest terms within 0.005 of the best macro-F1. A second logistic regression of the class on the three logits, fitted on
the validation part, calibrates them; it is linear, so that both are shipped as one. The test part is looked at once.

    python experiments/train_ngrams.py                  # pip fetches the ratings into the cache
    python experiments/train_ngrams.py --sdist vaderSentiment-3.3.2.tar.gz --out build/estimator

Takes five to ten minutes on one core, most of it for embeddings (to find near copies) and for the embedded estimator on
the test part. Prints the tables and writes ngram_estimator.safetensors, .json and .md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from estimator_quality import (
    HEADER,
    METRICS,
    SHORT_WORDS,
    THRESHOLD,
    as_table,
    as_values,
    classifier_quality,
    errors_in_common,
    evaluate,
    injections,
    label_quality,
    opinions,
)
from jaxtyping import Float
from rich.console import Console
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from torch import Tensor
from train_estimator import LEFT_OUT, SHARES, SOURCE, split_sizes, split_texts, training_hash

from leakmech.core.errors import LeakmechError
from leakmech.core.store import write_text
from leakmech.datasets.samples import INJECTIONS, load_dataset
from leakmech.reports.tables import Table
from leakmech.scoring.classifiers import LABELS
from leakmech.scoring.expression import load_estimator
from leakmech.scoring.ngrams import BLOCKS, FORMAT, Block, encoded, load_ngrams, shipped
from leakmech.scoring.semantic import load_encoder

FOLDS = 5
TOLERANCE = 0.005  # of macro-F1: the fewest terms within it are chosen
LABELLED = ("hexl", "hexl-mild")


@dataclass(frozen=True, eq=False)
class Candidate:
    """Which terms are used, and how strongly weights are held back."""

    least: dict[str, int]
    """Block of terms -> number of training texts that a term must be in."""
    c: float
    """Inverse strength of the ridge penalty."""

    def __str__(self) -> str:
        return ", ".join(f"{name} in {least} texts" for name, least in self.least.items()) + f"; C {self.c:g}"


CANDIDATES = tuple(
    Candidate(least, c)
    for least in (
        {"words": 2},
        {"words": 3},
        {"pieces": 5},
        {"words": 2, "pieces": 3},
        {"words": 3, "pieces": 5},
        {"words": 3, "pieces": 10},
    )
    for c in (1.0, 3.0)
)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Blocks of terms, and a linear classifier on them."""

    blocks: dict[str, Block]
    regression: LogisticRegression

    @classmethod
    def to(cls, texts: Sequence[str], classes: np.ndarray, candidate: Candidate) -> Fitted:
        """Fit terms and weights."""
        blocks = {name: _block(name, texts, least) for name, least in candidate.least.items()}
        rows = _rows(blocks, texts)
        return cls(blocks, LogisticRegression(C=candidate.c, max_iter=2000).fit(rows, classes))

    @property
    def n_terms(self) -> int:
        return sum(len(block.idf) for block in self.blocks.values())

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "n 3"]:
        return self.regression.decision_function(_rows(self.blocks, texts))

    def probabilities(self, texts: Sequence[str]) -> Float[np.ndarray, "n 3"]:
        return self.regression.predict_proba(_rows(self.blocks, texts))

    def tensors(self, calibration: LogisticRegression) -> dict[str, Tensor]:
        """What is shipped, in half precision: W and b of both regressions as one."""
        weight = calibration.coef_ @ self.regression.coef_
        bias = calibration.coef_ @ self.regression.intercept_ + calibration.intercept_
        found, start = {"bias": torch.tensor(bias).float()}, 0
        for name, block in self.blocks.items():
            own = weight[:, start : start + len(block.idf)].T
            start += len(block.idf)
            found[f"{name}.terms"] = encoded(block.counter.vocabulary or ())
            found[f"{name}.idf"] = torch.tensor(block.idf).half()
            found[f"{name}.weight"] = torch.tensor(own).half().contiguous()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="a vaderSentiment-3.3.2.tar.gz on disk (default: fetched by pip)")
    parser.add_argument("--out", type=Path, default=shipped().parent, help="folder to write to (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    try:
        train(sdist=arguments.sdist, out=arguments.out)
    except LeakmechError as error:
        raise SystemExit(f"error: {error}") from error


def train(*, sdist: Path | None, out: Path) -> None:
    """Choose, fit, calibrate, write and report."""
    console = Console()
    encoder = load_encoder("embedded", device="cpu")
    texts, _ = split_texts(encoder, sdist=sdist)
    parts = {name: texts.loc[texts["split"] == name] for name in SHARES}
    found = cross_validated(parts["train"])
    candidate = chosen(found)
    choice = choice_table(found, candidate)
    console.print(choice.to_rich())

    stem = out / shipped().name
    written = stem.with_name(f"{stem.name}.json")
    tensors, description = fit(parts, candidate), describe(texts, candidate)
    FORMAT.write(written, description, tensors)
    estimators = {"ngrams": load_ngrams(stem), "embedded": load_estimator("embedded", encoder=encoder)}
    estimators["vader (proportions)"] = load_estimator("vader")
    test = parts["test"]
    rows = {name: estimator(test["text"].tolist()) for name, estimator in estimators.items()}
    result = evaluate(test, rows)
    views = opinions(test["text"].tolist(), {name: rows[name] for name in ("ngrams", "embedded")})
    common = errors_in_common(views, test["mean_rating"].to_numpy())
    labels = []
    for name in LABELLED:
        samples = load_dataset(name)
        said = injections(samples)
        scored = {name: estimators[name](said) for name in ("ngrams", "embedded")}
        labels += [{"dataset": name} | row for row in label_quality(samples, opinions(said, scored))]
    tables = {"choice": choice, "test": as_table(result, "Test part, by source, on short texts and on all")}
    tables |= {"common": common_table(common), "labels": labels_table(labels)}
    for table in tables.values():
        console.print(table.to_rich())
    measured = {"test": as_values(result), "errors_in_common": _rounded(common), "label_agreement": _rounded(labels)}
    FORMAT.write(written, description | measured, tensors)
    write_text(stem.with_name(f"{stem.name}.md"), card(description, tables, tensors))
    console.print(f"wrote {stem}.safetensors, .json and .md")


# -- fitting ---------------------------------------------------------------------------------------------------------


def cross_validated(training: pd.DataFrame) -> dict[Candidate, dict[str, float]]:
    """Quality of every candidate, and its mean number of terms; no document is on both sides of a fold."""
    texts, classes = training["text"].to_numpy(), training["class"].to_numpy()
    documents = (training["source"] + " " + training["document"]).to_numpy()
    folds = list(GroupKFold(FOLDS).split(texts, groups=documents))
    found = {}
    for candidate in CANDIDATES:
        probabilities, terms = np.zeros((len(texts), len(LABELS))), []
        for fitting, held_out in folds:
            model = Fitted.to(texts[fitting].tolist(), classes[fitting], candidate)
            probabilities[held_out] = model.probabilities(texts[held_out].tolist())
            terms.append(model.n_terms)
        values = classifier_quality(probabilities, training["mean_rating"].to_numpy())
        found[candidate] = values | {"terms": float(np.mean(terms))}
        print(f"{candidate}: {found[candidate]}", flush=True)
    return found


def chosen(found: dict[Candidate, dict[str, float]]) -> Candidate:
    """The fewest terms among those within the tolerance of the best macro-F1; of these the best."""
    best = max(values["macro_f1"] for values in found.values())
    near = {candidate: values for candidate, values in found.items() if values["macro_f1"] >= best - TOLERANCE}
    return min(near, key=lambda candidate: (near[candidate]["terms"], -near[candidate]["macro_f1"]))


def fit(parts: dict[str, pd.DataFrame], candidate: Candidate) -> dict[str, Tensor]:
    """Fit terms and weights on the training part, calibrate on the validation part."""
    training, validation = parts["train"], parts["validation"]
    model = Fitted.to(training["text"].tolist(), training["class"].to_numpy(), candidate)
    calibration = LogisticRegression(max_iter=2000)
    calibration.fit(model.logits(validation["text"].tolist()), validation["class"].to_numpy())
    return model.tensors(calibration)


def _block(name: str, texts: Sequence[str], least: int) -> Block:
    """Terms that are in at least `least` of the texts, with idf_t = 1 + log((1 + n) / (1 + n_t))."""
    counter = CountVectorizer(**BLOCKS[name], min_df=least, binary=True)
    present = csr_matrix(counter.fit_transform(texts))
    n_texts = np.asarray(present.sum(axis=0)).ravel()
    return Block.of(name, counter.get_feature_names_out().tolist(), 1 + np.log((1 + len(texts)) / (1 + n_texts)))


def _rows(blocks: dict[str, Block], texts: Sequence[str]) -> csr_matrix:
    return csr_matrix(hstack([block(texts) for block in blocks.values()]))


# -- reporting -------------------------------------------------------------------------------------------------------


def describe(texts: pd.DataFrame, candidate: Candidate) -> dict[str, Any]:
    """What the JSON file says."""
    return {
        "labels": list(LABELS),
        "thresholds": [-THRESHOLD, THRESHOLD],
        "training_data": {"source": SOURCE, "hash": training_hash(texts)},
        "split_sizes": split_sizes(texts),
        LEFT_OUT.replace(" ", "_"): np.flatnonzero(texts["split"] == LEFT_OUT).tolist(),
        "training": asdict(candidate),
        "versions": {package: version(package) for package in ("numpy", "scikit-learn")},
    }


def _rounded(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows]


def choice_table(found: dict[Candidate, dict[str, float]], candidate: Candidate) -> Table:
    """What was compared before the choice."""
    rows = [
        [f"{one}{' (chosen)' if one is candidate else ''}", f"{values['terms']:.0f}"]
        + [f"{values[metric]:.3f}" for metric in METRICS]
        for one, values in found.items()
    ]
    title = f"Training part, {FOLDS}-fold cross-validation over documents, before calibration"
    return Table(title, ["candidate", "terms", *HEADER], rows)


def common_table(rows: list[dict[str, Any]]) -> Table:
    """Errors in common on the test part."""
    names = {
        "both": "both wrong",
        "both_if_independent": "if independent",
        "jaccard": "both / either wrong",
        "phi": "phi of errors",
        "residuals": "correlation of valences given the rating",
    }
    cells = [[row["first"], row["second"], *(f"{row[name]:.3f}" for name in names)] for row in rows]
    return Table("Errors in common, test part", ["first", "second", *names.values()], cells)


def labels_table(rows: list[dict[str, Any]]) -> Table:
    """Agreement with the labels of injections."""
    names = (*INJECTIONS, "kappa", "auc")
    cells = [[row["dataset"], str(row["n"]), row["estimator"], *(f"{row[name]:.3f}" for name in names)] for row in rows]
    header = ["data set", "injections", "estimator", *INJECTIONS, "kappa", "AUC positive / negative"]
    return Table("Polarity labels of injections that ship with leakmech: agreement, nothing was fitted", header, cells)


def card(description: dict[str, Any], tables: dict[str, Table], tensors: dict[str, Tensor]) -> str:
    """The card that ships beside the estimator."""
    sizes = description["split_sizes"]
    return CARD.format(
        **{name: table.to_markdown() for name, table in tables.items()},
        **{name: len(tensors[f"{name}.idf"]) for name in BLOCKS},
        least=description["training"]["least"],
        threshold=THRESHOLD,
        tolerance=TOLERANCE,
        short=SHORT_WORDS,
        copies=sizes[LEFT_OUT],
        train=sizes["train"],
        validation=sizes["validation"],
        test_n=sizes["test"],
    )


CARD = """# The n-gram expression estimator

**What it is.** A linear classifier of tf-idf weighted counts of {words} words and pairs of words and {pieces} pieces of
words (three to five characters): text -> probabilities of negative, neutral and positive sentiment. It has no encoder
and no lexicon. `experiments/train_ngrams.py` makes these files and this page; the JSON file beside it holds hashes,
versions and every number. The vocabulary and its weights are a model; no text of the data is in them.

**Data.** The ratings of Hutto & Gilbert (ICWSM 2014), as for the embedded estimator (see `embedded_estimator.md`):
the same classes (cut at a mean rating of -{threshold} and {threshold}), the same {train} training, {validation}
validation and {test_n} test texts, and the same {copies} near copies of training texts left out. Nothing was fitted
or chosen on samples, injections or generations.

**Training.** Multinomial logistic regression on the training part, calibrated by a second one on the validation part.
The candidates were written down before any was fitted. Chosen: the fewest terms within {tolerance} of the best
macro-F1. A term must be in as many training texts as the table says.

{choice}

The test part was looked at once, with the files that ship:

{test}

`one rater`: every rater against the class, or mean, of the others. `vader (compound)`: VADER by the rule of its
authors. Kappa: Cohen's, of the classes. Correlation: of P[positive] - P[negative] with the mean rating. ECE: expected
calibration error of the winning class in fifteen bins. `<= {short} words` cuts across the sources.

{common}

`if independent`: the product of the two error rates. Errors go together beyond that for any three estimators, since
some texts are hard (and some means of twenty ratings lie near a threshold). The last column is what counts for
leakage: how far valences agree beyond what the ratings explain.

{labels}

The columns of the classes are the share of such injections that are put into that class. The labels were given by
those who wrote the sets.

**Limits.** It is less accurate than the embedded estimator and shares its training data, so a fault of these ratings
is a fault of both; VADER's lexicon comes from the same project's ratings of single words. It knows words that occur
in these four sources. Negation is read only where the pair of words was in the data: P[positive] of "good" is 0.99, of
"not good" 0.34, of "not very good" 0.59 and of "never good" 0.85. Counts are divided by their norm, so a text with a
single known term is judged by that term alone ("so xqzjkwv" is negative with 0.73, for "so"), and an empty text gets
the probabilities of the bias. English only. For a difference between conditions it is a witness, not a judge: read it
beside the other two.
"""


if __name__ == "__main__":
    main()
