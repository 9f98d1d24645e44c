"""See what attention does: its weights, on any architecture, while a model runs.

PyTorch's fused attention never forms the weights, so a model is switched to eager attention for as long as they are
watched, and back on any way out. Nothing is kept here: each layer's weights are shown once, inside the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from leakmech.core.errors import ModelError
from leakmech.models.adapters import base_of
from leakmech.models.layout import Layout

_OF_FALCON = ("eager", "sdpa")
"""Implementations of Falcon that are one class."""


@dataclass(frozen=True, eq=False)
class AttentionPattern:
    """What one layer's attention did in one forward pass."""

    layer: int
    weights: Float[Tensor, "row head query key"]
    """After the softmax; each row of keys sums to 1."""
    visible: Bool[Tensor, "#row query key"]
    """Which keys each query may read: not padding, not later than the query, inside a sliding window."""
    written: Float[Tensor, "row query d_model"]
    """The output of the attention module, before a norm that may follow it."""


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """While this is entered, `model` computes attention step by step, so that its weights exist."""
    base = base_of(model)
    before = base.config._attn_implementation
    if before == "eager":
        yield
        return
    try:
        _switch(base, "eager")
        if base.config._attn_implementation != "eager":
            raise ModelError(f"{type(base).__name__}: its attention {before!r} cannot be switched to 'eager'")
        yield
    finally:
        _switch(base, before)


def _switch(base: Any, implementation: str) -> None:
    config = base.config
    if config.model_type == "falcon" and config._attn_implementation in _OF_FALCON and not config.alibi:
        # transformers refuses, but Falcon's attention looks at its configuration at every call; with alibi it would
        # add its positions twice when it is eager.
        config._attn_implementation = implementation
    else:
        base.set_attn_implementation(implementation)


@contextmanager
def watching_attention(
    layout: Layout, see: Callable[[AttentionPattern], None], *, layers: Sequence[int]
) -> Iterator[None]:
    """While this is entered, forward passes show the attention of `layers` to `see`; it must be eager.

    `see` is called inside the forward pass; what it does not keep takes no memory.
    """
    with ExitStack() as hooks:
        for layer in layers:
            handle = layout.block(layer).attention.register_forward_hook(_hook(layer, see), with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _hook(layer: int, see: Callable[[AttentionPattern], None]) -> Callable[..., None]:
    def hook(_: nn.Module, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        written, weights = output[:2] if isinstance(output, tuple) else (output, None)
        if weights is None or weights.dim() != 4:
            raise ModelError(f"layer {layer}: its attention gives no weights; load the model with attention 'eager'")
        see(AttentionPattern(layer, weights, _visible(kwargs.get("attention_mask"), weights), written))

    return hook


def _visible(mask: Tensor | None, weights: Tensor) -> Bool[Tensor, "row query key"]:
    n_queries, n_keys = weights.shape[-2:]
    if mask is None:  # causal
        everything = torch.ones(1, n_queries, n_keys, dtype=torch.bool, device=weights.device)
        return everything.tril(n_keys - n_queries)
    # Heads of a layer see the same keys; a mask is yes and no, or numbers near 0 and far below.
    return mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
