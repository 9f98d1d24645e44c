"""Expression estimators: text -> probabilities of negative, neutral and positive sentiment, always in that order.

Five kinds of name are understood:

* ``embedded``: MiniLM tuned on the human ratings of Hutto & Gilbert (2014), see leakmech/scoring/tuned.py; the adapters
  ship with leakmech and scoring/data/embedded_estimator.md says how good it is;
* ``vader``: the proportions of a text that the lexicon and rules of VADER (Hutto & Gilbert 2014) find negative,
  neutral and positive: cheap, and no probabilities in the strict sense;
* ``ngrams``: weights of words and pieces of words, fitted to the same ratings as ``embedded`` without an encoder, see
  leakmech/scoring/ngrams.py; as cheap as VADER, and scoring/data/ngram_estimator.md says how good it is;
* ``hub:<owner/name>`` or ``hub:<folder>``: a sequence classifier whose labels are known to be these three. The
  paper's is ``hub:cardiffnlp/twitter-roberta-base-sentiment``; it reads texts as its model card prepares them, with
  handles and links masked (:func:`masked`), if it is named by this id;
* ``<plugin>`` or ``<plugin>:<rest>``: an estimator that another installed package registers. Its pyproject.toml says

      [project.entry-points."leakmech.estimators"]
      acme = "acme_sentiment:load"

  and ``load(rest, encoder, device)`` returns an :class:`Estimator`; `rest` is what follows the colon (may be empty),
  `encoder` a sentence encoder that is loaded already or None, `device` the device asked for or None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import EstimatorError
from leakmech.core.store import content_hash
from leakmech.models.device import resolve_device
from leakmech.models.hub import fetch, first_line
from leakmech.models.quiet import quiet
from leakmech.scoring import ngrams, tuned
from leakmech.scoring.classifiers import LABELS, in_text_batches, once_each, softmax
from leakmech.scoring.estimators import ESTIMATORS, estimator_names, refuse_unknown_estimator
from leakmech.scoring.semantic import SentenceEncoder, folder_hash

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["LABELS", "Estimator", "estimator_names", "load_estimator"]

_ALIASES = {"neg": "negative", "neu": "neutral", "pos": "positive"} | {label: label for label in LABELS}
# Models whose configuration says LABEL_0 … LABEL_2 and whose model card says what they mean.
_NUMBERED_LABELS = {"cardiffnlp/twitter-roberta-base-sentiment": LABELS}
# Models whose model card prepares texts before they are tokenised: how that is called in `details`.
_PREPARED = {"cardiffnlp/twitter-roberta-base-sentiment": "@user, http"}
_MAX_TOKENS = 512


class LabelOrder(Protocol):
    """Finds the wanted columns among the labels of a classifier, by index."""

    def __call__(self, id2label: Mapping[int, str], /, *, name: str, model_id: str) -> tuple[int, ...]: ...


@runtime_checkable
class Estimator(Protocol):
    """Anything that maps texts to sentiment.

    Calling it with n texts returns an array of shape (n, 3), columns in the order ``negative, neutral, positive``, each
    summing to 1; equal texts in one call get equal rows. `details` is what a run records of it (JSON values only).
    """

    @property
    def name(self) -> str: ...

    @property
    def details(self) -> Mapping[str, Any]: ...

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 3"]: ...


def load_estimator(
    name: str = "embedded", *, encoder: SentenceEncoder | None = None, device: str | None = None
) -> Estimator:
    """Load an expression estimator.

    Parameters
    ----------
    name
        ``"embedded"``, ``"vader"``, ``"ngrams"``, ``"hub:<owner/name>"``, ``"hub:<folder>"`` or what an installed
        package registers.
    encoder
        A sentence encoder that is loaded already; the embedded estimator takes its files and device from it.
    device
        A torch device; by default the accelerator if there is one, else the CPU.

    Returns
    -------
    Estimator
        Maps n texts to an array of shape (n, 3), columns in the order negative, neutral, positive.

    Raises
    ------
    EstimatorError
        The name is unknown, a package or model is missing, its labels are not negative, neutral and positive, or
        an installed package registers a name that is taken or an estimator that cannot be loaded.
    ModelError
        The device is unknown or not there.
    """
    refuse_unknown_estimator(name)
    kind, _, rest = name.partition(":")
    estimator = ESTIMATORS[kind](rest, encoder, device)
    if not isinstance(estimator, Estimator):
        raise EstimatorError(
            f"{ESTIMATORS.place(kind)}: returned {type(estimator).__name__}; expected a callable with name and details"
        )
    return estimator


def estimator_hash(estimator: Estimator) -> str:
    """A hash of what decides an estimator's numbers; the device does not."""
    details = {key: value for key, value in estimator.details.items() if key != "device"}
    return content_hash(estimator.name, json.dumps(details, sort_keys=True))


@dataclass(frozen=True, eq=False)
class VaderEstimator:
    """The negative, neutral and positive proportions of VADER's analysis, rounded to three digits as VADER does.

    A text in which VADER finds no words at all (an empty one) is neutral.
    """

    analyse: Callable[[str], Mapping[str, float]]
    details: Mapping[str, Any]
    name: str = "vader"

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 3"]:
        """Proportions of the texts; rows sum to 1."""
        return once_each(texts, lambda unique: np.array([self._row(text) for text in unique]))

    def _row(self, text: str) -> Float[np.ndarray, " 3"]:
        scores = self.analyse(text)
        row = np.array([scores["neg"], scores["neu"], scores["pos"]])
        return row / row.sum() if row.sum() > 0 else np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True, eq=False)
class ClassifierEstimator:
    """A Hugging Face sequence classifier whose labels are known; texts longer than `max_tokens` are cut."""

    name: str
    details: Mapping[str, Any]
    order: tuple[int, ...]
    """Index of each label, in the order of the columns, among the model's outputs."""
    max_tokens: int
    prepare: Callable[[str], str]
    """What is done to a text before it is tokenised."""
    _model: PreTrainedModel
    _tokenizer: PreTrainedTokenizerBase

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n labels"]:
        """Probabilities of the texts; across calls a row may differ in the last bits, as its batch does."""
        return once_each(texts, self._score, nothing=np.zeros((0, len(self.order))))

    def _score(self, texts: list[str]) -> Float[np.ndarray, "n labels"]:
        logits = in_text_batches(
            [self.prepare(text) for text in texts],
            tokenizer=self._tokenizer,
            max_tokens=self.max_tokens,
            device=self._model.device,
            forward=self._logits,
        )
        return softmax(logits[:, self.order])

    def _logits(self, inputs: BatchEncoding) -> Float[Tensor, "batch labels"]:
        return self._model(**inputs.to(self._model.device)).logits


def _load_embedded(_: str, encoder: SentenceEncoder | None, device: str | None) -> Estimator:
    return tuned.load_tuned(tuned.shipped(), encoder=encoder, device=device)


def _load_vader(_: str, encoder: SentenceEncoder | None, device: str | None) -> Estimator:  # noqa: ARG001 - one signature
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as problem:
        raise EstimatorError(
            "estimator 'vader': vaderSentiment is not installed; pip install vaderSentiment==3.3.2"
        ) from problem
    analyser = SentimentIntensityAnalyzer()
    lexicon = content_hash(json.dumps([analyser.lexicon, analyser.emojis], sort_keys=True))
    return VaderEstimator(analyse=analyser.polarity_scores, details={"name": "vader", "lexicon": lexicon})


def _load_ngrams(_: str, encoder: SentenceEncoder | None, device: str | None) -> Estimator:  # noqa: ARG001
    return ngrams.load_ngrams(ngrams.shipped())


def _load_classifier(where: str, encoder: SentenceEncoder | None, device: str | None) -> Estimator:  # noqa: ARG001
    return load_classifier(where, label_order, what="estimator", device=device)


def load_classifier(where: str, order_of: LabelOrder, *, what: str, device: str | None = None) -> ClassifierEstimator:
    """Load a sequence classifier of a folder or of the hub; `what` is what messages call it.

    `order_of` finds the columns among its labels, and raises EstimatorError where they are others.
    """
    name = f"hub:{where}"
    path = Path(where).expanduser()
    folder = path if path.is_dir() else fetch(where, error=EstimatorError)
    device = str(resolve_device(device))
    try:
        with quiet():
            from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

            options = {"local_files_only": True, "trust_remote_code": False}
            config = AutoConfig.from_pretrained(folder, **options)
            labels = {int(index): str(label) for index, label in (config.id2label or {}).items()}
            order = order_of(labels, name=name, model_id=where)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **options)
            model = model.to(device).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as problem:
        raise EstimatorError(f"{what} {name!r}: {folder} cannot be loaded ({first_line(problem)})") from problem
    if tokenizer.pad_token is None:
        raise EstimatorError(f"{what} {name!r}: its tokenizer has no padding token")
    # RoBERTa's positions start after the padding index, so two of them hold no token.
    window = getattr(config, "max_position_embeddings", _MAX_TOKENS + 2) - 2
    details = {
        "name": name,
        "hash": folder_hash(folder),
        "labels": [labels[index] for index in order],
        **({"preparation": _PREPARED[where]} if where in _PREPARED else {}),
        "device": device,
    }
    return ClassifierEstimator(
        name=name,
        details=details,
        order=order,
        max_tokens=min(tokenizer.model_max_length, window, _MAX_TOKENS),
        prepare=masked if where in _PREPARED else str,
        _model=model,
        _tokenizer=tokenizer,
    )


def masked(text: str) -> str:
    """`text` with handles as ``@user`` and links as ``http``: what the classifier of the paper was trained to read.

    As on its model card: of the parts between single spaces, one that starts with ``@`` and is longer than that becomes
    ``@user``, and one that starts with ``http`` becomes ``http``.
    """
    words = ("@user" if word.startswith("@") and len(word) > 1 else word for word in text.split(" "))
    return " ".join("http" if word.startswith("http") else word for word in words)


def label_order(id2label: Mapping[int, str], *, name: str, model_id: str) -> tuple[int, ...]:
    """Index of the negative, the neutral and the positive label among a classifier's outputs.

    Labels may have any order and case and be short (neg, neu, pos); numbers only where the model is known.
    """
    found = [id2label[index] for index in sorted(id2label)]
    meanings = [_ALIASES.get(label.strip().lower(), label) for label in found]
    if found == ["LABEL_0", "LABEL_1", "LABEL_2"]:
        meanings = list(_NUMBERED_LABELS.get(model_id, meanings))
    return class_order(found, meanings, LABELS, what=f"estimator {name!r}")


def class_order(found: Sequence[str], meanings: Sequence[str], classes: Sequence[str], *, what: str) -> tuple[int, ...]:
    """Index of each class among the meanings of a classifier's labels; other classes are refused."""
    if sorted(meanings) != sorted(classes):
        raise EstimatorError(
            f"{what}: its labels are {', '.join(found)}; expected {', '.join(classes)} "
            "(set id2label in its config.json if they mean that)"
        )
    return tuple(map(meanings.index, classes))
