"""Benchmark: generation under an intervention, folded and hooked, against the base model and the alternatives.

On the same HEXL prompts, in the same process and number format, with the same sampling settings:

* ``base``: our engine on the model as it is;
* ``copy``: on a copy of it, which does the same work: how far its ratio is from 1 says how far to trust the others;
* ``folded``: one direction projected out everywhere, baked into the weights;
* ``hooked``: per-layer directions projected out of the stream after the upper two thirds of the layers;
* ``TransformerLens``: ``generate`` of its bridge under the same hooks, on left-padded batches with an attention mask;
* ``steering-vectors``: Hugging Face's ``generate`` under the ablation operator of that package, if it is installed.

Two jobs. *Equal tokens*: every row draws exactly ``--new-tokens`` tokens, in one batch of the same rows. *First
sentences*: K scored first sentences for each prompt; ours stop where the sentence is complete, and rows of the next
prompts take the place of those that have ended; the alternatives write up to ``max_new_tokens`` tokens (or to an
end-of-text token), since they do not know what will be scored. They are slow and run on fewer prompts than ours, in one
batch; seconds are per generation.

Directions are random: time does not depend on them. Ways take turns, ratios are medians over rounds. Run it alone on
the machine. The last line is one JSON object with ``name``, ``ratios`` (speed of the intervention over the base, and
speed of ours over an alternative under the same hooks) and ``environment``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakmech.core.provenance import environment
from leakmech.datasets.samples import load_dataset
from leakmech.generation.decode import Decoder, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate, prompt_rows
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.vocabulary import Vocabulary
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import AblateDirection
from leakmech.mechanism.bridge import bridge
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_model
from leakmech.prompts.render import Prompt, Renderer
from leakmech.scoring.sentence import FirstSentences
from leakmech.side_effects.speed import Speed, measure_speed

Generate = Callable[[Int[Tensor, "rows columns"], Int[Tensor, "rows columns"], Decoding, bool], Tensor]
"""``generate(ids, mask, decoding, stop at end-of-text) -> ids with what was drawn``, of an alternative."""

ALTERNATIVES = ("transformer_lens", "steering_vectors")
JOBS = ("equal_tokens", "first_sentences")


def main() -> None:
    arguments = _arguments()
    loaded = load_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    bench = Bench(loaded, arguments)
    print(
        f"{loaded.name}, {loaded.dtype}, {loaded.device}, {len(bench.rows)} rows ({len(bench.prompts)} prompts, "
        f"K = {arguments.generations}), hooks at {len(bench.hooked.layers)} of {layout_of(loaded.model).n_layers} "
        f"layers, {torch.get_num_threads()} threads"
    )
    found: dict[str, Speed | None] = {}
    for name, speed in bench.speeds():
        found[name] = speed
        print(f"{name:42} {_described(speed)}", flush=True)
    print(json.dumps({
        "name": "interventions",
        "ratios": {name: None if speed is None else round(speed.ratio, 3) for name, speed in found.items()},
        "rows": len(bench.rows),
        "new_tokens": arguments.new_tokens,
        "rounds": arguments.rounds,
        "hooked_layers": len(bench.hooked.layers),
        "logit_differences": {name: round(value, 5) for name, value in bench.differences.items()},
        "environment": environment() | {"dtype": str(loaded.dtype), "device": str(loaded.device)},
    }))  # fmt: skip


class Bench:
    """The model, the rows to generate (K for each prompt; `many_rows` if rows end by themselves), the interventions.

    `everywhere` is folded, `hooked` is hooked; `differences` holds, by alternative, the largest difference of its
    logits after the prompts from ours under the same hooks.
    """

    def __init__(self, loaded: LoadedModel, arguments: argparse.Namespace) -> None:
        self.loaded = loaded
        self.arguments = arguments
        renderer = Renderer(loaded.tokenizer)
        prompts = list(renderer.prompts(load_dataset("hexl")))
        self.prompts: list[Prompt] = prompts[:: math.ceil(len(prompts) / arguments.prompts)]
        self.many_prompts = prompts[:: math.ceil(len(prompts) / arguments.sentence_prompts)]
        self.rows, self.many_rows = (
            prompt_rows(chosen, renderer, range(arguments.generations)) for chosen in (self.prompts, self.many_prompts)
        )
        self.everywhere, self.hooked = _interventions(loaded)
        self.differences: dict[str, float] = {}
        self.fixed = replace(Decoding(), max_new_tokens=arguments.new_tokens)

    def speeds(self) -> Iterator[tuple[str, Speed | None]]:
        """All comparisons by name, one after the other; None where an alternative is not there."""
        yield "copy_over_base", self.over_base(copy.deepcopy(self.loaded.model), hooked=False)
        yield "folded_over_base", self.over_base(fold(self.loaded.model, self.everywhere), hooked=False)
        yield "hooked_over_base", self.over_base(self.loaded.model, hooked=True)
        alternatives = {"transformer_lens": self.transformer_lens, "steering_vectors": self.steering_vectors}
        for name in self.arguments.alternatives:
            with alternatives[name]() as their_generate:
                for job in self.arguments.jobs:
                    speed = None if their_generate is None else self.over_alternative(their_generate, job)
                    yield f"over_{name}_{job}", speed

    # -- ours ------------------------------------------------------------------------------------------------------

    def over_base(self, model: Any, *, hooked: bool) -> Speed:
        """Base against changed model, both by our engine, at equal tokens."""
        base, changed = _UnendingEngine.of(self.loaded), _UnendingEngine(model, self.loaded.tokenizer)

        def run(engine: HFEngine) -> int:
            return len(generate(engine, self.rows, self.fixed, batch_size=len(self.rows)))

        def run_changed() -> int:
            with self.hooks(on=hooked):
                return run(changed)

        return measure_speed(lambda: run(base), run_changed, rounds=self.arguments.rounds)

    def ours(self, job: str) -> Callable[[], int]:
        """Our engine under the hooks."""
        unending, ending = _UnendingEngine.of(self.loaded), HFEngine.of(self.loaded)
        stop = FirstSentences.of(self.many_prompts).complete

        def run() -> int:
            with self.hooks(on=True):
                if job == "equal_tokens":
                    return len(generate(unending, self.rows, self.fixed, batch_size=len(self.rows)))
                return len(generate(ending, self.many_rows, Decoding(), stop=stop))

        return run

    @contextmanager
    def hooks(self, *, on: bool) -> Iterator[None]:
        """The hooked intervention on our model, or nothing."""
        if not on:
            yield
            return
        with apply(self.loaded.model, self.hooked):
            yield

    # -- the alternatives ------------------------------------------------------------------------------------------

    def over_alternative(self, their_generate: Generate, job: str) -> Speed:
        """An alternative against ours, under the same hooks."""
        fixed = job == "equal_tokens"
        decoding = self.fixed if fixed else Decoding()

        def theirs() -> int:
            torch.manual_seed(0)
            ids, mask = self.padded(self.rows)
            drawn = their_generate(ids, mask, decoding, not fixed)[:, ids.shape[1] :]
            if fixed and drawn.shape[1] != decoding.max_new_tokens:
                raise AssertionError(f"{drawn.shape[1]} tokens were drawn, not {decoding.max_new_tokens}")
            return len(self.loaded.tokenizer.batch_decode(drawn, skip_special_tokens=True))

        return measure_speed(theirs, self.ours(job), rounds=self.arguments.rounds)

    @contextmanager
    def transformer_lens(self) -> Iterator[Generate | None]:
        """``generate`` of a TransformerLens bridge under the hooks."""
        model: Any = bridge(self.loaded)  # its generate() returns one of many types

        def theirs(ids: Tensor, mask: Tensor, decoding: Decoding, stop: bool) -> Tensor:
            return model.generate(
                ids, attention_mask=mask, max_new_tokens=decoding.max_new_tokens, stop_at_eos=stop, do_sample=True,
                temperature=decoding.temperature, top_k=decoding.top_k, top_p=decoding.top_p,
                repetition_penalty=decoding.repetition_penalty, return_type="tokens", verbose=False,
            )  # fmt: skip

        hooks = [
            (f"blocks.{layer}.hook_resid_post", _lens_hook(vector))
            for layer, vector in self.vectors().items()
        ]  # fmt: skip
        with model.hooks(fwd_hooks=hooks), torch.inference_mode():
            ids, mask = self.padded(self.rows)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            self._compare("transformer_lens", model(ids, attention_mask=mask, position_ids=positions)[:, -1])
            yield theirs

    @contextmanager
    def steering_vectors(self) -> Iterator[Generate | None]:
        """Hugging Face's ``generate`` under the hooks of the package steering-vectors; None if it is not installed."""
        try:
            from steering_vectors import SteeringVector, ablation_operator  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            print(f"steering-vectors: not installed ({error}); its rows are null")
            yield None
            return
        model, tokenizer = self.loaded.model, self.loaded.tokenizer

        def theirs(ids: Tensor, mask: Tensor, decoding: Decoding, stop: bool) -> Tensor:
            return model.generate(  # pyright: ignore[reportCallIssue]
                input_ids=ids, attention_mask=mask, max_new_tokens=decoding.max_new_tokens, do_sample=True,
                min_new_tokens=None if stop else decoding.max_new_tokens,
                temperature=decoding.temperature, top_k=decoding.top_k, top_p=decoding.top_p,
                repetition_penalty=decoding.repetition_penalty, pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip

        vector = SteeringVector(self.vectors(), layer_type="decoder_block")
        with vector.apply(model, operator=ablation_operator()), torch.inference_mode():
            ids, mask = self.padded(self.rows)
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1).logits
        self._compare("steering_vectors", logits[:, -1])

        def applied(*arguments: Any) -> Tensor:  # entered for each call, since ours takes turns on the same model
            with vector.apply(model, operator=ablation_operator()), torch.inference_mode():
                return theirs(*arguments)

        yield applied

    def vectors(self) -> dict[int, Float[Tensor, " d_model"]]:
        """What is projected out, by layer, in the model's number format."""
        vectors = self.hooked.vectors.to(self.loaded.device, self.loaded.dtype)
        return dict(zip(self.hooked.layers, vectors, strict=True))

    def padded(self, rows: Sequence[Row]) -> tuple[Int[Tensor, "rows columns"], Int[Tensor, "rows columns"]]:
        """Token ids and attention mask, padded on the left."""
        width = max(len(row.prompt_tokens) for row in rows)
        pad = self.loaded.tokenizer.pad_token_id or 0
        ids = [[pad] * (width - len(row.prompt_tokens)) + list(row.prompt_tokens) for row in rows]
        mask = [[0] * (width - len(row.prompt_tokens)) + [1] * len(row.prompt_tokens) for row in rows]
        return torch.tensor(ids, device=self.loaded.device), torch.tensor(mask, device=self.loaded.device)

    @torch.inference_mode()
    def _compare(self, name: str, theirs: Float[Tensor, "rows vocab"]) -> None:
        """Hooks that do something else would be another job."""
        ids, mask = self.padded(self.rows)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with self.hooks(on=True):
            ours = self.loaded.model(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1
            ).logits[:, -1]
        self.differences[name] = float((ours.float() - theirs.float()).abs().max())


class _Unending(Decoder):
    """Every row runs to ``max_new_tokens``, so that all ways do the same work."""

    @cached_property
    def vocabulary(self) -> Vocabulary:
        own = super().vocabulary
        vars(own).update(ends=frozenset())
        return own


class _UnendingEngine(HFEngine):
    def _decoder(self, decoding: Decoding, **settings: Any) -> Decoder:
        return _Unending(self.model, self.tokenizer, decoding=decoding, **settings)


def _interventions(loaded: LoadedModel) -> tuple[AblateDirection, AblateDirection]:
    layout = layout_of(loaded.model)
    layers = range(layout.n_layers - 2 * layout.n_layers // 3, layout.n_layers)
    vectors = torch.randn(len(layers), layout.d_model, generator=torch.Generator().manual_seed(0))
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    return AblateDirection(vectors[0], site="everywhere"), AblateDirection(vectors, layers=list(layers))


def _lens_hook(vector: Float[Tensor, " d_model"]) -> Callable[..., Tensor]:
    def hook(value: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 - the names are TransformerLens's
        return value - (value @ vector)[..., None] * vector

    return hook


def _described(speed: Speed | None) -> str:
    if speed is None:
        return "not measured"
    ratios = ", ".join(f"{ratio:.3f}" for ratio in sorted(speed.base / speed.changed))
    base, changed = (1000 * seconds for seconds in speed.seconds)
    return f"{speed.ratio:6.3f}   (rounds: {ratios}; {base:.1f} against {changed:.1f} ms per generation)"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--prompts", type=int, default=8, help="prompts, spread over HEXL")
    parser.add_argument("--generations", type=int, default=10, help="rows for each prompt (K)")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of a row where all draw as many")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentence-prompts", type=int, default=36, help="prompts of our engine for first sentences")
    parser.add_argument("--alternatives", nargs="*", choices=ALTERNATIVES, default=ALTERNATIVES)
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=JOBS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
