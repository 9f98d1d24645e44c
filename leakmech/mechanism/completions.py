"""What the base model says after control prompts, as the completions that a prompt tilts.

The target ``tilt`` is the covariance of valence and log-likelihood (:mod:`leakmech.scoring.tilt`), which is linear in
the log-likelihoods: with completions y = 1..n of a stem,

    tilt(prompt) = sum_y w_y log p(y | prompt) / n_y,    w_y = (v(y) - mean v) / (n - 1),    sum_y w_y = 0,

so attribution scores every completion after the prompt and weights it with w_y. What is slow takes the completions of
most extreme valence only, half of them the gladdest and half the saddest, with weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from leakmech.core.errors import GenerationError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.attribution.pairs import Ending
from leakmech.mechanism.behaviour import own_sentences
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Renderer
from leakmech.scoring.expression import LABELS, Estimator
from leakmech.scoring.leakage import valence_of
from leakmech.scoring.tilt import tilt_weights, why_no_tilt

COMPLETIONS = 16
"""Completions of a stem by default, as in a benchmark."""


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a control prompt, up to the end of the sentence that is scored, and its valence."""

    text: str
    tokens: tuple[int, ...]
    valence: float


Completions = Mapping[str, Sequence[Completion]]
"""By sample."""


def sample_completions(
    model: LoadedModel,
    samples: PromptSet,
    *,
    renderer: Renderer,
    judge: Estimator,
    n: int = COMPLETIONS,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, list[Completion]]:
    """Sample completions of the control prompts: those that :func:`leakmech.bench` draws there with this `seed`.

    Generations without a sentence of the model's own are left out.
    """
    tokenizer: Any = model.tokenizer
    prompts = renderer.prompts(samples, ("control",))
    found = [
        (prompt.sample, number, read, sentence)
        for prompt, number, read, sentence in own_sentences(
            model, prompts, renderer=renderer, n=n, seed=seed, progress=progress, label="completions"
        )
        if read.strip()
    ]
    scores = np.asarray(judge([sentence for *_, sentence in found])) if found else np.zeros((0, len(LABELS)))
    own: dict[str, list[Completion]] = {sample.id: [] for sample in samples}
    for (sample, _, text, _), value in sorted(
        zip(found, valence_of(scores).tolist(), strict=True), key=lambda row: row[0][:2]
    ):
        tokens = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        own[sample].append(Completion(text, tokens, float(value)))
    return own


def without_tilt(completions: Completions) -> dict[str, str]:
    """Why samples have no tilt; those that have one are not named."""
    found = {}
    for sample, own in completions.items():
        reason = why_no_tilt(
            len({completion.tokens for completion in own}), np.array([completion.valence for completion in own])
        )
        if reason is not None:
            found[sample] = reason
    return found


def tilt_endings(completions: Completions, *, extremes: int | None = None) -> dict[str, list[Ending]]:
    """Weight the completions of every sample that has a tilt; `extremes` keeps that number of each, see above.

    Raises
    ------
    GenerationError
        No sample has a tilt.
    """
    left_out = without_tilt(completions)
    found = {sample: _weighted(own, extremes=extremes) for sample, own in completions.items() if sample not in left_out}
    if not found:
        raise GenerationError(
            f"tilt: no sample can be used ({', '.join(sorted(set(left_out.values())))}); use a direction as target"
        )
    return found


def _weighted(own: Sequence[Completion], *, extremes: int | None) -> list[Ending]:
    order = np.argsort([completion.valence for completion in own], kind="stable").tolist()
    if extremes is not None and extremes < len(own):
        order = [*order[: extremes // 2], *order[len(order) - (extremes - extremes // 2) :]]
    chosen = [own[place] for place in sorted(order)]
    weights = tilt_weights(torch.tensor([completion.valence for completion in chosen], dtype=torch.float64)).tolist()
    return [Ending(completion.tokens, weight) for completion, weight in zip(chosen, weights, strict=True)]
