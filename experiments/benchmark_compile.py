"""What `torch.compile` buys, and whether it keeps the numbers: the same batches with and without it.

    python experiments/benchmark_compile.py                              # the embedded model, on this machine
    python experiments/benchmark_compile.py --model random:llama-3.1-8b --dtype bfloat16 --device cuda

Batches of two lengths are read once to warm up (which compiles), then in turns, with and without. Draws of leakmech are
coupled to probabilities, so that a last digit can tip one: what counts as kept is that all logits are equal bit by bit.
The last line is one JSON object; ``ratios`` are of seconds (compiled over eager, medians) by length, and ``equal`` says
whether the logits are. It needs a C++ compiler on a CPU, and says so in a line where there is none.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from random_weights import load

from leakmech.core.provenance import environment

LENGTHS = (24, 96)
"""Tokens of a row: an answer's beginning, and a long prompt."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    model: Any = load(arguments.model, dtype=arguments.dtype, device=arguments.device).model
    compiled: Any = torch.compile(model, dynamic=True)
    ratios: dict[str, float] = {}
    largest: dict[str, float] = {}
    for length in LENGTHS:
        torch.manual_seed(length)
        ids = torch.randint(0, model.config.vocab_size, (arguments.rows, length), device=model.device)
        started = time.perf_counter()
        try:
            logits = _read(compiled, ids)
        except Exception as error:  # of the compiler: which one depends on the machine
            raise SystemExit(f"torch.compile does not work here: {str(error).splitlines()[0]}") from error
        print(f"{arguments.rows} x {length} tokens: first reading {time.perf_counter() - started:.1f} s", flush=True)
        largest[str(length)] = float((logits - _read(model, ids)).abs().max())
        turns = [(_seconds(model, ids), _seconds(compiled, ids)) for _ in range(arguments.rounds)]
        eager, other = map(statistics.median, zip(*turns, strict=True))
        ratios[str(length)] = other / eager
        print(
            f"  eager {eager:.3f} s, compiled {other:.3f} s: {other / eager:.2f} of the time, "
            f"largest difference of a logit {largest[str(length)]:.2g}",
            flush=True,
        )
    print(json.dumps({
        "name": "compile",
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "equal": all(value == 0 for value in largest.values()),
        "largest_difference": largest,
        "environment": environment(),
    }))  # fmt: skip


@torch.inference_mode()
def _read(model: Callable[..., Any], ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=ids, use_cache=False).logits.float()


def _seconds(model: Callable[..., Any], ids: torch.Tensor) -> float:
    """How long reading a batch takes; on a GPU, until it is done."""
    started = time.perf_counter()
    _read(model, ids)
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
