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

from leakmech.mechanism.attribution.prefixes import ending_behind, prefix_cache, run_columns
from leakmech.models.layout import Block, Layout, layout_of
from leakmech.models.load import LoadedModel
from leakmech.models.sites import Site


class Replay:
    """The last `n_suffix` columns of a batch, to be run again.

    Parameters
    ----------
    loaded
        The model.
    inputs
        ``input_ids``, ``attention_mask`` and ``position_ids`` of a batch that is padded on the left.
    n_suffix
        Number of columns that will be run again; all of them: nothing is kept of the tokens before.
    taped
        Whether the first pass over the suffix can be differentiated by what happens in it.
    head
        Keys and values of the first columns, where they are the same in all rows; see
        :mod:`leakmech.mechanism.attribution.prefixes`.
    n_layers
        Number of first layers that run, now and again; all for None.

    Attributes
    ----------
    streams
        Residual stream before each block and behind the last one that runs, over the suffix.
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
            if taped:
                hooks.callback(blocks[0].register_forward_pre_hook(_leaf, with_kwargs=True, prepend=True).remove)
            hooks.callback(blocks[-1].register_forward_hook(lambda _, __, out: self._keep_last(out)).remove)
            hooks.enter_context(ending_behind(blocks[-1]))
            run_columns(loaded, inputs, width - n_suffix, width, cache=cache)

    def _keep(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what a block was called with."""
        hidden = args[0] if args else kwargs["hidden_states"]
        self.streams.append(hidden)
        self._calls.append((args[1:], {key: value for key, value in kwargs.items() if key != "hidden_states"}))

    def _keep_last(self, output: Any) -> None:
        self.streams.append(_tensor(output))

    def run(
        self, hidden: Float[Tensor, "row pos d_model"] | None = None, *, start: int = 0, stop: int | None = None
    ) -> Float[Tensor, "row pos d_model"]:
        """The residual stream behind block `stop` - 1, when `hidden` stands before block `start`.

        Parameters
        ----------
        hidden
            None for what stood there before.
        start, stop
            Blocks that run: from `start` up to and without `stop` (all the rest for None).
        """
        hidden = self.streams[start] if hidden is None else hidden
        for layer in range(start, len(self._calls) if stop is None else stop):
            args, kwargs = self._calls[layer]
            hidden = _tensor(self.layout.blocks[layer].block(hidden, *args, **kwargs))
        return hidden


def _leaf(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Start the record of derivatives at the input of the first block."""
    if args:
        return (args[0].detach().requires_grad_(), *args[1:]), kwargs
    return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


# -- changed activations -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Patch:
    """Values that take the place of a site's own.

    Attributes
    ----------
    site, layer
        Where.
    values
        What stands there instead; heads of ``z`` side by side.
    where
        Which entries are replaced.
    """

    site: Site
    layer: int
    values: Float[Tensor, "row pos width"]
    where: Bool[Tensor, "#row #pos #width"]

    def __call__(self, own: Float[Tensor, "row pos width"]) -> Float[Tensor, "row pos width"]:
        return torch.where(self.where, self.values.to(own.dtype), own)


@contextmanager
def patched(layout: Layout, patches: Sequence[Patch]) -> Iterator[None]:
    """While this is entered, forward passes (of batches of the patches' shape) run with the patches."""
    with ExitStack() as hooks:
        for patch in patches:
            hooks.callback(_register(layout.block(patch.layer), patch).remove)
        yield


def _register(block: Block, patch: Patch) -> Any:
    match patch.site:
        case "z":
            return _on_input(block.heads_out, patch)
        case "mlp_post":
            return _on_input(block.neurons_out, patch)
        case "attn_out":
            return _on_output(block.attention_post_norm or block.attention, patch)
        case "mlp_out":
            return _on_output(block.mlp_post_norm or block.mlp, patch)
        case "resid_pre":
            return _on_input(block.block, patch)
        case "resid_post":
            return _on_output(block.block, patch)
    raise AssertionError(f"site {patch.site!r} cannot be patched")


def _on_input(module: nn.Module, change: Patch) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, change: Patch) -> Any:
    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(hook)
