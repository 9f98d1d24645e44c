"""The n-gram expression estimator: weights of words, pairs of words and pieces of words, fitted to human ratings.

    x_t = idf_t (1 + log n_t) / |.|_2     for n_t occurrences of term t; words and pieces have norm 1 each
    P = softmax(W x + b)

It knows no word order beyond a pair, no meaning of words that the ratings lack, and nothing of an encoder: where it
agrees with the embedded estimator, the two do not agree because of what MiniLM was made from. Terms, their idf, W and b
ship with leakmech (one safetensors file and a description); experiments/train_ngrams.py fits them and writes how good
they are into ngram_estimator.md beside them. Only the counting is scikit-learn's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import EstimatorError
from leakmech.core.tensor_files import TensorFormat
from leakmech.models.hub import first_line
from leakmech.scoring.classifiers import LABELS, once_each, softmax

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import CountVectorizer

FORMAT = TensorFormat(
    what="an n-gram estimator", version=1, kind="ngrams", error=EstimatorError, hash_key="weights_hash"
)
BLOCKS: Mapping[str, Mapping[str, Any]] = {
    "words": {"analyzer": "word", "token_pattern": r"\w+(?:['’]\w+)*|[^\w\s]+", "ngram_range": (1, 2)},
    "pieces": {"analyzer": "char_wb", "ngram_range": (3, 5)},
}
"""What is counted, as arguments of scikit-learn's ``CountVectorizer``: one and two words (or marks such as ``!!``) in a
row, and three to five characters in a row within a word, its edges included. Case is ignored."""


def shipped() -> Path:
    """Folder and name, without suffix, of the files that ship with leakmech."""
    return Path(str(resources.files("leakmech.scoring"))) / "data" / "ngram_estimator"


@dataclass(frozen=True, eq=False)
class Block:
    """Terms of one kind: how they are counted, and their idf."""

    counter: CountVectorizer
    idf: Float[np.ndarray, " terms"]

    @classmethod
    def of(cls, name: str, terms: Iterable[str], idf: Float[np.ndarray, " terms"]) -> Block:
        """The block `name` of :data:`BLOCKS` with a fixed vocabulary."""
        from sklearn.feature_extraction.text import CountVectorizer  # here: it takes a second to import

        return cls(CountVectorizer(**BLOCKS[name], vocabulary=list(terms)), idf)

    def __call__(self, texts: Sequence[str]) -> csr_matrix:
        """Weighted counts, shape (texts, terms), each row of norm 1 or without any term."""
        from sklearn.preprocessing import normalize

        rows: Any = self.counter.transform(texts).astype(np.float64)
        rows.data = (1 + np.log(rows.data)) * self.idf[rows.indices]
        weighted: Any = normalize(rows)
        return weighted


@dataclass(frozen=True, eq=False)
class NgramEstimator:
    """A linear classifier of weighted counts; a text without a known term gets the probabilities of the bias alone."""

    details: Mapping[str, Any]
    blocks: Mapping[str, Block]
    weights: Mapping[str, Float[np.ndarray, "terms 3"]]
    bias: Float[np.ndarray, " 3"]
    name: str = "ngrams"

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 3"]:
        """Probabilities of the texts."""
        return once_each(texts, lambda unique: softmax(self.logits(unique)))

    def logits(self, texts: Sequence[str]) -> Float[np.ndarray, "n 3"]:
        """Logarithms of the probabilities, each row up to a constant, for at least one text."""
        return sum((self.blocks[name](texts) @ weight for name, weight in self.weights.items()), start=self.bias)


def load_ngrams(stem: Path) -> NgramEstimator:
    """An estimator from ``<stem>.json`` and ``<stem>.safetensors`` as experiments/train_ngrams.py writes them."""
    path = stem.with_name(f"{stem.name}.json")
    description, tensors = FORMAT.read(path)
    if description.get("labels") != list(LABELS):
        raise EstimatorError(f"{path}: has labels {description.get('labels')}; expected {', '.join(LABELS)}")
    try:
        terms = {name: decoded(tensors[f"{name}.terms"]) for name in BLOCKS}
        idf, weights = ({name: _array(tensors[f"{name}.{part}"]) for name in BLOCKS} for part in ("idf", "weight"))
        bias = _array(tensors["bias"])
        for name in BLOCKS:
            shapes = idf[name].shape, weights[name].shape, bias.shape
            if shapes != ((len(terms[name]),), (len(terms[name]), len(LABELS)), (len(LABELS),)):
                raise ValueError(f"{len(terms[name])} terms of {name} with tensors of shapes {shapes}")
        blocks = {name: Block.of(name, terms[name], idf[name]) for name in BLOCKS}
    except (KeyError, ValueError) as problem:
        raise EstimatorError(f"{stem}.safetensors: is not an n-gram estimator ({first_line(problem)})") from problem
    details = {
        "name": "ngrams",
        "weights": description["weights_hash"],
        "training_data": description.get("training_data"),
    }
    return NgramEstimator(details=details, blocks=blocks, weights=weights, bias=bias)


def encoded(terms: Iterable[str]) -> Tensor:
    """Terms as bytes in UTF-8, one a line: a vocabulary that can lie beside its weights."""
    return torch.frombuffer(bytearray("\n".join(terms).encode()), dtype=torch.uint8)


def decoded(lines: Tensor) -> list[str]:
    """The terms that :func:`encoded` stored."""
    return lines.numpy().tobytes().decode().split("\n")


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.double().numpy()
