"""Bias attention scores of chosen heads, on any architecture, through the attention mask.

A head's weights are softmax_k(score_qk + mask_qk). What is added here is a bias b per head, query and key,

    softmax_k(score_qk + mask_qk + b_hqk):

b = -inf takes a key away from a head (*knock-out*), b = log f multiplies its weight by f before the weights are
normalised again. Attention modules get their mask as an argument, so a hook can change it and nothing is patched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from leakmech.core.errors import ModelError
from leakmech.models.layout import Layout

# Flash and flex attention take masks of other forms.
_IMPLEMENTATIONS = ("eager", "sdpa")


@dataclass(frozen=True)
class AttentionCall:
    """Sizes of one call of an attention module.

    Keys include those of the cache, and queries are the last of them. Count keys from the right: a layer with a sliding
    window may have dropped the first ones.
    """

    n_rows: int
    n_queries: int
    n_keys: int
    device: torch.device


Bias = Callable[[AttentionCall], Float[Tensor, "#batch #head #query #key"] | None]
"""What to add to the scores of a call; None for nothing."""


@contextmanager
def attention_bias(layout: Layout, biases: Mapping[int, Bias]) -> Iterator[None]:
    """While this is entered, the attention of each layer in `biases` adds its bias to its scores."""
    with ExitStack() as hooks:
        for layer, bias in biases.items():
            module = layout.block(layer).attention
            handle = module.register_forward_pre_hook(_hook(bias, layer), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def refuse_other_attention(model: nn.Module) -> None:
    """Refuse models whose attention takes no mask of scores."""
    config: Any = getattr(model, "config", None)
    name = getattr(config, "_attn_implementation", "eager")
    if name not in _IMPLEMENTATIONS:
        raise ModelError(f"attention implementation {name!r} takes no bias; load the model with 'sdpa' or 'eager'")


def _hook(bias: Bias, layer: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        mask: Tensor | None = kwargs.get("attention_mask")
        if mask is not None and mask.dim() != 4:
            raise ModelError(
                f"layer {layer}: attention takes no bias per head (mask of shape {tuple(mask.shape)}); load the model "
                "with attention 'sdpa' or 'eager'"
            )
        n_keys = hidden.shape[1] + _n_cached(kwargs, layer) if mask is None else mask.shape[-1]
        call = AttentionCall(hidden.shape[0], hidden.shape[1], n_keys, hidden.device)
        added = bias(call)
        if added is None:
            return args, kwargs
        return args, {**kwargs, "attention_mask": _scores(mask, call, hidden.dtype, added)}

    return hook


def _n_cached(kwargs: Mapping[str, Any], layer: int) -> int:
    # GPT-NeoX hands its cache on under the second name.
    cache = next((kwargs[name] for name in ("past_key_values", "layer_past") if kwargs.get(name) is not None), None)
    return 0 if cache is None else int(cache.get_seq_length(layer))


def _scores(mask: Tensor | None, call: AttentionCall, dtype: torch.dtype, added: Tensor) -> Tensor:
    """The mask as numbers that are added to the scores, with `added` on top; nothing below the least number."""
    least = torch.finfo(dtype).min
    if mask is None:  # causal: query i is at key n_keys - n_queries + i
        shape = (1, 1, call.n_queries, call.n_keys)
        mask = torch.ones(shape, dtype=torch.bool, device=call.device).tril(call.n_keys - call.n_queries)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, least)
    return (mask.float() + added.float()).clamp(min=least).to(dtype)
