"""From a list of rows to finished generations: batch planning and backing off when memory runs out.

Rows are sorted by prompt length, longest first, so that a batch has little padding and the largest rows come first: if
memory runs out, it tends to do so early. Draws are coupled to addresses, so neither the plan nor a back-off changes
a result (up to floating point).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import psutil
import torch

from leakmech.core.errors import GenerationError
from leakmech.generation.decode import Decoder, Generation, Row
from leakmech.models.batching import is_out_of_memory

_GIB = 2**30
_CPU_CACHE_BUDGET = 1 * _GIB
_MAX_ROWS = {"cpu": 160, "mps": 256}  # more rows a step do not raise throughput (measured on CPU: 160 beats 320)
_TYPICAL_NEW_TOKENS = 128  # first sentences are shorter, but one long row keeps old columns in use for all


def plan(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order in which they are generated; the rows of one prompt stay together."""
    return sorted(rows, key=lambda row: (-len(row.prompt_tokens), row.prompt_id, row.generation))


def auto_batch_size(model: Any, *, longest_prompt: int, max_new_tokens: int, n_streams: int = 1) -> int:
    """Rows that a batch may have on this device, from the size of the key-value cache and the logits.

    `n_streams` is the number of prompts that a row reads: 1 and its references.
    """
    config = model.config.get_text_config()
    n_kv_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    d_head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    size = model.dtype.itemsize
    per_position = 2 * config.num_hidden_layers * n_kv_heads * d_head * size
    per_row = per_position * (longest_prompt + min(max_new_tokens, _TYPICAL_NEW_TOKENS)) + config.vocab_size * (
        size + 8
    )
    per_row *= n_streams
    device = model.get_input_embeddings().weight.device
    if device.type == "cuda":
        budget = torch.cuda.mem_get_info(device)[0] // 2
    else:
        budget = min(_CPU_CACHE_BUDGET, psutil.virtual_memory().available // 4)
    return max(1, min(budget // per_row, _MAX_ROWS.get(device.type, 1024)))


def generate(
    decoder: Decoder, rows: Sequence[Row], *, batch_size: int, done: Collection[tuple[str, int]] = ()
) -> Iterator[list[Generation]]:
    """Generate `rows` in the order of :func:`plan`; halve the batch whenever memory runs out.

    Parameters
    ----------
    decoder
        The model with its settings.
    rows
        Everything that belongs to the run.
    batch_size
        Rows that step together.
    done
        (prompt id, generation) of rows that an earlier call has finished; they are left out.

    Yields
    ------
    list of Generation
        Rows that have ended, as they end.

    Raises
    ------
    GenerationError
        Memory does not suffice for a single row, or logits are not finite.
    """
    waiting = {(row.prompt_id, row.generation): row for row in plan(rows)}
    for key in done:
        waiting.pop(key, None)
    while waiting:
        try:
            for ended in decoder.stream(list(waiting.values()), batch_size=batch_size):
                for generation in ended:
                    del waiting[generation.prompt_id, generation.generation]
                yield ended
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return
        # Outside the handler: the traceback would keep the tensors of the failed step alive.
        if batch_size == 1:
            name = next(iter(waiting.values())).prompt_id
            raise GenerationError(f"prompt {name!r}: memory does not suffice for one row; use a smaller dtype")
        batch_size = min(batch_size, len(waiting)) // 2 or 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
