"""Interchange along a direction, through the model: the loss of one-dimensional distributed alignment search.

A prompt with one polarity (the base) takes over the projection on a unit vector v of a prompt with the other polarity
and of *another sample* (the source), at the last token, in the residual stream x after a layer,

    x' = x_base + ((x_source - x_base) . v) v,

and the rest of the model runs on. Wanted is what the base's own sample says with the other polarity: the loss is the
mean KL divergence of the next-token distribution under x' from that of the base's partner, in nats. It is 0 where v
carries all of the polarity and nothing else (Geiger et al. 2024).

The source is of another sample because a variable is sought that all samples have in common. Two prompts of one sample
differ in what their injections say, too, and along a vector that carries some of that, exchanging their projections
would lower the loss whichever sign it has in a sample. Two limits stay: v may use a place that the polarity never
reaches but the output reads (Makelov et al. 2024), and with fewer samples than dimensions it fits their chance.
"""

from __future__ import annotations

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from leakmech.datasets.samples import PromptSet
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attribution.pairs import located_by_sample
from leakmech.mechanism.attribution.replay import Replay
from leakmech.mechanism.attribution.targets import ContinuationTarget
from leakmech.models.batching import frozen
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Renderer

MAX_SAMPLES = 32  # one batch: the loss is asked for hundreds of times


class PromptInterchange:
    """The loss as a function of the vector and the layer; see :class:`leakmech.mechanism.directions.fits.Interchange`.

    Of more than :data:`MAX_SAMPLES` samples the first ones are used.
    """

    def __init__(self, model: LoadedModel, samples: PromptSet, *, renderer: Renderer) -> None:
        located = located_by_sample(samples.take(MAX_SAMPLES), renderer, ["positive", "negative"])
        sides = [[own[condition] for own in located.values()] for condition in ("positive", "negative")]
        self._model = model
        self._target = ContinuationTarget.of(model)
        # Each prompt is base once and source once: rows i and i + n are of one sample, the source of i is of the next.
        prompts = [*sides[0], *sides[1]]
        self._replay = Replay(model, padded(prompts, model.device), n_suffix=1)
        rows = torch.arange(len(prompts), device=model.device).view(2, -1)
        partner = rows.flip(0).flatten()
        self._source = rows.flip(0).roll(-1, dims=1).flatten()
        with torch.no_grad():
            last = self._replay.streams[-1][:, -1]
            self._wanted = torch.log_softmax(self._target.logits(last), dim=-1)[partner]

    def __call__(self, direction: Float[Tensor, " d_model"], layer: int, /) -> Float[Tensor, ""]:
        """Compute the mean KL divergence in nats; it can be differentiated by the vector."""
        base = self._replay.streams[layer + 1]
        vector = direction.to(base)
        gap = einsum(base[self._source] - base, vector, "row pos d, d -> row pos")
        with torch.enable_grad(), frozen(self._model.model):
            changed = base + rearrange(gap, "row pos -> row pos 1") * vector
            found = torch.log_softmax(self._target.logits(self._replay.run(changed, start=layer + 1)[:, -1]), dim=-1)
            return (self._wanted.exp() * (self._wanted - found)).sum(dim=-1).mean()
