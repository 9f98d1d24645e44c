"""Benchmark: attribution of all heads and neurons, and caching of one site, against the alternatives.

On the same equalised pairs of HEXL prompts, in the same process and number format:

* ``forward``: plain Hugging Face forward passes over one side of the pairs, in the same batches;
* ``TransformerLens``: its ``attribution_patch`` (heads and MLPs, one pair at a time), on its bridge;
* ``exact``: one whole forward pass per head and batch, as every tool does it that has no cache of prefixes; measured on
  some heads and multiplied;
* ``exact, replayed``: leakmech's own :func:`patch_heads`, from the patched layer on and over the shared tokens;
* ours: :func:`attribute_pairs`, heads, sublayers and neurons.

Peak memory is that of the process (ours comes first). Run it alone on the machine. The last line is one JSON object
with ``name``, ``ratios`` (time of the alternative over ours, and costs in forward passes) and ``environment``.
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
from leakmech.datasets.samples import CONDITIONS, load_dataset
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.mechanism.activations.run import padded
from leakmech.mechanism.attribution.gradients import attribute_pairs
from leakmech.mechanism.attribution.pairs import Pair, make_pairs
from leakmech.mechanism.attribution.patching import patch_heads
from leakmech.mechanism.attribution.replay import Patch, patched
from leakmech.mechanism.attribution.targets import DirectionTarget
from leakmech.mechanism.bridge import bridge
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.prompts.locate import locate
from leakmech.prompts.render import Renderer


def main() -> None:
    arguments = _arguments()
    loaded = random_weights.load(arguments.model, dtype=arguments.dtype, device=arguments.device)
    renderer = Renderer(loaded.tokenizer)
    samples = load_dataset("hexl").take(arguments.samples)
    contrast = {("positive", "negative"): 1.0}
    pairs = make_pairs(samples, renderer, contrasts=contrast, equalised=True)  # pyright: ignore[reportArgumentType]
    pairs.sort(key=len, reverse=True)
    batches = [pairs[i : i + arguments.batch_size] for i in range(0, len(pairs), arguments.batch_size)]
    layout = layout_of(loaded.model)
    n_heads = layout.n_layers * layout.n_heads
    print(
        f"{loaded.name}, {loaded.dtype}, {loaded.device}, {len(pairs)} pairs in batches of {arguments.batch_size}, "
        f"{n_heads} heads, {layout.n_layers * layout.d_mlp} neurons, {torch.get_num_threads()} threads"
    )
    target = DirectionTarget.of(_random_direction(loaded), loaded)
    size = arguments.batch_size

    ours = _seconds(lambda: attribute_pairs(loaded, pairs, target, batch_size=size), arguments.repeats)
    peak = random_weights.peak_gib(loaded.device)
    forward = _seconds(lambda: _forward(loaded, batches), arguments.repeats)
    replayed = _seconds(lambda: _replayed(loaded, pairs, target, size), 1) * layout.n_layers / len(_LAYERS(layout))
    exact = _exact(loaded, batches, arguments.heads) * n_heads / arguments.heads
    few = pairs[: arguments.lens_pairs]
    lens = _lens(loaded, few, arguments.repeats) * len(pairs) / len(few)
    bare = _seconds(lambda: _forward_prompts(loaded, samples, size), arguments.repeats)
    cached = _seconds(lambda: cache_activations(loaded, samples, batch_size=size), arguments.repeats)

    for name, seconds in (
        ("ours", ours),
        ("forward, one side", forward),
        ("TransformerLens attribution_patch", lens),
        ("exact patching of all heads", exact),
        ("exact patching, replayed (ours)", replayed),
        ("forward over all conditions", bare),
        ("the same with one site cached", cached),
    ):
        print(f"{name:36} {seconds:8.2f} s")
    print(f"attribution costs {ours / forward:.2f} forward passes over one side; peak memory {peak:.2f} GiB")
    ratios = {
        "forward_equivalents": ours / forward,
        "transformer_lens_attribution_patching": lens / ours,
        "exact_patching_all_heads": exact / ours,
        "exact_patching_replayed": replayed / ours,
        "caching_over_bare_forward": cached / bare,
    }
    print(json.dumps({
        "name": "attribution",
        "ratios": {key: round(value, 2) for key, value in ratios.items()},
        "pairs": len(pairs),
        "peak_gib": round(peak, 2),
        "environment": environment() | {"dtype": str(loaded.dtype), "device": str(loaded.device)},
    }))  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default=None)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--heads", type=int, default=9, help="heads that are patched by whole forward passes")
    parser.add_argument("--lens-pairs", type=int, default=8, help="pairs that TransformerLens attributes")
    parser.add_argument("--repeats", type=int, default=3, help="the fastest counts")
    return parser.parse_args()


def _LAYERS(layout: Any) -> list[int]:  # noqa: N802 - a constant of the model
    """Layers in which heads are patched by replay: spread evenly, so that their mean cost is that of all."""
    return list(range(0, layout.n_layers, max(1, layout.n_layers // 5)))


def _seconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _random_direction(loaded: LoadedModel) -> Direction:
    layout = layout_of(loaded.model)
    vector = torch.randn(layout.d_model, generator=torch.Generator().manual_seed(0))
    return Direction(
        vector=vector / vector.norm(), site="resid_post", layer=layout.n_layers - 1, position="last_prompt",
        method="random", kind="read", stream_norm=1.0, projections={}, threshold=0.0,
    )  # fmt: skip


@torch.no_grad()
def _forward(loaded: LoadedModel, batches: Sequence[Sequence[Pair]]) -> None:
    for batch in batches:
        inputs = padded([pair.corrupt for pair in batch], loaded.device)
        loaded.model(**inputs, use_cache=False, logits_to_keep=1).logits.sum().item()


@torch.no_grad()
def _forward_prompts(loaded: LoadedModel, samples: Any, size: int) -> None:
    renderer = Renderer(loaded.tokenizer)
    prompts = [renderer.prompt(sample, condition) for sample in samples for condition in CONDITIONS]
    located = sorted(locate(prompts, renderer), key=len, reverse=True)
    for start in range(0, len(located), size):
        inputs = padded(located[start : start + size], loaded.device)
        loaded.model(**inputs, use_cache=False, logits_to_keep=1).logits.sum().item()


def _replayed(loaded: LoadedModel, pairs: Sequence[Pair], target: Any, size: int) -> None:
    patch_heads(loaded, pairs, target, layers=_LAYERS(layout_of(loaded.model)), batch_size=size)


@torch.no_grad()
def _exact(loaded: LoadedModel, batches: Sequence[Sequence[Pair]], n_heads: int) -> float:
    """Seconds of patching `n_heads` heads with one whole forward pass a batch each."""
    layout = layout_of(loaded.model)
    places = [divmod(k, layout.n_heads) for k in range(0, layout.n_layers * layout.n_heads)]
    chosen = places[:: max(1, len(places) // n_heads)][:n_heads]
    start = time.perf_counter()
    for batch in batches:
        inputs = padded([pair.corrupt for pair in batch], loaded.device)
        shape = (*inputs["input_ids"].shape, layout.n_heads * layout.d_head)
        values = torch.zeros(shape, device=loaded.device, dtype=loaded.dtype)
        for layer, head in chosen:
            where = torch.zeros(1, 1, shape[-1], dtype=torch.bool, device=loaded.device)
            where[..., layout.head(head)] = True
            with patched(layout, [Patch("z", layer, values, where)]):
                loaded.model(**inputs, use_cache=False, logits_to_keep=1).logits.sum().item()
    return time.perf_counter() - start


def _lens(loaded: LoadedModel, pairs: Sequence[Pair], repeats: int) -> float:
    """Seconds of TransformerLens's attribution patching; pairs of one length go together, as it asks for."""
    from transformer_lens.tools.analysis.attribution_patching import attribution_patch

    model = bridge(loaded)
    by_length: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_length.setdefault(len(pair), []).append(pair)
    sides = [
        tuple(
            torch.stack([torch.as_tensor(getattr(pair, side).ids, dtype=torch.long) for pair in group]).to(
                loaded.device
            )
            for side in ("clean", "corrupt")
        )
        for group in by_length.values()
    ]

    def work() -> None:
        for clean, corrupt in sides:
            attribution_patch(model, clean, corrupt, lambda logits: logits[0, -1, 100] - logits[0, -1, 200])

    return _seconds(work, repeats)


if __name__ == "__main__":
    main()
