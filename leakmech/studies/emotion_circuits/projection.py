"""What edits do to the projection on an emotion's direction at the end of the model, without generating anything.

    reference[e]   unit mean of the directions of e in the stream after the layers at depth .75 to .90
    projection     <h, reference[e]> with h the stream after the last layer, before the final norm, at the last token

Enhancement adds to a set of units what the command e adds to them, and reads events without a command; ablation sets
the units to zero, and reads events under the command e. Random sets have as many units of the kind in every layer, and
act at the same token. Sublayer influence adds alpha v[e] to what a sublayer writes at the last token,

    I = change of the projection / alpha,

with v[e] the direction after that sublayer, and alpha in units of the RMS of an element of the stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.emotions import EMOTIONS, Emotion
from leakmech.interventions.base import Intervention
from leakmech.interventions.hooks import apply
from leakmech.interventions.positions import PromptSpans
from leakmech.interventions.types import AblateHeads, AblateNeurons, Steer
from leakmech.mechanism.attribution.prefixes import prefix_cache, run_columns
from leakmech.mechanism.attribution.verdict import rank_p, same_layer_sets
from leakmech.models.batching import frozen, padded_left
from leakmech.models.components import Component
from leakmech.models.hooks import See
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import at_site, recording
from leakmech.studies.emotion_circuits.components import modulation
from leakmech.studies.emotion_circuits.directions import Vectors


def reference_vectors(vectors: Float[np.ndarray, "emotion layer d"], layers: Sequence[int]) -> Vectors:
    """Unit means of the directions of some layers."""
    means = vectors[:, list(layers)].mean(axis=1)
    return means / np.linalg.norm(means, axis=1, keepdims=True)


class LastTokens:
    """Prompts of which only the last token is run, again and again: keys and values of the tokens before are kept."""

    def __init__(self, loaded: LoadedModel, prompts: Sequence[tuple[int, ...]], reference: Vectors) -> None:
        self.loaded = loaded
        self.layout = layout_of(loaded.model)
        self._reference = reference
        self._inputs = padded_left([torch.tensor(ids) for ids in prompts], loaded.device)
        self._spans = [PromptSpans(len(ids)) for ids in prompts]
        self._width = self._inputs["input_ids"].shape[1]
        self._cache = prefix_cache(loaded, self._inputs, self._width - 1)

    @torch.inference_mode()
    def projections(self, emotion: Emotion, interventions: Sequence[Intervention] = ()) -> Float[np.ndarray, " prompt"]:
        """The projection of each prompt on the reference direction of one emotion."""
        last = self.layout.n_layers - 1
        with apply(self.loaded, interventions) if interventions else nullcontext() as applied:
            told = applied.positions(self._spans) if applied else nullcontext()
            with told, recording(self.layout, sites=["resid_post"], layers=[last], pick=lambda x: x[:, -1]) as kept:
                self.run()
        h = kept["resid_post", last].float().cpu().numpy().astype(np.float64)
        return h @ self._reference[EMOTIONS.index(emotion)]

    def gradients(
        self, emotion: Emotion, sites: Sequence[str]
    ) -> dict[tuple[str, int], Float[np.ndarray, "prompt width"]]:
        """Gradients of the projections by what stands at some sites, by site and layer."""
        layers = range(self.layout.n_layers)
        direction = torch.from_numpy(self._reference[EMOTIONS.index(emotion)])
        with torch.enable_grad(), frozen(self.loaded.model), ExitStack() as hooks:
            kept: dict[tuple[str, int], Tensor] = {}
            for layer in layers:
                for site in (*sites, "resid_post"):
                    hooks.enter_context(at_site(self.layout.block(layer), site, _keep(kept, (site, layer))))
            self.run()
            end = kept["resid_post", self.layout.n_layers - 1][:, -1].float()
            places = [place for place in kept if place[0] in sites]
            found = torch.autograd.grad((end @ direction.to(end)).sum(), [kept[place] for place in places])
        return {
            place: gradient[:, -1].float().cpu().numpy().astype(np.float64)
            for place, gradient in zip(places, found, strict=True)
        }

    def run(self) -> None:
        """Run the last column."""
        run_columns(self.loaded, self._inputs, self._width - 1, self._width, cache=self._cache)


def _keep(kept: dict[tuple[str, int], Tensor], place: tuple[str, int]) -> See:
    """Keep a tensor with its gradient; in a frozen model the first one is where gradients begin."""

    def see(values: Tensor) -> Tensor | None:
        begins = not values.requires_grad
        kept[place] = values.detach().requires_grad_() if begins else values
        return kept[place] if begins else None

    return see


@dataclass(frozen=True)
class SetEffect:
    """The mean effect of a set of units on the projection, beside those of random sets."""

    effect: float
    random: tuple[float, ...]

    @property
    def p(self) -> float | None:
        return rank_p(self.effect, np.array(self.random))


def enhancement(
    uncommanded: LastTokens,
    emotion: Emotion,
    units: Sequence[Component],
    changes: dict[str, Float[np.ndarray, "layer width"]],
    *,
    draws: int,
    seed: int,
) -> SetEffect:
    """By how much the projection rises when units get what the command adds to them."""
    before = uncommanded.projections(emotion).mean()

    def effect(own: Sequence[Component]) -> float:
        edit = modulation(own, changes, uncommanded.layout, positions="last_prompt")
        return float(uncommanded.projections(emotion, [edit]).mean() - before)

    random = same_layer_sets(units, uncommanded.layout, n=draws, seed=seed)
    return SetEffect(effect(units), tuple(effect(own) for own in random))


def ablation(
    commanded: LastTokens, emotion: Emotion, units: Sequence[Component], *, draws: int, seed: int
) -> SetEffect:
    """By how much the projection falls under the command when units are zero at the last token."""
    before = commanded.projections(emotion).mean()
    kind = AblateHeads if units[0].kind == "head" else AblateNeurons

    def effect(own: Sequence[Component]) -> float:
        edit = kind(list(own), method="zero", positions="last_prompt")
        return float(before - commanded.projections(emotion, [edit]).mean())

    random = same_layer_sets(units, commanded.layout, n=draws, seed=seed)
    return SetEffect(effect(units), tuple(effect(own) for own in random))


def influence(
    uncommanded: LastTokens,
    vectors: dict[str, Float[np.ndarray, "emotion layer d"]],
    rms: float,
    strengths: Sequence[float],
    *,
    progress: Progress = no_progress,
) -> Float[np.ndarray, "strength emotion sublayer layer"]:
    """The influence of every sublayer (attention, MLP) for every emotion.

    `vectors` are directions after each sublayer, by the site of what it writes (``attn_out``, ``mlp_out``); `rms` is
    that of an element of the stream.
    """
    n_layers = uncommanded.layout.n_layers
    found = np.zeros((len(strengths), len(EMOTIONS), len(vectors), n_layers))
    with progress("sublayer influence", total=found.size, done=0) as advance:
        for e, emotion in enumerate(EMOTIONS):
            before = uncommanded.projections(emotion).mean()
            for s, (site, own) in enumerate(vectors.items()):
                for layer in range(n_layers):
                    for a, strength in enumerate(strengths):
                        length = strength * rms
                        step = Steer(
                            torch.from_numpy(own[e, layer]).float(), layers=[layer], site=site, strength=1.0,
                            stream_norm=length, positions="last_prompt",
                        )  # fmt: skip
                        after = uncommanded.projections(emotion, [step]).mean()
                        found[a, e, s, layer] = (after - before) / length
                    advance(len(strengths))
    return found
