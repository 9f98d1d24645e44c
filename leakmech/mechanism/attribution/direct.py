"""Direct attribution: what each head and neuron itself writes along a direction at the last token of the prompt.

The residual stream is a sum, so its projection on u is one too:

    u . x_L = u . x_0 + sum_l ( sum_h u . z_lh W_O,lh  +  sum_n a_ln u . W_out,ln  +  u . (b_O,l + b_out,l) ).

For a direction, u is the direction. For a contrast of logits it is the difference of the unembedding rows, taken back
through the final norm with its scale held at what it was: (W_U[a] - W_U[b]) g / s (Elhage et al. 2021; nostalgebraist
2020). Norms between a sublayer and the stream (Gemma) are treated in the same way. The parts then add up to the
projection exactly, up to rounding; what is neither head nor neuron (embedding, biases) is kept as `rest`.

Effects on other components are not seen here: :mod:`leakmech.mechanism.attribution.gradients` has those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import ConfigError
from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet, load_dataset
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attribution.pairs import CONTRASTS, Continuations, Contrast, located_by_sample
from leakmech.mechanism.attribution.scores import Attribution, EffectSums
from leakmech.mechanism.attribution.targets import DirectionTarget
from leakmech.mechanism.behaviour import POLARITIES
from leakmech.mechanism.bridge import read_sites
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.batching import in_batches
from leakmech.models.layout import Layout, layout_of, write_weights
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import LocatedPrompt
from leakmech.prompts.render import Prompting, Renderer


@dataclass(frozen=True, eq=False)
class Parts:
    """Projections of what was written to the stream at the last token, in float32."""

    heads: Float[Tensor, "row layer head"]
    neurons: Float[Tensor, "row layer neuron"]
    attn: Float[Tensor, "row layer"]
    """Whole attention layers: their heads and their bias."""
    mlp: Float[Tensor, "row layer"]
    """Whole MLPs: their neurons and their bias."""
    embedding: Float[Tensor, " row"]
    """What stood in the stream before the first block."""
    constant: Float[Tensor, " row"]
    """From the final norm's bias; 0 for a direction."""
    total: Float[Tensor, " row"]
    """The projection of the stream itself: the sum of `embedding`, `attn`, `mlp` and `constant`."""


def direct_attribution(
    model: LoadedModel,
    dataset: str | Path | PromptSet,
    *,
    target: Direction | Continuations,
    contrasts: Mapping[Contrast, float] | None = None,
    prompting: Prompting = Prompting(),
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Attribution:
    """Compute the direct effects of all heads and neurons, as differences between conditions.

    For continuations the target is the contrast of the logits of their first tokens, positive minus negative; samples
    without one of each polarity are left out.
    """
    samples = load_dataset(dataset)
    renderer = Renderer(model.tokenizer, prompting)
    signs = _condition_weights(contrasts or CONTRASTS)
    conditions: list[Condition] = [condition for condition in CONDITIONS if signs.get(condition)]
    by_sample = located_by_sample(samples, renderer, conditions)
    if not isinstance(target, Direction):
        whole = {sample for sample, own in target.items() if all(own.get(polarity) for polarity in POLARITIES)}
        by_sample = {sample: own for sample, own in by_sample.items() if sample in whole}
        if not by_sample:
            raise ConfigError("continuations: no sample has one of each polarity; sample more of them")
    prompts = [prompt for own in by_sample.values() for prompt in own.values()]
    sums = EffectSums(layout_of(model.model), prompts)

    for batch, parts in in_batches(
        prompts,
        lambda batch: decompose(model, batch, target),
        batch_size=batch_size,
        device=model.device,
        label="direct attribution",
        progress=progress,
    ):
        sign = torch.tensor([signs[prompt.condition] for prompt in batch])
        effects = {
            "z": parts.heads,
            "mlp_post": parts.neurons,
            "attn_out": rearrange(parts.attn, "row layer -> row layer 1"),
            "mlp_out": rearrange(parts.mlp, "row layer -> row layer 1"),
        }
        signed = {site: values.cpu() * rearrange(sign, "row -> row 1 1") for site, values in effects.items()}
        sums.add(batch, signed, parts.total.cpu() * sign)
    name = "direction" if isinstance(target, Direction) else "behaviour"
    return sums.finish(method="direct", target=name, side="clean")


def _condition_weights(contrasts: Mapping[Contrast, float]) -> dict[str, float]:
    """Sum the weighted contrasts into one weight for each condition."""
    weights: dict[str, float] = {}
    for (clean, corrupt), weight in contrasts.items():
        weights[clean] = weights.get(clean, 0) + weight
        weights[corrupt] = weights.get(corrupt, 0) - weight
    return weights


@torch.no_grad()
def decompose(model: LoadedModel, prompts: Sequence[LocatedPrompt], target: Direction | Continuations) -> Parts:
    """Project all parts of the stream at the last token of each prompt, in one forward pass."""
    layout = layout_of(model.model)
    stop = DirectionTarget.of(target, model).layer + 1 if isinstance(target, Direction) else layout.n_layers
    sites = ("resid_pre", "resid_post", "z", "mlp_post")
    last = read_sites(
        model, padded(prompts, model.device), sites=sites, layers=range(stop), pick=lambda hidden: hidden[:, -1].float()
    )
    stream = last["resid_post", stop - 1]
    if isinstance(target, Direction):
        along = target.vector.to(stream).expand_as(stream)
        constant = torch.zeros(len(prompts), device=stream.device)
    else:
        along, constant = _logit_contrast(layout, stream, prompts, target)
    heads, neurons, attn, mlp = [], [], [], []
    for layer in range(stop):
        block = layout.block(layer)
        for name, linear, norm, parts, whole in (
            ("z", block.heads_out, block.attention_post_norm, heads, attn),
            ("mlp_post", block.neurons_out, block.mlp_post_norm, neurons, mlp),
        ):
            written, bias = _written(last[name, layer], linear, norm, along)
            if name == "z":
                parts.append(rearrange(written, "row (head width) -> row head width", head=layout.n_heads).sum(-1))
            else:
                parts.append(written)
            whole.append(written.sum(-1) + bias)
    return Parts(
        heads=torch.stack(heads, dim=1),
        neurons=torch.stack(neurons, dim=1),
        attn=torch.stack(attn, dim=1),
        mlp=torch.stack(mlp, dim=1),
        embedding=einsum(last["resid_pre", 0], along, "row d, row d -> row"),
        constant=constant,
        total=einsum(stream, along, "row d, row d -> row") + constant,
    )


def _written(
    inputs: Float[Tensor, "row d_in"], linear: nn.Module, norm: nn.Module | None, along: Float[Tensor, "row d_model"]
) -> tuple[Float[Tensor, "row d_in"], Float[Tensor, " row"]]:
    """Project what each input of a sublayer's last map writes, and its bias."""
    weights = write_weights(linear).float()
    offset: Tensor | None = getattr(linear, "bias", None)
    bias = along.new_zeros(along.shape[-1]) if offset is None else offset.float()
    if norm is not None:
        scale, constant = frozen_norm(norm, inputs @ weights + bias)
        assert not constant.any(), "a norm after a sublayer has no bias in any known architecture"
        along = along * scale
    return inputs * (along @ weights.T), along @ bias


def frozen_norm(
    norm: nn.Module, hidden: Float[Tensor, "row d_model"]
) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, " d_model"]]:
    """Write a norm without centring as a product: ``norm(x) = scale * x + constant``, for these very `hidden`.

    The gain is what the norm makes of a vector of equal entries, which any RMS norm divides by that entry. For
    ``nn.LayerNorm`` the stream must be centred first: see :func:`_logit_contrast`.
    """
    if isinstance(norm, nn.LayerNorm):
        deviation = (hidden.var(dim=-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
        gain = norm.weight.float() if norm.weight is not None else torch.ones_like(hidden[0])
        constant = norm.bias.float() if norm.bias is not None else torch.zeros_like(hidden[0])
        return gain / deviation, constant
    like = next(norm.parameters())
    large = 1e4  # the norm's epsilon is nothing beside it
    equal = torch.full((1, hidden.shape[-1]), large, dtype=torch.float32, device=hidden.device)
    gain = norm.forward(equal.to(like.dtype)).float()  # without its hooks, which expect whole prompts
    expected = hidden * gain
    found = norm.forward(hidden.to(like.dtype)).float()
    scale = (found * expected).sum(-1, keepdim=True) / expected.square().sum(-1, keepdim=True)
    return gain * scale, torch.zeros_like(hidden[0])


def _logit_contrast(
    layout: Layout,
    stream: Float[Tensor, "row d_model"],
    prompts: Sequence[LocatedPrompt],
    continuations: Continuations,
) -> tuple[Float[Tensor, "row d_model"], Float[Tensor, " row"]]:
    """Find vectors whose product with the stream, plus the constant returned with them, is the contrast of logits."""
    unembedding = write_weights(layout.unembedding).T
    bias: Any = getattr(layout.unembedding, "bias", None)  # Phi has one
    rows, biases = [], []
    for prompt in prompts:
        first = {p: [tokens[0] for tokens in own] for p, own in continuations[prompt.sample].items()}
        rows.append(_mean_contrast(unembedding, first))
        biases.append(torch.zeros_like(rows[-1][0]) if bias is None else _mean_contrast(bias, first))
    contrast = torch.stack(rows)
    scale, constant = frozen_norm(layout.final_norm, stream)
    along = contrast * scale
    if isinstance(layout.final_norm, nn.LayerNorm):
        along = along - along.mean(dim=-1, keepdim=True)  # centring the stream is centring what it is projected on
    return along, contrast @ constant + torch.stack(biases)


def _mean_contrast(values: Tensor, first: Mapping[str, Sequence[int]]) -> Tensor:
    """Mean over tokens of one polarity minus mean over those of the other."""
    return values[first["positive"]].float().mean(0) - values[first["negative"]].float().mean(0)


def magnitudes(
    model: LoadedModel,
    prompts: Sequence[LocatedPrompt],
    *,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> tuple[Float[Tensor, "layer head"], Float[Tensor, "layer neuron"]]:
    """Compute the mean length of what each head and neuron writes at the last token, a ranking blind to affect."""
    layout = layout_of(model.model)
    layers = range(layout.n_layers)

    @torch.no_grad()
    def work(batch: Sequence[LocatedPrompt]) -> tuple[Tensor, Tensor]:
        sites = ("z", "mlp_post")
        inputs = padded(batch, model.device)
        last = read_sites(model, inputs, sites=sites, layers=layers, pick=lambda hidden: hidden[:, -1].float())
        heads, neurons = [], []
        for layer in layers:
            block = layout.block(layer)
            z = rearrange(last["z", layer], "row (head width) -> row head width", head=layout.n_heads)
            w = rearrange(write_weights(block.heads_out).float(), "(head w) d -> head w d", head=layout.n_heads)
            heads.append(einsum(z, w, "row head w, head w d -> row head d").norm(dim=-1).sum(0))
            lengths = write_weights(block.neurons_out).float().norm(dim=-1)
            neurons.append((last["mlp_post", layer].abs() * lengths).sum(0))
        return torch.stack(heads).cpu(), torch.stack(neurons).cpu()

    results = in_batches(
        prompts,
        work,
        batch_size=batch_size,
        device=model.device,
        label="magnitudes",
        progress=progress,
    )
    heads = torch.zeros(layout.n_layers, layout.n_heads)
    neurons = torch.zeros(layout.n_layers, layout.d_mlp)
    for _, (more_heads, more_neurons) in results:
        heads += more_heads / len(prompts)
        neurons += more_neurons / len(prompts)
    return heads, neurons
