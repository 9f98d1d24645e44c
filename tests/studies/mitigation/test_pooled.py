"""Runs of several seeds as one: generations beside each other, samples in their order."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from leakmech.studies.mitigation.pooled import pooled_frame


@dataclass
class Run:
    scores: pd.DataFrame


def test_generations_of_all_seeds_stand_beside_each_other():
    def run(first):
        rows = [(s, c, g) for s in ("b", "a") for c in ("control", "positive") for g in (0, 1)]
        frame = pd.DataFrame(rows, columns=["sample", "condition", "generation"])
        return Run(frame.assign(value=np.arange(len(frame)) + first))

    found = pooled_frame([run(0), run(100)], 2)
    control = found[found["condition"] == "control"]
    assert control["sample"].tolist() == ["b"] * 4 + ["a"] * 4
    assert control["generation"].tolist() == [0, 1, 2, 3] * 2
    assert control["value"].tolist() == [0, 1, 100, 101, 4, 5, 104, 105]
    assert pooled_frame([run(0)], 2)["value"].tolist() == list(range(8))
