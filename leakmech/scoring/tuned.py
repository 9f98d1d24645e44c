"""The embedded expression estimator: MiniLM with low-rank adapters, tuned on human ratings.

    P = softmax(U mean_t h_t(W + s B A) + b)

The adapters A and B (LoRA, Hu et al. 2022) of every linear layer W of the encoder and the head U, b ship with leakmech;
the encoder itself is the installed all-MiniLM-L6-v2. The adapters are merged into a copy of its weights at load, so
that scoring costs what embedding costs. The sentence encoder behind mu_L stays as it is: tuned on sentiment it would
call two texts alike because they are equally glad. experiments/train_estimator.py fits the adapters and the head to the
ratings of Hutto & Gilbert (2014) and writes how good they are into embedded_estimator.md beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import EstimatorError
from leakmech.core.tensor_files import TensorFormat
from leakmech.models.device import resolve_device
from leakmech.models.hub import first_line
from leakmech.models.quiet import quiet
from leakmech.scoring.classifiers import LABELS, in_text_batches, once_each, softmax
from leakmech.scoring.semantic import SentenceEncoder, encoder_folder, folder_hash

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase

FORMAT = TensorFormat(what="an estimator", version=2, error=EstimatorError, hash_key="weights_hash")
KIND = "lora"
_NEEDED = ("encoder", "encoder_hash", "weights_hash", "lora_scale")

_MAX_TOKENS = 256


def shipped() -> Path:
    """Folder and name, without suffix, of the files that ship with leakmech."""
    return Path(str(resources.files("leakmech.scoring"))) / "data" / "embedded_estimator"


@dataclass(frozen=True, eq=False)
class TunedEstimator:
    """A tuned encoder with a linear head (`weight` and `bias`, temperature included)."""

    name: str
    details: Mapping[str, Any]
    weight: Float[np.ndarray, "3 d"]
    bias: Float[np.ndarray, " 3"]
    _model: PreTrainedModel
    _tokenizer: PreTrainedTokenizerBase

    def __call__(self, texts: Sequence[str], /) -> Float[np.ndarray, "n 3"]:
        """Probabilities of the texts; across calls a row may differ in the last bits, as its batch does.

        An empty text is scored as it is, from the states of the two special tokens.
        """
        return once_each(texts, lambda unique: softmax(self.states(unique) @ self.weight.T + self.bias))

    def states(self, texts: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Mean of the token states of the last layer, for at least one text."""
        return in_text_batches(
            texts,
            tokenizer=self._tokenizer,
            max_tokens=_MAX_TOKENS,
            device=self._model.device,
            forward=self._mean_state,
        )

    def _mean_state(self, inputs: BatchEncoding) -> Float[Tensor, "batch d"]:
        inputs = inputs.to(self._model.device)
        mask = inputs["attention_mask"].float()
        states = self._model(**inputs).last_hidden_state
        return einsum(states, mask, "batch pos d, batch pos -> batch d") / mask.sum(dim=1, keepdim=True)


def load_tuned(
    stem: Path, *, name: str = "embedded", encoder: SentenceEncoder | None = None, device: str | None = None
) -> TunedEstimator:
    """An estimator from ``<stem>.json`` and ``<stem>.safetensors`` as experiments/train_estimator.py writes them.

    An `encoder` that is loaded already saves looking for its files and hashing them, if it is the one that was tuned.
    """
    path = stem.with_name(f"{stem.name}.json")
    description, tensors = FORMAT.read(path)
    _checked(description, path)
    folder = _base_folder(stem, description, encoder)
    place = resolve_device(device or (encoder.device if encoder else None))
    try:
        with quiet():
            from transformers import AutoModel, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as problem:
        raise EstimatorError(f"estimator {name!r}: {folder} cannot be loaded ({first_line(problem)})") from problem
    try:
        merge(model, tensors, scale=description["lora_scale"])
        weight, bias = (tensors[f"head.{part}"].float() for part in ("weight", "bias"))
        if weight.shape != (len(LABELS), model.config.hidden_size) or bias.shape != (len(LABELS),):
            raise ValueError(f"a head of shape {tuple(weight.shape)} for width {model.config.hidden_size}")
    except (KeyError, AttributeError, ValueError, RuntimeError, TypeError) as problem:
        raise EstimatorError(f"{stem}.safetensors: does not fit the encoder ({first_line(problem)})") from problem
    details = {
        "name": name,
        "kind": KIND,
        "encoder": {key: description[key] for key in ("encoder", "encoder_hash")},
        "weights": description["weights_hash"],
        "training_data": description.get("training_data"),
        "device": str(place),
    }
    return TunedEstimator(
        name=name,
        details=details,
        weight=weight.double().numpy(),
        bias=bias.double().numpy(),
        _model=model.to(place).eval(),
        _tokenizer=tokenizer,
    )


@torch.no_grad()
def merge(model: nn.Module, tensors: Mapping[str, Tensor], *, scale: float) -> None:
    """Add ``scale * B @ A`` to every weight whose layer has ``<layer>.lora_A`` and ``.lora_B`` among `tensors`."""
    for key in tensors:
        layer, _, factor = key.rpartition(".")
        if factor == "lora_A":
            down, up = tensors[key].float(), tensors[f"{layer}.lora_B"].float()
            weight = model.get_submodule(layer).get_parameter("weight")
            weight += scale * einsum(up, down, "d_out rank, rank d_in -> d_out d_in")


def _base_folder(stem: Path, description: Mapping[str, Any], encoder: SentenceEncoder | None) -> Path:
    if encoder is not None and encoder.hash == description["encoder_hash"]:
        return encoder.folder
    folder = encoder_folder(description["encoder"])
    if folder_hash(folder) != description["encoder_hash"]:
        raise EstimatorError(
            f"{stem}.json: was tuned on another encoder than {description['encoder']!r} is now; train it again"
        )
    return folder


def _checked(description: dict[str, Any], path: Path) -> None:
    """Refuse descriptions of other estimators, or with less than is needed."""
    missing = [key for key in ("kind", "labels", *_NEEDED) if description.get(key) is None]
    if missing:
        raise EstimatorError(f"{path}: lacks {', '.join(missing)}")
    if description["kind"] != KIND:
        raise EstimatorError(f"{path}: unknown kind {description['kind']!r}; valid: {KIND}")
    if description["labels"] != list(LABELS):
        raise EstimatorError(f"{path}: has labels {', '.join(description['labels'])}; expected {', '.join(LABELS)}")
