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
from typing import Any

import torch

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
    """What decides a model's cost: parameters, layers, width of keys (and of values) in a layer, vocabulary, width."""

    parameters: float
    layers: int
    kv_width: int
    vocabulary: int
    width: int


SHAPES = {
    "Llama-3.2-1B": Shape(1.24e9, 16, 512, 128_256, 2048),
    "Llama-3.2-3B": Shape(3.21e9, 28, 1024, 128_256, 3072),
    "Llama-3.1-8B": Shape(8.03e9, 32, 1024, 128_256, 4096),
    "Qwen2.5-0.5B": Shape(0.494e9, 24, 128, 151_936, 896),
    "Qwen2.5-1.5B": Shape(1.54e9, 28, 256, 151_936, 1536),
    "Qwen2.5-3B": Shape(3.09e9, 36, 256, 151_936, 2048),
    "Qwen2.5-7B": Shape(7.62e9, 28, 512, 152_064, 3584),
    "smollm2-135m": Shape(0.135e9, 30, 192, 49_152, 576),
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


def known_shapes(*names: str) -> dict[str, Shape]:
    """The shapes of those models whose shape is known, each once."""
    return {name: shape for name in names if (shape := shape_of(name)) is not None}


def cost(shape: Shape, n_prompts: int, n_rows: int) -> Cost:
    """Of one benchmark run in bfloat16 with `n_prompts` prompts and `n_rows` generations."""
    batch = min(MOST_ROWS, n_rows)
    weights = 2 * shape.parameters
    steps = n_rows * NEW_TOKENS / batch + LONGEST
    decoding = steps * (HOST_SECONDS * shape.layers + weights / BANDWIDTH)
    tokens = n_prompts * PROMPT_TOKENS + n_rows * NEW_TOKENS
    computing = 2 * shape.parameters * tokens / (UTILISATION * PEAK)
    scoring = 2 * SCORER_PARAMETERS * n_rows * SCORED_TEXTS * SCORED_TOKENS / (0.1 * PEAK)
    cache = 2 * 2 * shape.layers * shape.kv_width * (PROMPT_TOKENS + LONGEST)
    memory = weights + batch * (cache + shape.vocabulary * (2 + 8))
    seconds = FIXED_SECONDS + weights / LOAD_RATE + decoding + computing + n_rows * ROW_SECONDS + scoring
    return Cost(seconds, memory)


SCORED = 2.5
"""A token whose probability is taken costs as much as this many that are only read: the vocabulary, and a softmax in
float64 (with the embedded model on two CPU cores tilt took two to three times as long as reading; 2026-11-27)."""
_TIMED = (8, 64)  # rows and tokens of the pass that is timed


@torch.no_grad()
def seconds_per_token(loaded: LoadedModel) -> float:
    """Measure how long a forward pass takes here, by token that is read: the fastest of three after a first one."""
    model: Any = loaded.model
    ids = torch.ones(_TIMED, dtype=torch.long, device=loaded.device)
    model(ids, logits_to_keep=1)
    times = []
    for _ in range(3):
        before = time.perf_counter()
        model(ids, logits_to_keep=1)[0].sum().item()  # waits for a GPU
        times.append(time.perf_counter() - before)
    return min(times) / ids.numel()
