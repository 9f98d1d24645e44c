"""Run the last tokens of a batch again and again, from any layer on, with changed activations.

What is patched, knocked out or differentiated lies in the last tokens of a prompt (the stem and the chat template's
tail), and a change in layer l leaves everything before those tokens and below that layer as it was. So the tokens
before are run once and kept as keys and values; the last tokens are run once while every block's input and arguments
are kept; and a run with a change in layer l is

    x_{l+1} = block_l(x_l),    x_{l+2} = block_{l+1}(x_{l+1}),    ...

from the kept x_l, over the last tokens only. Blocks are the model's own modules, so hooks, interventions and adapters
act as they do in a whole forward pass, and the results are equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import DynamicCache

from leakmech.mechanism.attribution.prefixes import ending_after, prefix_cache, run_columns
from leakmech.models.hooks import hidden_of, on_input, on_output
from leakmech.models.layout import Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site, at_site


class Replay:
    """The last `n_suffix` columns of a batch that is padded on the left, to be run again.

    `streams` holds the residual stream before each block and after the last one that runs, over the suffix. `taped`
    keeps what derivatives by the first pass over the suffix need. `head` holds keys and values of first columns that
    are the same in all rows (:mod:`leakmech.mechanism.attribution.prefixes`). Only the first `n_layers` run, now and
    again; None runs all.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        inputs: Mapping[str, Tensor],
        *,
        n_suffix: int,
        taped: bool = False,
        head: DynamicCache | None = None,
        n_layers: int | None = None,
    ) -> None:
        self.layout: Layout = layout_of(loaded.model)
        self.streams: list[Float[Tensor, "row pos d_model"]] = []
        self._calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        width = inputs["input_ids"].shape[1]
        cache = prefix_cache(loaded, inputs, width - n_suffix, head=head, n_layers=n_layers)
        blocks = [block.block for block in self.layout.blocks[:n_layers]]
        with ExitStack() as hooks, torch.set_grad_enabled(taped):
            for block in blocks:
                # Before the hooks of others: they act again in every run.
                hooks.callback(block.register_forward_pre_hook(self._keep, with_kwargs=True, prepend=True).remove)
            if taped:  # the record of derivatives starts at the input of the first block
                hooks.callback(on_input(blocks[0], lambda x: x.detach().requires_grad_(), prepend=True).remove)
            hooks.callback(on_output(blocks[-1], self.streams.append).remove)
            hooks.enter_context(ending_after(blocks[-1]))
            run_columns(loaded, inputs, width - n_suffix, width, cache=cache)

    def _keep(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what a block was called with."""
        hidden = args[0] if args else kwargs["hidden_states"]
        self.streams.append(hidden)
        self._calls.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    def run(
        self, hidden: Float[Tensor, "row pos d_model"] | None = None, *, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """Compute the residual stream after block `stop` - 1 when `hidden` stands before block `start`.

        None for `hidden` takes what stood there before, None for `stop` runs all blocks from `start` on.
        """
        hidden = self.streams[start] if hidden is None else hidden
        for layer in range(start, len(self._calls) if stop is None else stop):
            args, kwargs = self._calls[layer]
            hidden = hidden_of(self.layout.blocks[layer].block(hidden, *args, **kwargs))
        return hidden


# -- changed activations -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Patch:
    """Values that take the place of a site's own `where` it is true; heads of ``z`` stand side by side."""

    site: Site
    layer: int
    values: Float[Tensor, "row pos width"]
    where: Bool[Tensor, "#row #pos #width"]

    def __call__(self, own: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        return torch.where(self.where, self.values.to(own.dtype), own)


@contextmanager
def patched(layout: Layout, patches: Sequence[Patch]) -> Iterator[None]:
    """Run forward passes within (of batches of the patches' shape) with the patches."""
    with ExitStack() as hooks:
        for patch in patches:
            hooks.enter_context(at_site(layout.block(patch.layer), patch.site, patch))
        yield
