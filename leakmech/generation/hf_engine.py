"""The engine on Hugging Face modules: batch planning, the decoding loop, and backing off when memory runs out.

Rows are taken block by block, as their caller numbers them. Within a block they are sorted by prompt length, longest
first, so that a batch has little padding and the largest rows of a block come first: if memory runs out, it tends to do
so early. Draws are coupled to addresses, so neither the plan nor a back-off changes a result (up to floating point).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import torch

from leakmech.core.errors import GenerationError
from leakmech.generation.decode import Clock, Decoder, Generation, LogitCombination, Row, StopRule
from leakmech.generation.decoding import Decoding
from leakmech.generation.engines import ENGINES, Capabilities
from leakmech.interventions.applied import Applied
from leakmech.models.batching import is_out_of_memory, parse_batch_size, release_memory
from leakmech.models.limits import refuse_beyond_learned
from leakmech.models.load import LoadedModel

_GIB = 2**30
_CPU_CACHE_BUDGET = 1 * _GIB
_MAX_ROWS = {"cpu": 160, "mps": 256}  # more rows a step do not raise throughput (measured on CPU: 160 beats 320)
_TYPICAL_NEW_TOKENS = 128  # first sentences are shorter, but one long row keeps old columns in use for all


@dataclass(frozen=True, eq=False)
class HFEngine:
    """An :class:`~leakmech.generation.engine.Engine` on a Hugging Face causal LM in eval mode and its tokenizer."""

    model: Any
    tokenizer: Any
    clock: Clock = field(default_factory=Clock)
    name: str = field(default="hf", init=False)
    capabilities: Capabilities = field(default=ENGINES["hf"].capabilities, init=False)

    @classmethod
    def of(cls, loaded: LoadedModel) -> HFEngine:
        """The engine of a loaded model."""
        return cls(loaded.model, loaded.tokenizer)

    @staticmethod
    def placement(*, device: str, dtype: str) -> tuple[str, str]:
        """Where the model is loaded: as the user asks."""
        return device, dtype

    def identity(self) -> dict[str, str]:
        """See :meth:`leakmech.generation.engine.Engine.identity`; nothing."""
        return {}

    def auto_batch_size(self, *, longest_prompt: int, max_new_tokens: int, n_streams: int = 1) -> int:
        """Rows that a batch may have on this device, from the size of the key-value cache and the logits."""
        model = self.model
        config = model.config.get_text_config()
        n_heads = getattr(config, "num_attention_heads", None) or 1  # a state-space model has none
        n_kv_heads = getattr(config, "num_key_value_heads", None) or n_heads
        d_head = getattr(config, "head_dim", None) or config.hidden_size // n_heads
        size = model.dtype.itemsize
        per_position = 2 * config.num_hidden_layers * n_kv_heads * d_head * size
        n_positions = longest_prompt + min(max_new_tokens, _TYPICAL_NEW_TOKENS)
        per_row = n_streams * (per_position * n_positions + config.vocab_size * (size + 8))
        device = model.get_input_embeddings().weight.device
        if device.type == "cuda":
            budget = torch.cuda.mem_get_info(device)[0] // 2
        else:
            budget = min(_CPU_CACHE_BUDGET, psutil.virtual_memory().available // 4)
        return max(1, min(budget // per_row, _MAX_ROWS.get(device.type, 1024)))

    def complete(
        self,
        rows: Sequence[Row],
        decoding: Decoding,
        *,
        seed: int = 0,
        stop: StopRule | None = None,
        combination: LogitCombination | None = None,
        applied: Applied | None = None,
        batch_size: int | str = "auto",
        done: Collection[tuple[str, int]] = (),
    ) -> Iterator[list[Generation]]:
        """See :meth:`leakmech.generation.engine.Engine.complete`; a batch is halved whenever memory runs out."""
        read = ((row.prompt_id, row.prompt_tokens) for row in rows)
        refuse_beyond_learned(self.model, read, new_tokens=decoding.max_new_tokens)
        decoder = self._decoder(decoding, seed=seed, stop=stop, combination=combination, applied=applied)
        decoder.clock = self.clock
        waiting = {(row.prompt_id, row.generation): row for row in plan(rows)}
        size = parse_batch_size(batch_size) or self._batch_size(rows, decoding)
        for key in done:
            waiting.pop(key, None)
        while waiting:
            try:
                for ended in decoder.stream(list(waiting.values()), batch_size=size):
                    for generation in ended:
                        del waiting[generation.prompt_id, generation.generation]
                    yield ended
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return
            # Outside the handler: the traceback would keep the tensors of the failed step alive.
            if size == 1:
                name = next(iter(waiting.values())).prompt_id
                raise GenerationError(f"prompt {name!r}: memory does not suffice for one row; use a smaller dtype")
            size = min(size, len(waiting)) // 2 or 1
            release_memory()

    def _decoder(self, decoding: Decoding, **settings: Any) -> Decoder:
        return Decoder(self.model, self.tokenizer, decoding=decoding, **settings)

    def _batch_size(self, rows: Sequence[Row], decoding: Decoding) -> int:
        lengths = (len(tokens) for row in rows for tokens, _ in row.read)
        return self.auto_batch_size(
            longest_prompt=max(lengths, default=1),
            max_new_tokens=decoding.max_new_tokens,
            n_streams=max((len(row.read) for row in rows), default=1),
        )


def plan(rows: Sequence[Row]) -> list[Row]:
    """The rows in the order in which they are generated; the rows of one prompt stay together."""
    return sorted(rows, key=lambda row: (row.block, -len(row.prompt_tokens), row.prompt_id, row.generation))
