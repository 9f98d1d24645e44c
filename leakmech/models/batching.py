"""Work on items in batches that shrink when memory runs out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor, nn

from leakmech.core.errors import ActivationError, ConfigError
from leakmech.core.progress import Progress
from leakmech.core.validation import shown, whole_number

# Small batches keep a CPU's caches warm (measured: 16 is a third faster than 64), large ones an accelerator busy.
_BATCH_SIZES = {"cpu": 16}
_BATCH_SIZE_ELSEWHERE = 128

_NO_MEMORY = re.compile(
    r"out of ?memory|(?:can't|cannot|could not|failed to|unable to) allocate|(?:not enough|insufficient) memory"
    r"|bad_?alloc|_STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation|invalid buffer size",
    re.IGNORECASE,
)
"""What allocators say: of the CPU, of CUDA and HIP and their libraries (cuBLAS, cuDNN, cuSPARSE), and of MPS."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def _prompt_name(item: Any) -> str:
    return f"prompt {item.id!r}"


def in_batches(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Result],
    *,
    batch_size: int | str,
    device: torch.device,
    label: str,
    progress: Progress,
    order: Callable[[Item], Any] = len,  # pyright: ignore[reportArgumentType] - of items that have a length
    name: Callable[[Item], str] = _prompt_name,
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Batches of `items` with the results of `work` on them; a batch is halved when memory runs out.

    Items run in descending order of `order`: those of like length share a batch, and what does not fit is seen at once.
    """
    items = sorted(items, key=order, reverse=True)
    size = parse_batch_size(batch_size) or default_batch_size(device)
    done = 0
    with progress(label, total=len(items), done=0) as advance:
        while done < len(items):
            batch = items[done : done + size]
            try:
                result = work(batch)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise ActivationError(
                        f"{name(batch[0])}: memory does not suffice for it alone; use a smaller dtype"
                    ) from None
                size = len(batch) // 2
            else:
                yield batch, result
                advance(len(batch))
                done += len(batch)
                continue
            release_memory()


def default_batch_size(device: str | torch.device) -> int:
    """Number of items in a batch on that device."""
    return _BATCH_SIZES.get(torch.device(device).type, _BATCH_SIZE_ELSEWHERE)


def padded_left(
    rows: Sequence[Int[Tensor, " tokens"]], device: torch.device, *, n_head: int = 0
) -> dict[str, Int[Tensor, "row column"]]:
    """Model inputs for a batch: ids padded on the left with each row's first token, mask and position ids.

    The first `n_head` tokens of each row go before the padding.
    """
    width = max(map(len, rows))
    ids = torch.empty(len(rows), width, dtype=torch.long)
    mask = torch.ones(len(rows), width, dtype=torch.long)
    for row, own in enumerate(rows):
        n_padding = width - len(own)
        ids[row, :n_head] = own[:n_head]
        ids[row, n_head : n_head + n_padding] = int(own[0])
        ids[row, n_head + n_padding :] = own[n_head:]
        mask[row, n_head : n_head + n_padding] = 0
    position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": position_ids}
    return {name: tensor.to(device) for name, tensor in inputs.items()}


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """While this is entered, no parameter of `model` requires a gradient, so nothing is kept in memory for one."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def parse_batch_size(value: int | str) -> int | None:
    """A number of rows, or None for ``"auto"``."""
    if str(value) == "auto":
        return None
    number = whole_number(str(value))
    if not number:
        raise ConfigError(f"batch_size must be 'auto' or at least 1, found {shown(value)}")
    return number


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator (CUDA, MPS or CPU) refused."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return _NO_MEMORY.search(str(error)) is not None


def release_memory() -> None:
    """Give what an allocator keeps back to the device; call it outside the handler, whose traceback holds tensors."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
