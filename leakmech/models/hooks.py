"""Hooks that see or replace the tensor that goes into a module or comes out of it.

Modules take hidden states as their first argument or by name, and return a tensor or a tuple that starts with one. A
hooked function gets the tensor; what it returns takes the tensor's place, and None leaves the tensor. No tensor is
changed in place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

See = Callable[[Tensor], Tensor | None]
"""Gets a tensor; returns another one in its place, or None."""


def on_input(module: nn.Module, see: See, *, prepend: bool = False) -> RemovableHandle:
    """Show `see` what goes into `module`, after the hooks that are there; with `prepend` before them."""

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        new = see(args[0] if args else kwargs["hidden_states"])
        if new is None:
            return None
        return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

    return module.register_forward_pre_hook(hook, with_kwargs=True, prepend=prepend)


def on_output(module: nn.Module, see: See) -> RemovableHandle:
    """Show `see` what comes out of `module`, after the hooks that are there."""

    def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        new = see(hidden_of(output))
        return (new, *output[1:]) if new is not None and isinstance(output, tuple) else new

    return module.register_forward_hook(hook)


@contextmanager
def whole_unembedding(model: Any) -> Iterator[None]:
    """Let a model compute the logits of some columns without copying its unembedding once for every row.

    ``logits_to_keep`` hands a slice to the matrix product. PyTorch folds a slice into one product only where weights
    require gradients, which those under an adapter do not: a prompt then took six times as long (64 rows of 65 tokens,
    embedded model, bfloat16, two CPU cores).
    """
    unembedding = model.get_output_embeddings()
    handle = None if unembedding is None else on_input(unembedding, Tensor.contiguous)
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


def hidden_of(output: Any) -> Tensor:
    """The hidden states in what a module returns."""
    return output[0] if isinstance(output, tuple) else output
