"""The picture at the head of README, from the run of ``make demo``.

    python experiments/front_picture.py runs/demo --out figures/front

Left: each sample's shift of valence (P[positive] - P[negative], mean over its answers) from the control prompt, by what
was injected, with mean and 95 % interval over samples (Student's t). Right: leakage in all pairs with its intervals,
with and without the answers that are about the injection, beside what two sets of control answers give.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from paper import model_name, run_script
from scipy import stats

import leakmech
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    RULE,
    SOFT,
    WIDTHS,
    add_titles,
    finished,
    new_panels,
)

_ORDER = ("negative", "neutral", "positive")
_ROWS = (
    ("control against control", ("overall",), "noise_floor", SOFT),
    ("without answers about it", ("overall", "topic_free"), "auc_el", INK),
    ("both, all answers", ("overall",), "auc_el", INK),
    ("positive sentences", ("conditions", "positive"), "auc_el", CONDITION_COLORS["positive"]),
    ("negative sentences", ("conditions", "negative"), "auc_el", CONDITION_COLORS["negative"]),
)


def shifts(scores: pd.DataFrame) -> pd.DataFrame:
    """One row a sample, one column a condition: valence minus that after the control prompt."""
    valence = scores.assign(valence=scores["positive"] - scores["negative"])
    wide: Any = valence.pivot_table(index="sample", columns="condition", values="valence")
    return wide[list(_ORDER)].sub(wide["control"], axis=0)


def draw(result: Any, out: Path | None = None, *, title: str | None = None) -> Figure:
    """Draw the picture, and save it with `out`."""
    figure, [[left, right]] = new_panels(WIDTHS["page"], 2.5, columns=2, tick_size=8, width_ratios=(1, 1.05))
    rng = np.random.default_rng(0)
    moved = shifts(result.scores)
    for place, condition in enumerate(_ORDER):
        own = moved[condition].dropna().to_numpy()
        colour = CONDITION_COLORS[condition]
        left.scatter(rng.uniform(-0.16, 0.16, len(own)) + place, own, s=9, color=colour, alpha=0.35, linewidths=0)
        half = float(stats.t.ppf(0.975, len(own) - 1) * stats.sem(own))
        left.errorbar(place + 0.32, own.mean(), yerr=half, fmt="o", color=colour, markersize=5, capsize=2.5)
    left.axhline(0, color=RULE, linewidth=0.8, zorder=0)
    left.set_xticks(range(len(_ORDER)), [f"{condition}\nsentence" for condition in _ORDER])
    left.set_ylabel("valence of answers\nminus control")
    for place, (_, path, number, colour) in enumerate(_ROWS):
        found = result.summary
        for key in path:
            found = found[key]
        low, high = found[f"{number}_ci"]
        right.plot([low, high], [place, place], color=colour, linewidth=1.6)
        right.plot([found[number]], [place], "o", color=colour, markersize=5)
    right.axvline(0.5, color=RULE, linewidth=0.8, zorder=0)
    right.set_yticks(range(len(_ROWS)), [name for name, *_ in _ROWS])
    right.set_xlabel("leakage (all pairs; 0.5: none)")
    add_titles(
        figure,
        "A charged sentence that does not matter shifts the sentiment of answers" if title is None else title,
        f"{model_name(result.summary['model'])}; {len(moved)} stems; each dot a stem; bars: 95 % intervals",
    )
    return finished(figure, out, moved.reset_index())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("figures/front"))
    options = parser.parse_args(arguments)
    draw(leakmech.load_result(options.run), options.out)
    print(options.out.with_suffix(".png"))


if __name__ == "__main__":
    run_script(main)
