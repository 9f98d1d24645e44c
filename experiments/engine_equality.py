"""Do engines agree? The same benchmark drawn by Hugging Face modules and by vLLM, compared in distribution.

Three runs over the same samples, each in a process of its own: hf, hf with another seed, and vllm. The first is
compared with both others by two one-sided tests (TOST, margin .05, set beforehand) on auc_el and mu_el. The second seed
shows what a difference of draws alone looks like; engines agree as far as vllm is no further away and equivalent within
the margin. Nothing is claimed bit by bit: draws of the engines are not coupled, and kernels round differently.

The comparison needs at least 400 pairs (samples times two polarities times generations); fewer are refused. Where vLLM
is not installed, a line says so. Runs are kept in --out and continued. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import leakmech
from leakmech.core.errors import LeakmechError
from leakmech.core.provenance import environment
from leakmech.generation.engines import ENGINES

FEWEST_PAIRS = 400
STATISTICS = ("auc_el", "mu_el")


def main() -> None:
    arguments = _arguments()
    n_pairs = 2 * arguments.samples * arguments.generations
    if n_pairs < FEWEST_PAIRS:
        raise SystemExit(f"engine_equality: {n_pairs} pairs are too few, {FEWEST_PAIRS} are needed; raise --samples")
    try:
        ENGINES["vllm"].placement(device="auto", dtype=arguments.dtype)
    except LeakmechError as missing:
        print(f"engine_equality: not run: {missing}")
        return
    runs = {
        "hf": _bench(arguments, "hf", seed=0),
        "hf-other-seed": _bench(arguments, "hf", seed=1),
        "vllm": _bench(arguments, "vllm", seed=0),
    }
    found: dict[str, Any] = {}
    for statistic in STATISTICS:
        comparison = leakmech.compare(list(runs.values()), statistic=statistic, margin=arguments.margin)
        print("\n" + comparison.to_table().to_markdown())
        found[statistic] = {
            own.run: {"difference": own.difference, "low": own.low, "high": own.high, "verdict": own.verdict}
            for own in comparison.of()
        }
    engine = leakmech.load_result(runs["vllm"]).summary["engine"]
    print(json.dumps({
        "name": "engine_equality", "margin": arguments.margin, "n_pairs": n_pairs, "engine": engine,
        "differences": found, "environment": environment(),
    }))  # fmt: skip


def _bench(arguments: argparse.Namespace, engine: str, *, seed: int) -> Path:
    """One run, in a process that gives all memory back when it ends."""
    out = arguments.out / f"{engine}-seed{seed}"
    given = {
        "--model": arguments.model, "--dataset": arguments.dataset, "--limit": arguments.samples,
        "--generations": arguments.generations, "--dtype": arguments.dtype, "--engine": engine, "--seed": seed,
        "--estimator": arguments.estimator, "--max-new-tokens": arguments.max_new_tokens, "--out": out,
    }  # fmt: skip
    options = [str(word) for option in given.items() for word in option]
    command = [sys.executable, "-m", "leakmech", "bench", *options, "--no-noise-floor", "--no-report"]
    subprocess.run(command, check=True)
    return out


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dataset", default="hexl")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--estimator", default="embedded")
    parser.add_argument("--margin", type=float, default=0.05)
    parser.add_argument("--out", type=Path, default=Path("runs/engine-equality"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
