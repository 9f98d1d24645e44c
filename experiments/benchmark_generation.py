"""Benchmark: leakmech's decoding loop against plain ``model.generate``, in generations per second.

Three ways to get the same thing, K sampled first sentences for each prompt, on the same prompts, in the same process
and number format, with the same decoding settings:

* ``per prompt``: ``generate(num_return_sequences=K)`` for one prompt after the other;
* ``batched``: ``generate`` over left-padded batches of prompts;
* ours.

Both alternatives write up to ``max_new_tokens`` tokens, since ``generate`` does not know what will be scored. They run
on fewer prompts than ours, because they are slow; rates are per generation. Run it alone on the machine.

The last line is one JSON object with ``name``, ``ratios`` and ``environment``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import random_weights
import torch

from leakmech.core.provenance import environment
from leakmech.datasets.samples import load_dataset
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate, prompt_rows
from leakmech.generation.hf_engine import HFEngine, plan
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompt, Renderer
from leakmech.scoring.sentence import FirstSentences


def main() -> None:
    arguments = _arguments()
    loaded = random_weights.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    renderer = Renderer(loaded.tokenizer)
    prompts = list(renderer.prompts(load_dataset("hexl").take(arguments.samples)))
    decoding = Decoding()
    k = arguments.generations
    print(
        f"{loaded.name}, {loaded.dtype}, {loaded.device}, {len(prompts)} prompts, K = {k}, "
        f"{torch.get_num_threads()} threads"
    )

    engine, rows = HFEngine.of(loaded), plan(prompt_rows(prompts, renderer, range(k)))
    batch_size = arguments.batch_size or engine.auto_batch_size(
        longest_prompt=len(rows[0].prompt_tokens), max_new_tokens=decoding.max_new_tokens
    )
    stop = FirstSentences.of(prompts).complete
    generate(engine, rows[:k], decoding, stop=stop, batch_size=k)  # warm-up
    engine.clock.reset()
    ours, finished = _timed(lambda: generate(engine, rows, decoding, stop=stop, batch_size=batch_size))
    ours_rate = len(finished) / ours
    mean_tokens = sum(len(g.tokens) for g in finished) / len(finished)
    print(
        f"ours (batch {batch_size}): {ours_rate:.1f} generations/s, {mean_tokens:.1f} tokens each, "
        f"{engine.clock.share_outside:.1%} of the time outside the forward pass"
    )

    spaced = prompts[:: max(1, len(prompts) // arguments.baseline_prompts)][: arguments.baseline_prompts]
    rates = {}
    for name, size in (("per prompt", 1), ("batched", arguments.baseline_batch)):
        chosen = spaced if size == 1 else spaced[: max(size, len(spaced) // size * size)]
        seconds, n = _timed(
            lambda chosen=chosen, size=size: _plain_generate(loaded, renderer, chosen, size, k, decoding)
        )
        rates[name] = n / seconds
        print(f"generate, {name} ({size} prompts a call): {rates[name]:.2f} generations/s")

    ratios = {
        f"ours_over_generate_{name.replace(' ', '_')}": round(ours_rate / rate, 2) for name, rate in rates.items()
    }
    print(json.dumps({
        "name": "generation",
        "ratios": ratios,
        "generations_per_second": round(ours_rate, 2),
        "share_outside_forward": round(engine.clock.share_outside, 4),
        "peak_memory_gib": round(random_weights.peak_gib(loaded.device), 2),
        "environment": environment() | {"dtype": str(loaded.dtype), "device": str(loaded.device)},
    }))  # fmt: skip


def _plain_generate(
    loaded: LoadedModel, renderer: Renderer, prompts: Sequence[Prompt], size: int, k: int, decoding: Decoding
) -> int:
    """Generate with Hugging Face's own loop; the number of generations."""
    model: Any = loaded.model  # its generate() has no types
    tokenizer = loaded.tokenizer
    tokenizer.padding_side = "left"
    torch.manual_seed(0)
    n = 0
    for start in range(0, len(prompts), size):
        texts = [p.rendered for p in prompts[start : start + size]]
        plain = renderer.resolved_form == "plain"
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=plain).to(loaded.device)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k,
                repetition_penalty=decoding.repetition_penalty,
                max_new_tokens=decoding.max_new_tokens,
                num_return_sequences=k,
                pad_token_id=tokenizer.pad_token_id,
            )
        n += output.shape[0]
    return n


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--samples", type=int, default=60, help="samples of the data set for our loop")
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=None, help="rows of our loop; default: automatic")
    parser.add_argument("--baseline-prompts", type=int, default=16, help="prompts for the two alternatives")
    parser.add_argument("--baseline-batch", type=int, default=8, help="prompts a call of the batched alternative")
    return parser.parse_args()


if __name__ == "__main__":
    main()
