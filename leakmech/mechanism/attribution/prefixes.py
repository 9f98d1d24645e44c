"""Keys and values of tokens that need not run again, and forward passes that end as soon as they have served.

With n_r tokens in row r of a batch, of which the first h are the same in all rows (a chat template's opening, system
prompt and instruction), the batch costs

    h + sum_r (n_r - h)    in place of    sum_r n_r    tokens:

the *head* runs once, in one row, and its keys and values are shown to all rows. Columns then stand in the order head,
padding, rest; the padding is masked and position ids are those of the tokens, so that every row sees what it would see
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from leakmech.mechanism.activations.run import padded
from leakmech.models.hooks import on_input, on_output, whole_unembedding
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import LocatedPrompt


class FrozenLayer(DynamicLayer):
    """Keys and values of the tokens before; new ones are shown to attention, but not kept."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.dtype, self.device = layer.keys.dtype, layer.keys.device
        self.keys: Tensor = layer.keys
        self.values: Tensor = layer.values
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Give all keys and values."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def common_length(loaded: LoadedModel, prompts: Sequence[LocatedPrompt], *, n_suffix: int) -> int:
    """Count the first tokens that may run once for all `prompts`: those they share, before the last `n_suffix`.

    It is 0 in models whose attention has a window shorter than a prompt: the window counts columns, padding included.
    """
    ids = [prompt.ids for prompt in prompts]
    window = _window(loaded)
    if window is not None and max(map(len, ids)) > window:
        return 0
    longest = max(0, min(map(len, ids)) - n_suffix)
    first = np.stack([row[:longest] for row in ids])
    return int((first == first[0]).all(axis=0).cumprod().sum())


def _window(loaded: LoadedModel) -> int | None:
    """Give the number of columns that the narrowest attention layer sees; None means all."""
    model: Any = loaded.model
    config = model.config.get_text_config()
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return min((size for size in sizes if size is not None), default=None)


@torch.no_grad()
def head_cache(
    loaded: LoadedModel, prompts: Sequence[LocatedPrompt], n_head: int, *, n_layers: int | None = None
) -> DynamicCache | None:
    """Compute keys and values of the first `n_head` tokens of `prompts`, in one row; None where `n_head` is 0."""
    if n_head == 0:
        return None
    return prefix_cache(loaded, padded(prompts[:1], loaded.device), n_head, n_layers=n_layers)


@torch.no_grad()
def prefix_cache(
    loaded: LoadedModel,
    inputs: Mapping[str, Tensor],
    n_prefix: int,
    *,
    head: DynamicCache | None = None,
    n_layers: int | None = None,
) -> DynamicCache | None:
    """Compute frozen keys and values of the first `n_prefix` columns; None where there are no such columns.

    `head` holds those of the first columns in one row. Layers with a sliding window keep all columns; the mask hides
    what they ignore.
    """
    if n_prefix == 0:
        return None
    cache, n_head = DynamicCache(), 0
    if head is not None:
        n_head, n_rows = head.get_seq_length(), len(inputs["input_ids"])
        cache.layers[:] = [_growing(layer, n_rows) for layer in head.layers]
    if n_head < n_prefix:
        # The last layer's keys and values are there as soon as its heads have looked.
        with ending_before(layout_of(loaded.model).blocks[:n_layers][-1].heads_out):
            run_columns(loaded, inputs, n_head, n_prefix, cache=cache)
    cache.layers[:] = [FrozenLayer(layer) for layer in cache.layers]
    return cache


def _growing(layer: Any, n_rows: int) -> DynamicLayer:
    """Make a layer that keeps new keys and values after those of `layer`, which are the same in `n_rows` rows."""
    growing = DynamicLayer()
    growing.lazy_initialization(layer.keys, layer.values)
    growing.keys, growing.values = (tensor.expand(n_rows, -1, -1, -1) for tensor in (layer.keys, layer.values))
    return growing


# -- parts of a forward pass -------------------------------------------------------------------------------------------


def run_columns(
    loaded: LoadedModel, inputs: Mapping[str, Tensor], start: int, stop: int, *, cache: DynamicCache | None
) -> None:
    """Run columns `start` to `stop` of a batch; `cache` holds the columns before, if there are any."""
    with whole_unembedding(loaded.model):
        loaded.model(
            input_ids=inputs["input_ids"][:, start:stop],
            position_ids=inputs["position_ids"][:, start:stop],
            attention_mask=inputs["attention_mask"][:, :stop],
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )


class _Ended(Exception):  # noqa: N818 - not an error: the pass has served
    """Leaves a forward pass."""


@contextmanager
def ending_before(module: nn.Module) -> Iterator[None]:
    """End a forward pass, and with it the body of the ``with`` statement, where it reaches `module`."""
    yield from _ending(on_input(module, _end))


@contextmanager
def ending_after(module: nn.Module) -> Iterator[None]:
    """Do the same after `module` and the hooks it had before."""
    yield from _ending(on_output(module, _end))


def _end(_: Tensor) -> None:
    raise _Ended


def _ending(handle: Any) -> Iterator[None]:
    try:
        yield
    except _Ended:
        pass
    finally:
        handle.remove()
