"""What people said of the injections of an AEXL that was built from the embedded archive.

    python experiments/aexl_ratings.py aexl.jsonl

Hutto & Gilbert (2014) had every text of their archive rated from -4 to 4. A sample's ``source`` names the texts that
its parts come from, so the ratings tell how many injections people would put into the class that the estimator gave
them (mean rating at least 0.8, at most -0.8, or between, as in training). The estimator was trained on part of these
texts. A text of several sentences was rated as a whole, an injection is one of them. Prints a table; the last line is
JSON.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import numpy as np
from estimator_quality import THRESHOLD
from jaxtyping import Float
from paper import run_script

import leakmech
from leakmech.core.errors import DatasetError
from leakmech.datasets.archive import fetch_archive, load_ratings
from leakmech.datasets.samples import INJECTIONS, PromptSet
from leakmech.reports.tables import Table

SIGNS = {"positive": 1, "neutral": 0, "negative": -1}


def rated(samples: PromptSet, ratings: Float[np.ndarray, " texts"]) -> dict[str, Float[np.ndarray, " samples"]]:
    """Mean human rating of the text that every injection comes from, by condition."""
    found: dict[str, list[float]] = {condition: [] for condition in INJECTIONS}
    for sample in samples:
        for condition in INJECTIONS:
            match = re.search(rf"\b{condition} (\d+)", sample.source or "")
            if match is None or int(match[1]) >= len(ratings):
                raise DatasetError(f"{samples.name}: sample {sample.id!r} was not built from the embedded archive")
            found[condition].append(float(ratings[int(match[1])]))
    return {condition: np.array(values) for condition, values in found.items()}


def summary(found: dict[str, Float[np.ndarray, " samples"]]) -> dict[str, dict[str, float]]:
    """Mean rating, share in the class of the condition, and share on its side of 0 (None for neutral)."""
    rows = {}
    for condition, values in found.items():
        sign = SIGNS[condition]
        classes = np.where(values >= THRESHOLD, 1, np.where(values <= -THRESHOLD, -1, 0))
        rows[condition] = {"mean_rating": float(values.mean()), "own_class": float((classes == sign).mean())}
        if sign:
            rows[condition]["own_side"] = float((values * sign > 0).mean())
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="samples of `leakmech data build-aexl` with the default corpus")
    arguments = parser.parse_args()
    samples = leakmech.load_dataset(arguments.file)
    found = summary(rated(samples, load_ratings(fetch_archive())["mean_rating"].to_numpy(float)))
    rows = [
        (name, f"{v['mean_rating']:+.2f}", f"{v['own_class']:.0%}", f"{v['own_side']:.0%}" if "own_side" in v else "–")
        for name, v in found.items()
    ]
    header = ("injection", "mean rating", "of its class", "on its side of 0")
    print(Table(title=f"{samples.name}: human ratings", header=header, rows=rows).to_markdown())
    print(json.dumps({"name": "aexl_ratings", "ratios": found}))


if __name__ == "__main__":
    run_script(main)
