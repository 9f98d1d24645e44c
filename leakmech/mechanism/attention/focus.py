"""Focus: a low-rank map of a head's queries after which it attends less to what has nothing to do with the request.

With q_i the query of a head at token i before its position is put in, R_i the rotation by position and K_j the key at
token j as it is read, the score and its change under q <- q + M q are

    s_ij = q_i . R_i^T K_j / sqrt(d),    change_ij = (M q_i) . R_i^T K_j / sqrt(d),

so M is fitted by ridge regression,

    M = argmin sum_ij w_ij (change_ij - t_ij)^2 + l |M|^2,    l = ridge * the mean diagonal entry of the normal matrix,

with t = -1 nat on the keys of injections that are not about the stem and 0 on those of injections that are, and on all
other keys; each of the three kinds has the same total weight. Queries are those at the stem and after it. The equations
are solved by conjugate gradients, since the normal matrix has d_head^4 entries, and M is cut to its largest singular
values. Sliding windows are taken to be longer than the prompts. R_i is the identity on entries that are not turned
(Phi) and in layers without positions (SmolLM3).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import rotate_half

from leakmech.core.errors import ModelError
from leakmech.core.progress import Progress, no_progress
from leakmech.mechanism.activations.run import padded
from leakmech.models.batching import in_batches
from leakmech.models.components import Component
from leakmech.models.hooks import whole_unembedding
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import QUERIES, at_site
from leakmech.prompts.locate import LocatedPrompt

RIDGE = 0.1
RANK = 8
_STEPS = 60
_ENOUGH = 1e-4
"""Steps of conjugate gradients at most, and the relative residual at which they end."""


@dataclass(frozen=True, eq=False)
class HeadScores:
    """What decides a head's scores: its queries, and for each the keys that it may read, turned to its position."""

    queries: Float[Tensor, "query d_head"]
    keys: Float[Tensor, "pair d_head"]
    query: Int[Tensor, " pair"]
    """Which query each key is for."""
    injected: Bool[Tensor, " pair"]
    """Whether the key stands in the injection."""
    scaling: float
    """Factor of the scores, 1 / sqrt(d_head) mostly."""

    def scores(self, queries: Float[Tensor, "query d_head"] | None = None) -> Float[Tensor, " pair"]:
        """Scores of all pairs before the softmax, with these queries in place of the head's own."""
        own = self.queries if queries is None else queries
        return (own[self.query] * self.keys).sum(-1) * self.scaling

    def attention(self, queries: Float[Tensor, "query d_head"] | None = None) -> Float[Tensor, " query"]:
        """Attention of each query to the injection."""
        scores = self.scores(queries)
        n = len(self.queries)
        largest = scores.new_full((n,), -torch.inf).scatter_reduce(0, self.query, scores, "amax")
        weights = (scores - largest[self.query]).exp()
        whole = weights.new_zeros(n).index_add(0, self.query, weights)
        return weights.new_zeros(n).index_add(0, self.query, weights * self.injected) / whole


@dataclass(frozen=True, eq=False)
class FocusMap:
    """q -> q + writes @ reads @ q, for one head."""

    writes: Float[Tensor, "d_head rank"]
    reads: Float[Tensor, "rank d_head"]

    def __call__(self, queries: Float[Tensor, "query d_head"], strength: float = 1.0) -> Float[Tensor, "query d_head"]:
        """Apply it to rows."""
        return queries + strength * (queries @ self.reads.to(queries).T) @ self.writes.to(queries).T


def fit_focus_map(unrelated: HeadScores, related: HeadScores, *, ridge: float = RIDGE, rank: int = RANK) -> FocusMap:
    """Fit the map of one head.

    Parameters
    ----------
    unrelated, related
        Scores of the head on prompts whose injection is not, and is, about the stem.
    ridge
        Penalty, as a share of the mean diagonal entry of the normal matrix.
    rank
        Rank of the map.
    """
    rest = int((~unrelated.injected).sum() + (~related.injected).sum())
    sides = [(own, torch.where(own.injected, 1 / own.injected.sum(), 1 / rest)) for own in (unrelated, related)]
    start = _gathered(unrelated, -sides[0][1] * unrelated.injected)  # on all other keys nothing shall change
    diagonal = sum(
        float((weights * (own.keys**2).sum(-1) * (own.queries**2).sum(-1)[own.query]).sum()) * own.scaling**2
        for own, weights in sides
    )
    penalty = ridge * diagonal / start.numel()

    def normal(matrix: Tensor) -> Tensor:
        parts = [_gathered(own, weights * own.scores(own.queries @ matrix.T)) for own, weights in sides]
        return parts[0] + parts[1] + penalty * matrix

    u, s, v = torch.linalg.svd(_conjugate_gradients(normal, start))
    return FocusMap(u[:, :rank] * s[:rank], v[:rank])


def _gathered(own: HeadScores, values: Float[Tensor, " pair"]) -> Float[Tensor, "d_head d_head"]:
    """Sum over pairs of value * key query^T: the gradient of the scores' weighted sum in the matrix of the map."""
    by_query = own.keys.new_zeros(own.queries.shape).index_add(0, own.query, values[:, None] * own.keys)
    return own.scaling * by_query.T @ own.queries


def _conjugate_gradients(normal: Any, wanted: Tensor) -> Tensor:
    x = torch.zeros_like(wanted)
    residual, step = wanted.clone(), wanted.clone()
    size = residual.square().sum()
    end = size * _ENOUGH**2
    for _ in range(_STEPS):
        if size <= end:
            break
        along = normal(step)
        rate = size / (step * along).sum()
        x, residual = x + rate * step, residual - rate * along
        size, before = residual.square().sum(), size
        step = residual + size / before * step
    return x


# -- reading ----------------------------------------------------------------------------------------------------------


def read_scores(
    model: LoadedModel,
    prompts: Sequence[LocatedPrompt],
    heads: Sequence[Component],
    *,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> list[HeadScores]:
    """Queries from the stem on, and the keys before them, of each head.

    Raises
    ------
    ModelError
        Queries share a module with keys and values, or are normalised, or positions are not put in by rotation, or
        scores are capped.
    """
    layout = layout_of(model.model)
    parts: list[list[HeadScores]] = [[] for _ in heads]
    for _, found in in_batches(
        prompts,
        lambda batch: _read(model, layout, batch, heads),
        batch_size=batch_size,
        device=model.device,
        label="queries and keys",
        progress=progress,
    ):
        for place, by_prompt in enumerate(found):
            parts[place] += by_prompt
    return [_joined(own) for own in parts]


def _joined(parts: Sequence[HeadScores]) -> HeadScores:
    counts = torch.tensor([len(own.queries) for own in parts])
    starts = (counts.cumsum(0) - counts).tolist()
    query = torch.cat([own.query + start for own, start in zip(parts, starts, strict=True)])
    queries, keys, injected = (
        torch.cat([getattr(own, name) for own in parts]) for name in ("queries", "keys", "injected")
    )
    return HeadScores(queries, keys, query, injected, parts[0].scaling)


@torch.no_grad()
def _read(
    model: LoadedModel, layout: Layout, batch: Sequence[LocatedPrompt], heads: Sequence[Component]
) -> list[list[HeadScores]]:
    """Scores of each head on each prompt."""
    inputs = padded(batch, model.device)
    width = inputs["input_ids"].shape[1]
    cache = DynamicCache()
    queries: dict[int, Tensor] = {}
    turns: dict[int, tuple[Tensor, Tensor]] = {}
    with ExitStack() as hooks:
        for layer in {head.layer for head in heads}:
            block = layout.block(layer)
            hooks.enter_context(at_site(block, QUERIES, _keep(queries, layer)))
            hooks.callback(block.attention.register_forward_pre_hook(_turn(turns, layer), with_kwargs=True).remove)
        hooks.enter_context(whole_unembedding(model.model))
        model.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
    found = []
    for head in heads:
        layer: Any = cache.layers[head.layer]
        keys = layer.keys[:, (head.index or 0) // (layout.n_heads // layout.n_kv_heads)].float()
        own = rearrange(queries[head.layer], "row column (head d) -> head row column d", head=layout.n_heads)
        cos, sin = (part.expand(len(batch), -1, -1).float() for part in turns[head.layer])
        scaling = float(getattr(layout.block(head.layer).attention, "scaling", layout.d_head**-0.5))
        found.append(
            [
                _of_prompt(prompt, own[head.index or 0, row].float(), keys[row], (cos[row], sin[row]), width, scaling)
                for row, prompt in enumerate(batch)
            ]
        )
    return found


def _keep(found: dict[int, Tensor], layer: int) -> Any:
    def keep(values: Tensor) -> None:
        found[layer] = values

    return keep


def _turn(found: dict[int, tuple[Tensor, Tensor]], layer: int) -> Any:
    def keep(module: nn.Module, _: Any, kwargs: dict[str, Any]) -> None:
        turn = kwargs.get("position_embeddings")
        if turn is None:
            raise ModelError(f"{type(module).__name__}: does not turn queries by position; its scores cannot be read")
        if getattr(module, "attn_logit_softcapping", None) is not None:
            name = type(module).__name__
            raise ModelError(f"{name}: caps its scores, to which maps of queries are not fitted; leave 'focus' out")
        turned = getattr(module, "use_rope", True)
        found[layer] = turn if turned else (torch.ones_like(turn[0]), torch.zeros_like(turn[1]))

    return keep


def _of_prompt(
    prompt: LocatedPrompt,
    queries: Float[Tensor, "column d_head"],
    keys: Float[Tensor, "column d_head"],
    turn: tuple[Tensor, Tensor],
    width: int,
    scaling: float,
) -> HeadScores:
    offset = width - len(prompt)
    chosen = torch.arange(offset + prompt.spans["stem"][0], width, device=keys.device)
    cos, sin = (part[chosen, None] for part in turn)
    first, rest = keys[:, : cos.shape[-1]], keys[:, cos.shape[-1] :]
    turned = first * cos - rotate_half(first) * sin
    back = torch.cat([turned, rest.expand(len(chosen), -1, -1)], dim=-1)  # R_i^T K_j: query, column, d_head
    columns = torch.arange(width, device=keys.device)
    read = (columns <= chosen[:, None]) & (columns >= offset)
    query, column = read.nonzero(as_tuple=True)
    start, stop = (offset + place for place in prompt.spans["injection"])
    return HeadScores(
        queries[chosen].cpu(), back[read].cpu(), query.cpu(), ((column >= start) & (column < stop)).cpu(), scaling
    )
