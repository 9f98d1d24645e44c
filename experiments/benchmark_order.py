"""Benchmark: what it costs to generate in blocks of whole samples instead of in one order by length.

A run takes its samples in blocks, so that what is finished is a random part of the data set and interim estimates can
be made of it. Sorting all rows by length would waste fewer columns on padding. Both orders are timed in turns on the
same rows, in the same process, by the processor time of the process; draws are coupled, so both give the same texts (in
float32), which is checked.

The last line is one JSON object with ``name``, ``ratios`` (seconds in blocks over seconds sorted) and ``environment``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np

from leakmech.core.provenance import environment
from leakmech.datasets.samples import load_dataset
from leakmech.generation.decode import Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate, prompt_rows
from leakmech.generation.hf_engine import HFEngine
from leakmech.models.load import load_model
from leakmech.prompts.render import Prompting, Renderer
from leakmech.scoring.sentence import FirstSentences


def main() -> None:
    arguments = _arguments()
    loaded = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    samples = load_dataset("hexl").take(arguments.samples)
    renderer = Renderer(loaded.tokenizer, Prompting(form=arguments.prompt_form))
    prompts = list(renderer.prompts(samples))
    rows = prompt_rows(prompts, renderer, range(arguments.generations))
    place = {
        sample.id: i for sample, i in zip(samples, np.random.default_rng(0).permutation(len(samples)), strict=True)
    }
    sample_of = {prompt.id: prompt.sample for prompt in prompts}
    orders = {"sorted": rows}
    for size in arguments.block_samples:
        orders[f"blocks of {size}"] = [replace(r, block=int(place[sample_of[r.prompt_id]]) // size) for r in rows]

    engine, stop = HFEngine.of(loaded), FirstSentences.of(prompts).complete

    def timed(ordered: Sequence[Row]) -> tuple[float, list[str]]:
        started = time.process_time()
        finished = generate(engine, ordered, Decoding(), stop=stop)
        return time.process_time() - started, [generation.text for generation in finished]

    timed(rows[: arguments.generations])  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in orders}
    texts: dict[str, list[str]] = {}
    for _ in range(arguments.repeats):
        for name, ordered in orders.items():
            taken, texts[name] = timed(ordered)
            seconds[name].append(taken)
            print(f"{name}: {taken:.1f} s of processor time for {len(rows)} rows", flush=True)
    differing = {name: sum(a != b for a, b in zip(own, texts["sorted"], strict=True)) for name, own in texts.items()}
    print(f"texts that differ from those in sorted order: {differing}")
    ratios = {
        f"{name.replace(' ', '_')}_over_sorted": round(median(taken) / median(seconds["sorted"]), 3)
        for name, taken in seconds.items()
        if name != "sorted"
    }
    where = {"dtype": str(loaded.dtype), "device": str(loaded.device)}
    print(json.dumps({"name": "order", "ratios": ratios, "environment": environment() | where}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompt-form", default="plain")
    parser.add_argument("--samples", type=int, default=12, help="samples of the data set")
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--block-samples", type=int, nargs="+", default=[2, 6], help="samples of a block")
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
