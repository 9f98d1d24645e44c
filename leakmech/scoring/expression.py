"""Expression estimators: text -> probabilities of negative, neutral and positive sentiment, always in that order.

Three kinds of name are understood:

* ``embedded``: a multinomial logistic head on the embedded sentence encoder, ``P = softmax(W e + b)`` with the unit
  vector e of the text. Its weights ship with leakmech; experiments/train_estimator.py fits them to the human ratings
  of Hutto & Gilbert (2014);
* ``vader``: the proportions of a text that the lexicon and rules of VADER (Hutto & Gilbert 2014) find negative,
  neutral and positive: cheap, and no probabilities in the strict sense;
* ``hub:<owner/name>`` or ``hub:<folder>``: a sequence classifier whose labels are known to be these three. The
  paper's is ``hub:cardiffnlp/twitter-roberta-base-sentiment``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load_file

from leakmech.errors import EstimatorError, nearest
from leakmech.models.device import resolve_device
from leakmech.models.hub import fetch, first_line
from leakmech.models.quiet import quiet
from leakmech.scoring.semantic import (
    SentenceEncoder,
    folder_hash,
    load_encoder,
)
from leakmech.store import content_hash

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LABELS = ("negative", "neutral", "positive")
HEAD_FORMAT_VERSION = 1

_ALIASES = {"neg": "negative", "neu": "neutral", "pos": "positive"} | {label: label for label in LABELS}
# Models whose configuration says LABEL_0 … LABEL_2 and whose model card says what they mean.
_NUMBERED_LABELS = {"cardiffnlp/twitter-roberta-base-sentiment": LABELS}
_NAMES = ("embedded", "vader", "hub:<owner/name>")
_BATCH_SIZE = 64
_MAX_TOKENS = 512


@runtime_checkable
class Estimator(Protocol):
    """Anything that maps texts to sentiment.

    Calling it with n texts returns an array of shape (n, 3), rows in the order ``negative, neutral, positive``, each
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
        ``"embedded"``, ``"vader"``, ``"hub:<owner/name>"`` or ``"hub:<folder>"``.
    encoder
        A sentence encoder that is loaded already; the embedded estimator uses it if it is the one that its head was
        fitted to, and loads its own otherwise.
    device
        A torch device; by default the accelerator if there is one, else the CPU.

    Raises
    ------
    EstimatorError
        The name is unknown, a package or model is missing, or its labels are not negative, neutral and positive.
    ModelError
        The device is unknown or not there.
    """
    kind, _, rest = name.partition(":")
    loader = _KINDS.get(kind)
    if loader is None or (kind == "hub") != bool(rest):
        raise EstimatorError(f"unknown expression estimator {name!r}{nearest(name, _NAMES)}")
    return loader(rest, encoder, device)


def embed_and_score(
    texts: Sequence[str], *, estimator: Estimator, encoder: SentenceEncoder
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "n 3"]]:
    """The texts' embeddings and their sentiment, each text embedded once if the estimator works on these embeddings."""
    embeddings = encoder(texts)
    if isinstance(estimator, EmbeddingEstimator) and estimator.reads(encoder):
        return embeddings, estimator.from_embeddings(embeddings)
    return embeddings, estimator(texts)


@dataclass(frozen=True, eq=False)
class EmbeddingEstimator:
    """A logistic head on a sentence encoder.

    Attributes
    ----------
    name
        The name that was asked for.
    encoder
        The sentence encoder whose rows the head reads.
    weight, bias
        The head, temperature included.
    details
        Provenance: encoder, hash of the head, training data.
    """

    name: str
    encoder: SentenceEncoder
    weight: Float[np.ndarray, "3 d"]
    bias: Float[np.ndarray, " 3"]
    details: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 3"]:
        """Probabilities of the texts. An empty text is scored as it is, from the encoder's vector for no words."""
        return self.from_embeddings(self.encoder(texts))

    def reads(self, encoder: SentenceEncoder) -> bool:
        """Whether the rows of `encoder` are what the head was fitted to."""
        return encoder is self.encoder or encoder.hash == self.encoder.hash

    def from_embeddings(self, embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 3"]:
        """Probabilities of texts that :attr:`encoder` has embedded already."""
        rows = embeddings.astype(np.float64)
        # Sums along a row instead of a matrix product: the latter may round equal rows differently in one batch,
        # and leakage compares probabilities strictly.
        logits = np.stack([(rows * label).sum(axis=-1) for label in self.weight], axis=-1) + self.bias
        return _softmax(logits)


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
        return _once_each(texts, lambda unique: np.array([self._row(text) for text in unique]))

    def _row(self, text: str) -> Float[np.ndarray, " 3"]:
        scores = self.analyse(text)
        row = np.array([scores["neg"], scores["neu"], scores["pos"]])
        return row / row.sum() if row.sum() > 0 else np.array([0.0, 1.0, 0.0])


@dataclass(frozen=True, eq=False)
class ClassifierEstimator:
    """A Hugging Face sequence classifier whose three labels are known.

    Attributes
    ----------
    name
        The name that was asked for.
    details
        Provenance: hash of the model's files, its labels, the device.
    order
        Index of the negative, the neutral and the positive label among the model's outputs.
    max_tokens
        Longer texts are cut here.
    """

    name: str
    details: Mapping[str, Any]
    order: tuple[int, int, int]
    max_tokens: int
    _model: PreTrainedModel
    _tokenizer: PreTrainedTokenizerBase

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 3"]:
        """Probabilities of the texts; across calls a row may differ in the last bits, as its batch does."""
        return _once_each(texts, self._score)

    def _score(self, texts: list[str]) -> Float[np.ndarray, "n 3"]:
        token_ids = self._tokenizer(texts, truncation=True, max_length=self.max_tokens)["input_ids"]
        longest_first = sorted(range(len(texts)), key=lambda index: -len(token_ids[index]))
        logits = np.empty((len(texts), 3))
        for start in range(0, len(texts), _BATCH_SIZE):
            batch = longest_first[start : start + _BATCH_SIZE]
            logits[batch] = self._logits([texts[index] for index in batch])
        return _softmax(logits[:, self.order])

    @torch.inference_mode()
    def _logits(self, texts: list[str]) -> Float[np.ndarray, "batch 3"]:
        inputs = self._tokenizer(
            texts, truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
        ).to(self._model.device)
        return self._model(**inputs).logits.double().cpu().numpy()


def _once_each(
    texts: Sequence[str], score: Callable[[list[str]], Float[np.ndarray, "u 3"]]
) -> Float[np.ndarray, "n 3"]:
    """Score equal texts once, so that their rows are equal to the last bit."""
    unique = list(dict.fromkeys(texts))
    if not unique:
        return np.zeros((0, 3))
    position = {text: index for index, text in enumerate(unique)}
    return score(unique)[[position[text] for text in texts]]


def _softmax(logits: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _load_embedded(_: str, encoder: SentenceEncoder | None, device: str | None) -> Estimator:
    return load_head(
        Path(str(resources.files("leakmech.scoring") / "data")) / "embedded_head", encoder=encoder, device=device
    )


def load_head(
    stem: Path, *, name: str = "embedded", encoder: SentenceEncoder | None = None, device: str | None = None
) -> EmbeddingEstimator:
    """An estimator from ``<stem>.json`` and ``<stem>.safetensors`` as experiments/train_estimator.py writes them.

    Raises
    ------
    EstimatorError
        A file is missing or damaged, is of another format version or kind, or the encoder is not the one that the
        head was fitted to.
    """
    description, tensors = _read_head(stem)
    if encoder is None or encoder.hash != description["encoder_hash"]:
        encoder = load_encoder(description["encoder"], device=device)
    if encoder.hash != description["encoder_hash"]:
        raise EstimatorError(f"{stem}.json: was fitted to another encoder than {encoder.name!r} is now; fit it again")
    weight, bias = tensors["weight"], tensors["bias"]
    if weight.shape != (3, encoder.dimension) or bias.shape != (3,):
        raise EstimatorError(
            f"{stem}.safetensors: weight {weight.shape} and bias {bias.shape} do not fit an encoder of dimension "
            f"{encoder.dimension}"
        )
    details = {
        "name": name,
        "encoder": encoder.details,
        "head": content_hash(weight.tobytes(), bias.tobytes()),
        "training_data": description.get("training_data"),
    }
    return EmbeddingEstimator(name=name, encoder=encoder, weight=weight, bias=bias, details=details)


def _read_head(stem: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    description_path, weights_path = stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.safetensors")
    try:
        description = json.loads(description_path.read_text(encoding="utf-8"))
        version, kind = description["format_version"], description["kind"]
        labels = tuple(description["labels"])
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise EstimatorError(f"{description_path}: is no estimator head ({problem!r})") from problem
    if version != HEAD_FORMAT_VERSION:
        raise EstimatorError(
            f"{description_path}: has format version {version}; this leakmech reads {HEAD_FORMAT_VERSION}"
        )
    if kind != "logistic":
        raise EstimatorError(f"{description_path}: unknown kind {kind!r}; valid: logistic")
    if labels != LABELS:
        raise EstimatorError(f"{description_path}: has labels {', '.join(labels)}; expected {', '.join(LABELS)}")
    try:
        tensors = load_file(weights_path)
        return description, {key: tensors[key] for key in ("weight", "bias")}
    except (OSError, SafetensorError, KeyError) as problem:
        raise EstimatorError(f"{weights_path}: is missing or damaged ({first_line(problem)})") from problem


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


def _load_classifier(where: str, encoder: SentenceEncoder | None, device: str | None) -> Estimator:  # noqa: ARG001
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
            order = label_order(labels, name=name, model_id=where)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, **options)
            model = model.to(device).eval()
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as problem:
        raise EstimatorError(f"estimator {name!r}: {folder} cannot be loaded ({first_line(problem)})") from problem
    if tokenizer.pad_token is None:
        raise EstimatorError(f"estimator {name!r}: its tokenizer has no padding token")
    # RoBERTa's positions start behind the padding index, so two of them hold no token.
    window = getattr(config, "max_position_embeddings", _MAX_TOKENS + 2) - 2
    details = {
        "name": name,
        "hash": folder_hash(folder),
        "labels": [labels[index] for index in order],
        "device": device,
    }
    return ClassifierEstimator(
        name=name,
        details=details,
        order=order,
        max_tokens=min(tokenizer.model_max_length, window, _MAX_TOKENS),
        _model=model,
        _tokenizer=tokenizer,
    )


def label_order(id2label: Mapping[int, str], *, name: str, model_id: str) -> tuple[int, int, int]:
    """Index of the negative, the neutral and the positive label among a classifier's outputs.

    Raises
    ------
    EstimatorError
        The labels are not exactly negative, neutral and positive (any order and case; neg, neu, pos), nor those of
        a model that is known to number them.
    """
    found = [id2label[index] for index in sorted(id2label)]
    meanings = [_ALIASES.get(label.strip().lower(), label) for label in found]
    if found == ["LABEL_0", "LABEL_1", "LABEL_2"]:
        meanings = list(_NUMBERED_LABELS.get(model_id, meanings))
    if sorted(meanings) != sorted(LABELS):
        raise EstimatorError(
            f"estimator {name!r}: its labels are {', '.join(found)}; expected negative, neutral, positive "
            "(set id2label in its config.json if they mean that)"
        )
    negative, neutral, positive = (meanings.index(label) for label in LABELS)
    return negative, neutral, positive


_KINDS: dict[str, Callable[[str, SentenceEncoder | None, str | None], Estimator]] = {
    "embedded": _load_embedded,
    "vader": _load_vader,
    "hub": _load_classifier,
}
