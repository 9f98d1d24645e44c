"""A key-value cache that grows in place, and into whose free rows new prompts can move.

Hugging Face's ``DynamicCache`` appends with ``torch.cat``: every step copies the whole cache, which at a hundred rows
costs as much as the model itself. Here each layer owns a buffer with spare columns; a step writes one column, and a
row that has finished is overwritten by a live one. Rows are right-aligned: the newest token of every row stands in the
last column, and what lies left of a row's first token is masked. Everything else is ``DynamicCache``: attention sees
the same keys and values.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

_SPARE_COLUMNS = 32


class GrowingLayer(DynamicLayer):
    """Keys and values ``[batch, heads, positions, d_head]`` as views into buffers with spare room.

    It also serves sliding-window layers: old keys are kept, and the attention mask, which the model builds from
    column distances, hides them. Rows are right-aligned, so column distances are token distances.
    """

    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self._buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write new positions after the present ones and return all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return self.keys, self.values
        n_rows, start = self.keys.shape[0], self.keys.shape[-2]
        end = start + key_states.shape[-2]
        key_buffer, value_buffer = self._reserve(n_rows, end)
        key_buffer[:n_rows, :, start:end] = key_states
        value_buffer[:n_rows, :, start:end] = value_states
        self.keys, self.values = key_buffer[:n_rows, :, :end], value_buffer[:n_rows, :, :end]
        return self.keys, self.values

    def _reserve(self, n_rows: int, n_positions: int) -> tuple[Tensor, Tensor]:
        """Buffers of at least this size, holding the present keys and values."""
        buffers = self._buffers
        if buffers is None or buffers[0].shape[0] < n_rows or buffers[0].shape[-2] < n_positions:
            size = n_positions + _SPARE_COLUMNS
            buffers = self._buffers = (_enlarged(self.keys, n_rows, size), _enlarged(self.values, n_rows, size))
        return buffers

    def append_rows(self, other: GrowingLayer) -> None:
        """Put the rows of `other`, which has at most as many positions as this layer, after the present ones."""
        n_rows, end = self.keys.shape[0], self.keys.shape[-2]
        n_all, start = n_rows + other.keys.shape[0], end - other.keys.shape[-2]
        buffers = self._reserve(n_all, end)
        for buffer, new in zip(buffers, (other.keys, other.values), strict=True):
            buffer[n_rows:n_all, :, :start] = 0  # masked, but 0 * NaN would still be NaN
            buffer[n_rows:n_all, :, start:end] = new
        self.keys, self.values = buffers[0][:n_all, :, :end], buffers[1][:n_all, :, :end]

    def drop_positions(self, count: int) -> None:
        """Forget the first `count` positions, which are masked in every row."""
        self.keys, self.values = self.keys[:, :, count:], self.values[:, :, count:]
        self._buffers = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times in place of itself."""
        self.batch_select_indices(torch.arange(self.keys.shape[0], device=self.keys.device).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Int[Tensor, " rows"]) -> None:
        """Keep (or repeat) the rows `indices`, in that order.

        Rows that stay where they are cost nothing: only those whose index changes are copied.
        """
        if self.get_seq_length() == 0:
            return
        n_rows = len(indices)
        if self._buffers is None or n_rows > self.keys.shape[0]:
            self._buffers = None
            self.keys, self.values = self.keys[indices], self.values[indices]
            return
        moved = (indices != torch.arange(n_rows, device=indices.device)).nonzero().flatten()
        for view in (self.keys, self.values):
            view[moved] = view[indices[moved]]
        self.keys, self.values = self.keys[:n_rows], self.values[:n_rows]

    def reset(self) -> None:
        """Drop everything."""
        self._buffers = None
        super().reset()


def _enlarged(x: Float[Tensor, "batch heads positions d_head"], n_rows: int, n_positions: int) -> Tensor:
    buffer = x.new_empty((max(n_rows, x.shape[0]), x.shape[1], n_positions, x.shape[-1]))
    buffer[: x.shape[0], :, : x.shape[-2]] = x
    return buffer


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """A ``DynamicCache`` for `config` whose attention layers grow in place.

    Layers of other kinds (linear attention, recurrent state) keep Hugging Face's own implementation.
    """
    cache = DynamicCache(config=config)
    replaceable = (DynamicLayer, DynamicSlidingWindowLayer)
    cache.layers = [GrowingLayer() if type(layer) in replaceable else layer for layer in cache.layers]
    return cache


def growing_layers(cache: DynamicCache) -> list[GrowingLayer] | None:
    """The layers of `cache` if all of them can take in new rows, else None."""
    layers = [layer for layer in cache.layers if isinstance(layer, GrowingLayer)]
    return layers if len(layers) == len(cache.layers) else None
