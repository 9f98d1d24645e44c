"""Checks of the fields of interventions, shared by their kinds: each returns a normalised value or raises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from leakmech.core.errors import InterventionError, nearest
from leakmech.models.layout import Layout

UNIT_TOLERANCE = 1e-3


def number(value: Any, where: str, *, least: float = -math.inf) -> float:
    """A finite number, not below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        bound = "" if least == -math.inf else f" of at least {least:g}"
        raise InterventionError(f"{where}: must be a finite number{bound}, found {value!r}")
    return float(value)


def whole(value: Any, where: str) -> int:
    """A whole number from 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InterventionError(f"{where}: must be a whole number from 0, found {value!r}")
    return value


def numbers(value: Any, count: int, where: str, *, least: float = -math.inf) -> tuple[float, ...]:
    """`count` finite numbers; a single one is for all."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * count
    if len(values) != count:
        raise InterventionError(f"{where}: give one number or {count}, found {len(values)}")
    return tuple(number(item, where, least=least) for item in values)


def choice(value: Any, valid: Sequence[str], where: str) -> None:
    """One of several names."""
    if value not in valid:
        raise InterventionError(f"{where}: unknown {value!r}{nearest(str(value), valid)}")


def layer_list(value: Any, where: str) -> tuple[int, ...]:
    """At least one layer, each once, in ascending order."""
    if not isinstance(value, list | tuple | range) or len(value) == 0:
        raise InterventionError(f"{where}: layers must be a list of at least one layer, found {value!r}")
    layers = tuple(whole(layer, f"{where}: layers") for layer in value)
    if list(layers) != sorted(set(layers)):
        raise InterventionError(f"{where}: layers must be in ascending order, each once, found {list(layers)}")
    return layers


def tensor_field(value: Any, where: str, *, n_dims: int) -> Tensor:
    """A finite float tensor of `n_dims` dimensions as float32 on the CPU, with memory of its own."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() != n_dims or not value.numel():
        found = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InterventionError(f"{where}: must be a float tensor with {n_dims} dimensions, found {found}")
    tensor = value.detach().to("cpu", torch.float32).clone().contiguous()
    if not bool(tensor.isfinite().all()):
        raise InterventionError(f"{where}: holds NaN or infinite values")
    return tensor


def low_rank_maps(writes: Any, reads: Any, count: int, where: str, *, of: str, width: str) -> tuple[Tensor, Tensor]:
    """Matrices A and B of `count` maps A B of low rank, one for each of what there are (`of`: layers, heads)."""
    a, b = (tensor_field(value, f"{where}: {name}", n_dims=3) for name, value in (("writes", writes), ("reads", reads)))
    if a.mT.shape != b.shape or len(a) != count:
        raise InterventionError(
            f"{where}: writes {tuple(a.shape)} and reads {tuple(b.shape)} must be "
            f"({of}, {width}, rank) and ({of}, rank, {width}), for {count} {of}"
        )
    return a, b


def refuse_unless_unit(vectors: Float[Tensor, "n d_model"], where: str) -> None:
    """Refuse vectors that are not of length 1."""
    lengths = vectors.norm(dim=-1)
    off = (lengths - 1).abs() > UNIT_TOLERANCE
    if bool(off.any()):
        raise InterventionError(f"{where}: vectors must have length 1, found {float(lengths[off][0]):.4g}")


def check_layer(layer: int, layout: Layout) -> None:
    """Refuse layers that a model does not have."""
    layout.block(layer)


def check_width(vector: Tensor, layout: Layout) -> None:
    """Refuse vectors of another width than the stream's."""
    if vector.shape[-1] != layout.d_model:
        raise InterventionError(f"vectors have width {vector.shape[-1]}, the stream of this model {layout.d_model}")
