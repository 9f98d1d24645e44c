"""How many generations stay the same when only the batch changes, in float32 and in bfloat16.

Draws are coupled to addresses, so all that a batch can change is rounding. In float32 that should change nothing; in
bfloat16 a rounding error of one part in 256 now and then tips a draw, and the rest of that row is another text. For
each number format the same rows are generated with several batch sizes, and once without first-sentence stopping; the
table gives the share of rows whose scored first sentence is the same as with the automatic batch.

The last line is one JSON object with ``name``, ``ratios`` (shares) and ``environment``.
"""

from __future__ import annotations

import argparse
import json

from leakmech.core.provenance import environment
from leakmech.datasets.samples import load_dataset
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate, prompt_rows
from leakmech.generation.hf_engine import HFEngine
from leakmech.models.load import load_model
from leakmech.prompts.render import Renderer
from leakmech.scoring.sentence import FirstSentences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct")
    parser.add_argument("--samples", type=int, default=3)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    arguments = parser.parse_args()
    shares = {}
    for dtype in arguments.dtypes:
        first_sentences = _Generator(arguments.model, dtype, arguments.samples, arguments.generations)
        reference = first_sentences(batch_size=320)
        variants = {
            "batch 1": first_sentences(batch_size=1),
            "batch 7": first_sentences(batch_size=7),
            "full length": first_sentences(batch_size=320, stop=False),
        }
        for name, texts in variants.items():
            share = sum(texts[key] == reference[key] for key in reference) / len(reference)
            shares[f"{dtype}, {name}"] = round(share, 4)
            print(f"{dtype}, {name}: {share:.1%} of {len(reference)} first sentences as with batch 320")
    print(json.dumps({"name": "batch_invariance", "ratios": shares, "environment": environment()}))


class _Generator:
    """Generates the same rows again and again, with other batches."""

    def __init__(self, model: str, dtype: str, n_samples: int, k: int) -> None:
        self.engine = HFEngine.of(load_model(model, dtype=dtype))
        renderer = Renderer(self.engine.tokenizer)
        prompts = list(renderer.prompts(load_dataset("hexl").take(n_samples)))
        self.rows = prompt_rows(prompts, renderer, range(k))
        self.sentences = FirstSentences.of(prompts)

    def __call__(self, *, batch_size: int, stop: bool = True) -> dict[tuple[str, int], str]:
        """The scored text of every row."""
        rule = self.sentences.complete if stop else None
        generations = generate(self.engine, self.rows, Decoding(), stop=rule, batch_size=batch_size)
        return {
            (g.prompt_id, g.generation): self.sentences.clean(g.prompt_id, g.text, "echo-free").text
            for g in generations
        }


if __name__ == "__main__":
    main()
