"""Memory and time of bench, score and reopening, by the number of prompts: flat and linear if all is well.

    python experiments/benchmark_scale.py --prompts 1000 10000 100000

Every step runs in a process of its own, with a tiny random model that writes one token an answer and with VADER, so
that what is measured is leakmech itself. The last line is one JSON object; ``ratios`` are of the largest size over the
smallest: of peak memory and of CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from leakmech.core.provenance import environment

STEPS = ("bench", "reopen", "score", "reopen score")
SHORT = ["--generations", "1", "--estimator", "vader", "--seed", "0", "--no-report"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory and time of bench, score and reopening, by size.")
    parser.add_argument("--prompts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    arguments = parser.parse_args()
    measured: dict[int, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_tiny(Path(folder) / "tiny")
        for size in sorted(arguments.prompts):
            measured[size] = _measure(Path(folder), size)
            for step, found in measured[size].items():
                memory, cpu, wall = found["peak_mib"], found["cpu_s"], found["seconds"]
                print(f"{size:,} prompts, {step}: {memory:.0f} MiB, {cpu:.1f} CPU s, {wall:.1f} s", flush=True)
    small, large = min(measured), max(measured)
    ratios = {f"{step} peak": measured[large][step]["peak_mib"] / measured[small][step]["peak_mib"] for step in STEPS}
    ratios |= {f"{step} CPU": measured[large][step]["cpu_s"] / measured[small][step]["cpu_s"] for step in STEPS}
    print(json.dumps({
        "name": "scale",
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "prompts_ratio": large / small,
        "measured": measured,
        "environment": environment(),
    }))  # fmt: skip


def _measure(folder: Path, size: int) -> dict[str, dict[str, float]]:
    data, run, answers = folder / f"{size}.jsonl", folder / f"run-{size}", folder / f"answers-{size}.jsonl"
    with data.open("w") as file:
        for i in range(max(1, size // 4)):
            day = i % 20  # few different injections: the sentence encoder is not what is measured
            texts = {"positive": f"I love day {day}.", "neutral": f"It is day {day}.", "negative": f"I hate day {day}."}
            file.write(json.dumps({"id": f"s{i}", "stem": f"House {i} looks"} | texts) + "\n")
    model = ["--model", str(folder / "tiny"), "--dtype", "float32", "--max-new-tokens", "1", "--no-noise-floor"]
    found = {"bench": _run(["bench", *model, "--dataset", str(data), *SHORT, "--quiet", "--out", str(run)])}
    found["reopen"] = _run(["bench", "--out", str(run), "--no-report"])
    with answers.open("w") as file:
        for line in (run / "generations" / "shard-000.jsonl").open():
            row = json.loads(line)
            file.write(json.dumps({key: row[key] for key in ("sample", "condition", "generation", "text")}) + "\n")
    scored = str(folder / f"scored-{size}")
    score = ["score", str(answers), "--dataset", str(data), "--estimator", "vader", "--no-report", "--out", scored]
    return found | {"score": _run(score), "reopen score": _run(["score", "--out", scored, "--no-report"])}


def _run(command: Sequence[str]) -> dict[str, float]:
    """Seconds and peak memory of one command."""
    started = time.perf_counter()
    child = os.posix_spawn(
        sys.executable,
        [sys.executable, "-m", "leakmech", *command],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"leakmech {' '.join(command)}: exit code {os.waitstatus_to_exitcode(status)}")
    # Linux counts in KiB, macOS in bytes.
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    used = usage.ru_utime + usage.ru_stime
    return {"peak_mib": round(peak, 1), "cpu_s": round(used, 2), "seconds": round(time.perf_counter() - started, 2)}


def save_tiny(folder: Path) -> None:
    """A model of two small layers with random weights, and a tokenizer of bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    torch.manual_seed(0)
    shape: dict[str, Any] = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(vocab_size=len(letters) + 1, bos_token_id=256, eos_token_id=256, pad_token_id=256, **shape)
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>").save_pretrained(folder)


if __name__ == "__main__":
    main()
