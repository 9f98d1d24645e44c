"""From a list of rows to finished generations: batch planning and backing off when memory runs out.

Rows are sorted by prompt length, longest first, so that a batch has little padding and the largest batch comes first:
if memory runs out, it does so at once. Because draws are coupled to addresses, neither the plan nor a back-off changes
a result (up to floating point).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import psutil
import torch

from leakmech.errors import ConfigError, GenerationError
from leakmech.generation.decode import Decoder, Generation, Row

_GIB = 2**30
_CPU_CACHE_BUDGET = 1 * _GIB
_MAX_ROWS = {"cpu": 320, "mps": 256}  # more rows a step no longer raise throughput
_TYPICAL_NEW_TOKENS = 64  # first sentences are shorter; the cache grows when it must


def plan(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order in which they are generated; the rows of one prompt stay together."""
    return sorted(rows, key=lambda row: (-len(row.prompt_tokens), row.prompt_id, row.generation))


def auto_batch_size(model: Any, *, longest_prompt: int, max_new_tokens: int) -> int:
    """Rows that a batch may have on this device, from the size of the key-value cache and the logits."""
    config = model.config.get_text_config()
    n_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.dtype.itemsize
    per_position = 2 * config.num_hidden_layers * n_kv_heads * d_head * size
    per_row = per_position * (longest_prompt + min(max_new_tokens, _TYPICAL_NEW_TOKENS)) + config.vocab_size * (
        size + 8
    )
    device = model.get_input_embeddings().weight.device
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 2
    else:
        budget = min(_CPU_CACHE_BUDGET, psutil.virtual_memory().available // 4)
    return max(1, min(budget // per_row, _MAX_ROWS.get(device.type, 1024)))


def parse_batch_size(value: int | str) -> int | None:
    """A number of rows, or None for ``"auto"``.

    Raises
    ------
    ConfigError
        It is neither ``auto`` nor a positive whole number.
    """
    if str(value) == "auto":
        return None
    if not str(value).isdecimal() or int(value) < 1:
        raise ConfigError(f"batch_size must be 'auto' or at least 1, found {value!r}")
    return int(value)


def generate(
    decoder: Decoder,
    rows: Sequence[Row],
    *,
    batch_size: int,
    done: Collection[tuple[str, int]] = (),
    on_finished: Callable[[int], None] | None = None,
) -> Iterator[list[Generation]]:
    """Generate `rows` batch by batch, in the order of :func:`plan`.

    Parameters
    ----------
    decoder
        The model with its settings.
    rows
        Everything that belongs to the run.
    batch_size
        Rows in a batch; halved whenever memory runs out.
    done
        (prompt id, generation) of rows that an earlier call has finished. A batch is planned as if nothing were done
        and skipped only if all of it is, so that a continued run computes exactly what an uninterrupted one does.
    on_finished
        Progress callback with the number of rows that ended.

    Yields
    ------
    list of Generation
        One finished batch without the rows in `done`.

    Raises
    ------
    GenerationError
        Memory does not suffice for a single row, or logits are not finite.
    """
    ordered = plan(rows)
    position = 0
    while position < len(ordered):
        batch = ordered[position : position + batch_size]
        if all((row.prompt_id, row.generation) in done for row in batch):
            position += len(batch)
            continue
        finished = _decode_or_none(decoder, batch, on_finished)
        if finished is None:
            if len(batch) == 1:
                raise GenerationError(
                    f"prompt {batch[0].prompt_id!r}: memory does not suffice for one row; use a smaller dtype"
                )
            batch_size = len(batch) // 2
            continue
        position += len(batch)
        yield [g for g in finished if (g.prompt_id, g.generation) not in done]


def _decode_or_none(
    decoder: Decoder, batch: list[Row], on_finished: Callable[[int], None] | None
) -> list[Generation] | None:
    """The finished batch, or None when memory ran out; progress made before that is taken back."""
    reported = 0

    def report(n_rows: int) -> None:
        nonlocal reported
        reported += n_rows
        if on_finished:
            on_finished(n_rows)

    try:
        return decoder.decode(batch, on_finished=report)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    if on_finished:
        on_finished(-reported)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Did an allocator (CUDA, MPS or CPU) refuse?"""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text
