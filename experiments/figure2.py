"""Figure 2: leakage by the class of the injection, for the smallest models of each vendor.

    python experiments/figure2.py runs/paper/*-HEXL-none-* --out figures/figure2

The paper draws models of one size and says that negative injections leak more than positive ones, above all in base
models. Bars are mu_EL of one class (one generation a prompt, the paper's cleaning) with 95 % intervals; neutral
compares P[neutral] and is not part of mu_EL. The paper prints no numbers for this figure. Leakage of single injections
is ``expressions.py``. Writes PNG, PDF and CSV.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from paper import ModelName, Row, load_rows, look_options, run_script, without_instruction

from leakmech.core.errors import UsageError
from leakmech.datasets.samples import Condition
from leakmech.reports.figures.canvas import CONDITION_COLORS, INK, Width, add_titles, finished, inches, new_figure

CLASSES: tuple[Condition, ...] = ("negative", "neutral", "positive")
_WIDTH = 0.26


def smallest(rows: Sequence[Row]) -> list[Row]:
    """Of each vendor the rows of its smallest size, base and Instruct; models without a size in their name stay."""
    least: dict[str, float] = {}
    for row in rows:
        name = ModelName.of(row["model"])
        least[name.vendor] = min(name.size, least.get(name.vendor, name.size))
    return [row for row in rows for name in [ModelName.of(row["model"])] if name.size == least[name.vendor]]


def draw(
    rows: Sequence[Row],
    path: Path | None = None,
    *,
    dataset: str,
    title: str | None = None,
    width: Width | None = None,
) -> Figure:
    """A group of three bars a model, with intervals."""
    whole = inches(width, max(3.25, 1.2 + 1.35 * len(rows)))
    figure, axes = new_figure(whole, 2.6)
    for i, condition in enumerate(CLASSES):
        for place, row in enumerate(rows):
            value, low, high = (row[f"mu_el_{condition}{end}"] for end in ("", "_low", "_high"))
            if value is None:
                continue
            x = place + (i - 1) * _WIDTH
            axes.bar(x, value, _WIDTH * 0.92, color=CONDITION_COLORS[condition], alpha=0.85)
            if low is not None:
                ends = [[value - low], [high - value]]
                axes.errorbar([x], [value], yerr=ends, color=INK, linewidth=1.2, capsize=2.5, zorder=3)
        axes.bar(0, 0, color=CONDITION_COLORS[condition], label=condition)
    axes.axhline(0.5, color=INK, linewidth=0.8, linestyle="--", zorder=0)
    names = [
        row["model"] if len(row["model"]) <= 20 else row["model"].replace("-Instruct", "\n-Instruct") for row in rows
    ]
    crowded = whole / len(rows) < 1.2
    turned: dict[str, Any] = {"rotation": 30, "ha": "right"} if crowded else {}
    shown, size = ([row["model"] for row in rows], 7.5) if crowded else (names, 8)
    axes.set_xticks(range(len(rows)), shown, fontsize=size, parse_math=False, **turned)
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_ylabel("mu_EL (dashed: 0.5)", fontsize=9)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False, fontsize=8)
    add_titles(
        figure,
        f"Leakage by injected class on {dataset}" if title is None else title,
        f"One generation a prompt, cleaning paper, {rows[0]['setting']}; lines: 95 % intervals (bootstrap over "
        "samples). Neutral: P[neutral], not part of mu_EL.",
    )
    return finished(figure, path, pd.DataFrame(list(rows)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished runs over one data set, without an instruction")
    look_options(parser, "figures/figure2")
    arguments = parser.parse_args()
    rows = without_instruction(load_rows(arguments.runs))
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    if len(datasets) != 1:
        raise UsageError(f"one figure is about one data set; these runs are about {', '.join(datasets) or 'none'}")
    own = smallest([row for row in rows if row["setting"] == rows[0]["setting"]])
    draw(own, arguments.out, dataset=datasets[0], title=arguments.title, width=arguments.width)
    for row in own:
        values = (f"{name} {row[f'mu_el_{name}']:.2f}" for name in CLASSES if row[f"mu_el_{name}"] is not None)
        print(f"{row['model']}: {', '.join(values)}")
    print(f"figure: {arguments.out.with_suffix('.png')}")


if __name__ == "__main__":
    run_script(main)
