"""What generating and reading costs, before anything runs: on one H100 by formula, here by a pass that is timed.

    seconds = steps (host_s layers + weight bytes / bandwidth) + 2 parameters tokens / (utilisation peak)
              + rows row_s + weight bytes / load rate + fixed

`tokens` are those read and drawn, `steps` the decoding steps of a batch of B rows, which takes a new row in whenever
one ends: rows x mean length / B + the longest row. Nothing of it was measured on an H100: bandwidth and peak are of
NVIDIA's data sheet (H100 SXM, dense bfloat16), shapes are of the models' published configurations, and the time that a
row costs outside the model was measured with the embedded model on two CPU cores. Host time a layer and step,
utilisation, load rate, and mean lengths are assumptions, named below. Expect it within a factor of two or three. Not in
it: downloads, and building AEXL.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import read_json
from leakmech.models.hooks import whole_unembedding
from leakmech.models.hub import ADAPTER_CONFIG
from leakmech.models.load import LoadedModel

BANDWIDTH, PEAK = 3.35e12, 989e12
"""Bytes and operations a second (data sheet)."""
UTILISATION = 0.3
HOST_SECONDS = 1e-3
"""Of a layer and step in PyTorch without compiled graphs, hooks and sampling included."""
ROW_SECONDS = 8e-3
"""Of a generation for sampling and for finding its first sentence (7 % of 55.8 s for 480 rows, 2026-11-27)."""
LOAD_RATE, FIXED_SECONDS = 1e9, 30.0
"""Bytes of weights a second from a local disk; imports, estimator, encoder, bootstrap."""
PROMPT_TOKENS, NEW_TOKENS, LONGEST = 60, 30, 128
"""Of a prompt in chat form with an injection; of an answer that ends with its first sentence of its own; at most."""
MOST_ROWS = 1024
"""Rows that step together (the most that leakmech takes on a GPU)."""
SCORED_TEXTS, SCORER_PARAMETERS, SCORED_TOKENS = 4, 125e6, 30
"""Three cleaning policies, and stem with answer, a generation; RoBERTa base, in float32 at a tenth of the peak."""


@dataclass(frozen=True)
class Shape:
    """What decides a model's cost: parameters, layers, width of keys (and of values) in a layer, vocabulary, width,
    query heads in a layer."""

    parameters: float
    n_layers: int
    kv_width: int
    vocabulary: int
    width: int
    n_heads: int


class Sized(Protocol):
    """What counts of components need of a model: its layout, or a shape."""

    @property
    def n_layers(self) -> int: ...
    @property
    def n_heads(self) -> int: ...


SHAPES = {
    "Llama-3.2-1B": Shape(1.24e9, 16, 512, 128_256, 2048, 32),
    "Llama-3.2-3B": Shape(3.21e9, 28, 1024, 128_256, 3072, 24),
    "Llama-3.1-8B": Shape(8.03e9, 32, 1024, 128_256, 4096, 32),
    "Qwen2.5-0.5B": Shape(0.494e9, 24, 128, 151_936, 896, 14),
    "Qwen2.5-1.5B": Shape(1.54e9, 28, 256, 151_936, 1536, 12),
    "Qwen2.5-3B": Shape(3.09e9, 36, 256, 151_936, 2048, 16),
    "Qwen2.5-7B": Shape(7.62e9, 28, 512, 152_064, 3584, 28),
    "smollm2-135m": Shape(0.135e9, 30, 192, 49_152, 576, 9),
}
"""By name without the ending -Instruct."""


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes of GPU memory."""

    seconds: float
    memory: float


def shape_of(name: str) -> Shape | None:
    """The shape of a model, by the last part of its name; None if it is not among those of the paper."""
    return SHAPES.get(name.removesuffix("-Instruct").removesuffix("-instruct"))


_UNKNOWN = (OSError, ValueError, KeyError, AttributeError, RuntimeError, ImportError)
"""How transformers says that a configuration is not there, or not one it knows."""


@cache
def found_shape(name: str) -> Shape | None:
    """The shape of a model whose name or configuration is known on this machine; weights are not read."""
    folder = Path(name).expanduser()
    if (adapter := folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
        try:
            return found_shape(str(read_json(adapter).get("base_model_name_or_path")))
        except RunDirectoryError:
            return None
    if known := shape_of(name.removeprefix("embedded:").rpartition("/")[2]):
        return known
    try:
        config = AutoConfig.from_pretrained(folder if folder.is_dir() else name, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        text: Any = config.get_text_config()
        width, heads = text.hidden_size, text.num_attention_heads
    except _UNKNOWN:
        return None
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    kv_width = kv_heads * (getattr(text, "head_dim", None) or width // heads)
    return Shape(model.num_parameters(), text.num_hidden_layers, kv_width, text.vocab_size, width, heads)


def known_shapes(*names: str) -> dict[str, Shape]:
    """The shapes of those models whose shape is known, each once."""
    return {name: shape for name in names if (shape := shape_of(name)) is not None}


def cost(shape: Shape, n_prompts: int, n_rows: int) -> Cost:
    """Of one benchmark run in bfloat16 with `n_prompts` prompts and `n_rows` generations."""
    batch = min(MOST_ROWS, n_rows)
    weights = 2 * shape.parameters
    steps = n_rows * NEW_TOKENS / batch + LONGEST
    decoding = steps * (HOST_SECONDS * shape.n_layers + weights / BANDWIDTH)
    tokens = n_prompts * PROMPT_TOKENS + n_rows * NEW_TOKENS
    computing = 2 * shape.parameters * tokens / (UTILISATION * PEAK)
    scoring = 2 * SCORER_PARAMETERS * n_rows * SCORED_TEXTS * SCORED_TOKENS / (0.1 * PEAK)
    cache = 2 * 2 * shape.n_layers * shape.kv_width * (PROMPT_TOKENS + LONGEST)
    memory = weights + batch * (cache + shape.vocabulary * (2 + 8))
    seconds = FIXED_SECONDS + weights / LOAD_RATE + decoding + computing + n_rows * ROW_SECONDS + scoring
    return Cost(seconds, memory)


DECODED = 3
"""A token that is drawn costs as much as this many that are read, where several rows step together."""


@dataclass(frozen=True)
class Work:
    """What a run has its model do, in a rough count, and what it leaves on disk."""

    tokens: float
    """That are read, or cost as much, in passes through the whole model."""
    rows: float
    """Answers that are drawn."""
    disk: float
    """Bytes."""
    copies: float = 1.0
    """Of the weights in memory."""
    held: float = 0.0
    """Bytes of memory beside them."""


_HELD = 1.0e9
"""Bytes that libraries, the estimators and their models take."""
_BATCH_TOKENS = 2048
"""Of which a pass keeps logits at most."""
_OF_PRODUCT = 0.3
"""Operations a second in a model over those of a matrix product alone (assumed)."""
_PRODUCT = (512, 1024, 4096)


def expected(work: Work, shape: Shape, *, rate: float, size: int) -> Cost:
    """Seconds and bytes of memory of some work at `rate` operations a second, in numbers of `size` bytes."""
    weights = size * shape.parameters
    seconds = FIXED_SECONDS + weights / LOAD_RATE + 2 * shape.parameters * work.tokens / rate + work.rows * ROW_SECONDS
    return Cost(seconds, _HELD + work.copies * weights + work.held + _BATCH_TOKENS * shape.vocabulary * 4)


@cache
@torch.no_grad()
def machine_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """Operations a second that a model may reach here, from a timed matrix product; nothing is loaded."""
    rows, inner, columns = _PRODUCT
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        left = torch.ones(rows, inner, device=device, dtype=dtype)
        right = torch.ones(inner, columns, device=device, dtype=dtype)
        times = []
        for _ in range(4):
            began = time.perf_counter()
            (left @ right)[0, 0].item()  # waits for a GPU
            times.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    return _OF_PRODUCT * 2 * rows * inner * columns / min(times)


SCORED = 2.5
"""A token whose probability is taken costs as much as this many that are only read: the vocabulary, and a softmax in
float64 (with the embedded model on two CPU cores tilt took two to three times as long as reading; 2026-11-27)."""
_TIMED = (8, 64)  # rows and tokens of the pass that is timed


@torch.no_grad()
def seconds_per_token(loaded: LoadedModel) -> float:
    """Measure how long a forward pass takes here, by token that is read: the fastest of three after a first one."""
    model: Any = loaded.model
    ids = torch.ones(_TIMED, dtype=torch.long, device=loaded.device)
    times = []
    with whole_unembedding(model):
        model(ids, logits_to_keep=1)
        for _ in range(3):
            before = time.perf_counter()
            model(ids, logits_to_keep=1)[0].sum().item()  # waits for a GPU
            times.append(time.perf_counter() - before)
    return min(times) / ids.numel()
