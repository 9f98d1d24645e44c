"""Activations of any token ids, each with the spans that are averaged: for texts that are no conditions of samples.

Rows go in batches of like length, padded on the left; a value depends on its own row only. A span of one token is that
token. Averages are in float32. Several spans of a text are read in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import ActivationError
from leakmech.core.progress import Progress, no_progress
from leakmech.mechanism.activations.run import TokenPick, checked_layers
from leakmech.mechanism.bridge import read_sites
from leakmech.models.batching import in_batches, padded_left
from leakmech.models.layout import layout_of
from leakmech.models.limits import refuse_unreadable
from leakmech.models.load import LoadedModel
from leakmech.models.sites import parse_sites


@dataclass(frozen=True)
class LabelledText:
    """Token ids under a free label, and the spans that are read: from a first token up to an end, which is not."""

    label: str
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        for first, end in self.spans:
            if not 0 <= first < end <= len(self.ids):
                raise ActivationError(f"text {self.label!r}: tokens {first} to {end} are not among its {len(self.ids)}")

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def at_last(cls, label: str, ids: Sequence[int]) -> LabelledText:
        """The last token of a text."""
        return cls(label, tuple(ids), ((len(ids) - 1, len(ids)),))


@torch.inference_mode()
def read_labelled(
    loaded: LoadedModel,
    texts: Sequence[LabelledText],
    *,
    sites: Sequence[str] = ("resid_post",),
    layers: Sequence[int] | None = None,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> dict[str, Float[np.ndarray, "text span layer width"]]:
    """Mean activations over the spans of every text, by site, in the order of `texts`.

    Raises
    ------
    ActivationError
        There is no text, or one has another number of spans.
    ConfigError, ModelError
        A site or layer is unknown, or a text is longer than the model can read.
    """
    if not texts:
        raise ActivationError("activations: there is no text to read")
    n_spans = len(texts[0].spans)
    if other := next((text for text in texts if len(text.spans) != n_spans), None):
        raise ActivationError(f"text {other.label!r}: has {len(other.spans)} spans, and others have {n_spans}")
    layout = layout_of(loaded.model)
    names = parse_sites(sites, layout)
    chosen = checked_layers(layers, layout)
    refuse_unreadable(loaded.model, ((text.label, text.ids) for text in texts))

    def work(numbers: Sequence[int]) -> dict[str, Tensor]:
        own = [texts[number] for number in numbers]
        inputs = padded_left([torch.tensor(text.ids) for text in own], loaded.device)
        width = inputs["input_ids"].shape[1]
        spans = torch.tensor([[[width - len(text) + place for place in span] for span in text.spans] for text in own])
        pick = TokenPick(spans, range(n_spans), width).to(loaded.device)
        found = read_sites(loaded, inputs, sites=names, layers=chosen, pick=lambda x: pick(x.float()))
        return {site: torch.stack([found[site, layer] for layer in chosen], dim=2).cpu() for site in names}

    values: dict[str, np.ndarray] = {}
    for numbers, found in in_batches(
        range(len(texts)),
        work,
        batch_size=batch_size,
        device=loaded.device,
        label="activations",
        progress=progress,
        order=lambda number: len(texts[number]),
        name=lambda number: f"text {texts[number].label!r}",
    ):
        for site, rows in found.items():
            if site not in values:
                values[site] = np.empty((len(texts), *rows.shape[1:]), dtype=np.float32)
            values[site][list(numbers)] = rows.numpy()
    return values
