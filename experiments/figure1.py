"""Figure 1: lengths in tokens of the injected sentences, by condition, for HEXL and AEXL.

    python experiments/figure1.py --datasets hexl runs/aexl.jsonl --out figures/figure1

If charged injections were longer than neutral ones, length could pass for leakage. The paper's AEXL is not matched
(12.7, 15.7 and 9.8 tokens on average); ours is, unless `--no-match-length` is given when it is built. Lengths are
counted with GPT-2's tokenizer where it can be had, else with that of `--tokenizer`; the figure says which. Writes PNG,
PDF and CSV.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from paper import run_script

import leakmech
from leakmech.core.errors import ModelError
from leakmech.core.store import write_text
from leakmech.datasets.samples import INJECTIONS
from leakmech.models.load import load_tokenizer
from leakmech.reports.figures.canvas import CONDITION_COLORS, INK, SOFT, new_figure, save_figure
from leakmech.runs.settings import DEFAULT_MODEL

PAPER_TOKENIZER = "gpt2"
_PAPER_MEANS = "paper's AEXL: 12.7, 15.7 and 9.8 on average"


def load_counter(fallback: str) -> tuple[str, Any]:
    """The paper's tokenizer, or the fallback if there is no hub; and its name."""
    try:
        return PAPER_TOKENIZER, load_tokenizer(PAPER_TOKENIZER)
    except ModelError:
        return fallback, load_tokenizer(fallback)


def injection_lengths(datasets: list[str], tokenizer: Any) -> dict[tuple[str, str], list[int]]:
    """Tokens of every injection, by data set and condition."""
    lengths: dict[tuple[str, str], list[int]] = {}
    for name in datasets:
        samples = leakmech.load_dataset(name)
        for condition in INJECTIONS:
            texts = [getattr(sample, condition) for sample in samples]
            counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
            lengths[samples.name, condition] = counts
    return lengths


def draw(lengths: dict[tuple[str, str], list[int]], *, tokenizer: str) -> Figure:
    """One point a sentence, box of the quartiles, and the mean in numbers."""
    figure, axes = new_figure(7.0, 0.9 + 0.5 * len(lengths))
    generator = np.random.default_rng(0)
    for position, ((_, condition), counts) in enumerate(lengths.items()):
        own, color = np.array(counts, dtype=float), CONDITION_COLORS[condition]
        jitter = generator.uniform(-0.22, 0.22, len(own))
        axes.plot(own, position + jitter, ".", color=color, alpha=0.45, markersize=4, zorder=1)
        low, middle, high = np.quantile(own, [0.25, 0.5, 0.75])
        axes.plot([low, high], [position] * 2, color=INK, linewidth=4, solid_capstyle="butt", zorder=2)
        axes.plot(middle, position, "o", color="white", markeredgecolor=INK, markersize=5, zorder=3)
        axes.annotate(
            f"mean {own.mean():.1f}",
            (1.01, position),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color=SOFT,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(lengths)), [", ".join(names) for names in lengths], fontsize=8)
    axes.set_ylim(len(lengths) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.set_xlabel(
        f"tokens of the injected sentence ({tokenizer} tokenizer; bar: quartiles, circle: median)", fontsize=8
    )
    axes.set_title(_PAPER_MEANS, fontsize=8, color=SOFT, loc="right")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["hexl"], help="built-in names or files")
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL, help="used where GPT-2's cannot be had")
    parser.add_argument("--out", type=Path, default=Path("figures/figure1"), help="where to write, without suffix")
    arguments = parser.parse_args()
    name, tokenizer = load_counter(arguments.tokenizer)
    lengths = injection_lengths(arguments.datasets, tokenizer)
    frame = pd.DataFrame(
        [(*names, count) for names, counts in lengths.items() for count in counts],
        columns=["dataset", "condition", "tokens"],
    )
    write_text(arguments.out.with_suffix(".csv"), frame.to_csv(index=False))
    files = save_figure(draw(lengths, tokenizer=name), arguments.out)
    for names, counts in lengths.items():
        print(f"{', '.join(names)}: mean {np.mean(counts):.1f}, {min(counts)} to {max(counts)}")
    print(f"tokens of: {name}")
    print(f"figure: {', '.join(map(str, files))}")


if __name__ == "__main__":
    run_script(main)
