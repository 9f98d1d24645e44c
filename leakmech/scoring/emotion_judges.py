"""Judges of emotion: text -> probabilities of six emotions and neutral. None of them is told what was commanded.

Three kinds of name are understood:

* ``lexicon``: the share of each emotion among the words of ``datasets/data/emotion_words.toml``; neutral without one;
* ``encoder``: a multinomial logistic regression on the shipped sentence encoder, fitted to 280 sentences that were
  written for it; ``data/emotion_judge.md`` says by whom, and how good it is;
* ``hub:<owner/name>`` or ``hub:<folder>``: a sequence classifier with exactly these seven classes (joy counts as
  happiness), such as ``hub:j-hartmann/emotion-english-distilroberta-base``.

The two that ship know different things: the first only words, the second no list of words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float

from leakmech.core.errors import EstimatorError
from leakmech.core.registry import Registry
from leakmech.core.store import content_hash
from leakmech.core.tensor_files import TensorFormat
from leakmech.datasets.emotions import EMOTIONS, emotion_words
from leakmech.datasets.english import data_text
from leakmech.scoring.classifiers import once_each, softmax
from leakmech.scoring.expression import class_order, load_classifier
from leakmech.scoring.semantic import SentenceEncoder, load_encoder

CLASSES: tuple[str, ...] = (*EMOTIONS, "neutral")
"""Columns of what a judge returns."""
FORMAT = TensorFormat(
    what="an emotion judge", version=1, kind="emotion_judge", error=EstimatorError, hash_key="weights_hash"
)
_SYNONYMS = {"joy": "happiness", "happy": "happiness", "angry": "anger", "sad": "sadness", "surprised": "surprise"}
_NOTHING = np.zeros((0, len(CLASSES)))


class EmotionJudge(Protocol):
    """Maps n texts to an array of shape (n, 7), columns as in :data:`CLASSES`, each row summing to 1."""

    @property
    def name(self) -> str: ...

    @property
    def details(self) -> Mapping[str, Any]: ...

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 7"]: ...


def load_judge(name: str, *, encoder: SentenceEncoder | None = None, device: str | None = None) -> EmotionJudge:
    """Load a judge of emotion.

    Raises
    ------
    EstimatorError
        The name is unknown, a model is missing, or its labels are not the seven classes.
    """
    kind, _, rest = name.partition(":")
    if kind not in JUDGES or (kind == "hub") != bool(rest):
        raise JUDGES.missing(name, valid=["hub:<owner/name>" if known == "hub" else known for known in JUDGES])
    return JUDGES[kind](rest, encoder, device)


def judged(probabilities: Float[np.ndarray, "n 7"]) -> list[str]:
    """The class of each text; of equal probabilities neutral, else the first."""
    neutral_first = np.roll(probabilities, 1, axis=1)
    return [(CLASSES[-1], *CLASSES[:-1])[place] for place in neutral_first.argmax(axis=1)]


@dataclass(frozen=True, eq=False)
class LexiconJudge:
    """Shares of emotions among the words of the lexicon."""

    details: Mapping[str, Any]
    name: str = "lexicon"

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 7"]:
        """Shares of the texts."""
        return once_each(texts, lambda unique: np.stack(list(map(self._row, unique))), nothing=_NOTHING)

    def _row(self, text: str) -> Float[np.ndarray, " 7"]:
        found = [emotion for _, emotion in emotion_words(text)]
        counts = np.array([found.count(emotion) for emotion in EMOTIONS] + [not found], dtype=float)
        return counts / counts.sum()


@dataclass(frozen=True, eq=False)
class EncoderJudge:
    """Logistic regression on sentence embeddings."""

    encoder: SentenceEncoder
    weights: Float[np.ndarray, "7 d"]
    bias: Float[np.ndarray, " 7"]
    details: Mapping[str, Any]
    name: str = "encoder"

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 7"]:
        """Probabilities of the texts."""
        return once_each(texts, self._score, nothing=_NOTHING)

    def _score(self, texts: list[str]) -> Float[np.ndarray, "n 7"]:
        return softmax(self.encoder(texts) @ self.weights.T + self.bias)


def shipped() -> Path:
    """The description of the judge that ships with leakmech."""
    return Path(str(resources.files("leakmech.scoring"))) / "data" / "emotion_judge.json"


def _lexicon(_: str, encoder: SentenceEncoder | None, device: str | None) -> EmotionJudge:  # noqa: ARG001 - one signature
    words = content_hash(data_text("emotion_words.toml"))
    return LexiconJudge({"name": "lexicon", "lexicon": words})


def _encoder(_: str, encoder: SentenceEncoder | None, device: str | None) -> EmotionJudge:
    encoder = encoder or load_encoder(device=device)
    description, tensors = FORMAT.read(shipped())
    if description["encoder_hash"] != encoder.hash:
        raise EstimatorError("emotion judge 'encoder': it was fitted on another sentence encoder; use the shipped one")
    return EncoderJudge(
        encoder,
        tensors["weights"].double().numpy(),
        tensors["bias"].double().numpy(),
        {"name": "encoder", "weights": description["weights_hash"], "encoder": encoder.hash},
    )


def _hub(where: str, encoder: SentenceEncoder | None, device: str | None) -> EmotionJudge:  # noqa: ARG001
    return load_classifier(where, label_order, what="emotion judge", device=device)


def label_order(id2label: Mapping[int, str], /, *, name: str, model_id: str) -> tuple[int, ...]:  # noqa: ARG001
    """Index of each of :data:`CLASSES` among a classifier's labels."""
    found = [id2label[index] for index in sorted(id2label)]
    meanings = [_SYNONYMS.get(label.strip().lower(), label.strip().lower()) for label in found]
    return class_order(found, meanings, CLASSES, what=f"emotion judge {name!r}")


Loader = Callable[[str, SentenceEncoder | None, str | None], EmotionJudge]
JUDGES: Registry[Loader] = Registry(
    "judge",
    {"lexicon": _lexicon, "encoder": _encoder, "hub": _hub},
    error=EstimatorError,
    unknown="unknown emotion judge {name}",
)
"""By the part of their name before the colon."""


def save_head(
    path: Path, weights: Float[np.ndarray, "7 d"], bias: Float[np.ndarray, " 7"], *, encoder: SentenceEncoder
) -> None:
    """Write the weights of an :class:`EncoderJudge`."""
    tensors = {"weights": torch.from_numpy(weights).float().contiguous(), "bias": torch.from_numpy(bias).float()}
    FORMAT.write(path, {"classes": list(CLASSES), "encoder_hash": encoder.hash}, tensors)
