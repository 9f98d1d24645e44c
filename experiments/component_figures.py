"""Two figures of the gallery, without a whole diagnosis: which neurons carry affect, and which components bring it.

    python experiments/component_figures.py --out figures

A direction is fitted on some samples of HEXL (plain form), chosen on others and tested on a third part. Neurons are
attributed on it, and heads and MLPs are split by where they read, on samples of the first two parts. It is a picture
of what these figures show; ``leakmech diagnose`` has the baselines that a claim needs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from paper import run_script

import leakmech
from leakmech.mechanism.attention.transport import transport_and_expression
from leakmech.reports.figures.components import neuron_ranking, transport_scatter
from leakmech.runs.settings import DEFAULT_MODEL

FIT, TEST = slice(0, 36), slice(36, 60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--samples", type=int, default=12, help="samples to attribute on")
    parser.add_argument("--out", type=Path, default=Path("figures"), help="folder")
    arguments = parser.parse_args()
    model = leakmech.load_model(arguments.model, dtype="float32")
    samples, plain = leakmech.load_dataset("hexl"), leakmech.Prompting(form="plain")
    fitted = leakmech.sentiment_directions(model, fit=samples[FIT], test=samples[TEST], prompting=plain)
    own = samples[FIT].take(arguments.samples)
    about = f"{arguments.model.removeprefix('embedded:')}, {len(own)} samples of hexl, plain form"
    found = leakmech.attribute(model, own, target=fitted.chosen, prompting=plain)
    neuron_ranking(
        found.neurons_frame(), arguments.out / "neuron_ranking", quantity="share of the affect shift", subtitle=about
    )
    parts = transport_and_expression(model, own, fitted.chosen, prompting=plain).to_frame()
    transport_scatter(parts, arguments.out / "transport_scatter", subtitle=about)
    print(f"direction: {fitted!r}")
    print(f"figures: {arguments.out}/neuron_ranking.png, {arguments.out}/transport_scatter.png")


if __name__ == "__main__":
    run_script(main)
