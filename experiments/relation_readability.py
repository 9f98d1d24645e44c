"""Can it be read off a model's residual stream whether injection and stem belong together?

A linear probe for every layer and position, fitted on stems of the split `fit` of the sets of relevant affect and read
on those of the split `tune`, whose themes are others; each stem stands in one relevant and one irrelevant pair. Printed
is the area under the curve, once for all pairs and once for clear ones (:mod:`leakmech.datasets.clear_pairs`).

    python experiments/relation_readability.py --layers 4 8 10 12 16 20
"""

from __future__ import annotations

import argparse

import numpy as np

from leakmech.core.progress import rich_progress
from leakmech.datasets.relation import without_self_reports
from leakmech.datasets.samples import FITTING_DATASETS, POLARITIES, PromptSet, load_pooled
from leakmech.mechanism.activations.cache import cache_activations
from leakmech.models.load import LoadedModel, load_model
from leakmech.reports.tables import Table
from leakmech.runs.settings import DEFAULT_MODEL
from leakmech.scoring.statistics import auc
from leakmech.studies.lora.evaluation import Pairing
from leakmech.studies.mitigation.relation_probe import relevance_vector
from leakmech.training.settings import ClearPairs

POSITIONS = ("stem_mean", "last_prompt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--layers", type=int, nargs="+", default=[4, 8, 10, 12, 16, 20])
    parser.add_argument("--samples", type=int, default=400, help="stems to fit on, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    loaded = load_model(arguments.model)
    samples = without_self_reports(load_pooled(FITTING_DATASETS))
    rows = []
    for name, bounds in (("all", None), ("clear", ClearPairs.model_validate({}))):
        pairing = Pairing(bounds, arguments.seed)
        found = {}
        for split in ("fit", "tune"):
            own = samples.split(split)
            irrelevant = pairing.irrelevant(own).spread(arguments.samples)
            stems = {sample.stem for sample in irrelevant}
            relevant = PromptSet(own.name, tuple(sample for sample in own if sample.stem in stems))
            found[split] = [_read(loaded, side, arguments.layers) for side in (relevant, irrelevant)]
        for position in POSITIONS:
            aucs = [_auc(found, position, index) for index in range(len(arguments.layers))]
            count = " / ".join(str(sum(len(side[position]) for side in found[split])) for split in ("fit", "tune"))
            rows.append([name, position, count, *(f"{auc:.2f}" for auc in aucs)])
    columns = ["pairs", "position", "prompts, fit / tune", *(f"layer {layer}" for layer in arguments.layers)]
    print(Table("Area under the curve: do injection and stem belong together?", columns, rows).to_markdown())


def _read(loaded: LoadedModel, samples: PromptSet, layers: list[int]) -> dict[str, np.ndarray]:
    """Shape (prompts, layers, d_model) for each position."""
    cache = cache_activations(
        loaded, samples, layers=layers, positions=POSITIONS, conditions=POLARITIES, progress=rich_progress
    )["resid_post"]
    return {
        position: np.concatenate([cache.matrix(condition=c, position=position) for c in POLARITIES])
        for position in POSITIONS
    }


def _auc(found: dict[str, list[dict[str, np.ndarray]]], position: str, layer: int) -> float:
    """Of a probe that was fitted on `fit`, on `tune`."""
    fit, tune = ([side[position][:, layer].astype(np.float32) for side in found[split]] for split in ("fit", "tune"))
    vector = relevance_vector(*fit)
    return float(auc(*(points @ vector for points in tune)))


if __name__ == "__main__":
    main()
