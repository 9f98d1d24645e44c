"""Figure 1: lengths in tokens of the injected sentences, by class, with the means that the paper prints.

    python experiments/figure1.py --datasets hexl runs/paper/aexl.jsonl --out figures/figure1

If charged injections were longer than neutral ones, length could pass for leakage. In the paper's AEXL neutral ones are
the longest (15.70 tokens on average against 12.70 and 9.80). Lengths are counted with GPT-2's tokenizer, as in the
paper, where it can be had, else with that of ``--tokenizer``; the figure says which. Writes PNG, PDF and CSV.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from paper import look_options, run_script

import leakmech
from leakmech.core.errors import ModelError
from leakmech.datasets.samples import Condition
from leakmech.models.load import load_tokenizer
from leakmech.reports.figures.canvas import (
    CONDITION_COLORS,
    INK,
    NARROW,
    SOFT,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    new_figure,
    wrapped,
)
from leakmech.runs.settings import DEFAULT_MODEL

PAPER_TOKENIZER, SUBSTITUTE = "gpt2", DEFAULT_MODEL
CLASSES: tuple[Condition, ...] = ("negative", "neutral", "positive")
"""In the order of the paper's figure."""
PAPER_MEANS = {
    "hexl": dict(zip(CLASSES, (9.40, 8.48, 9.35), strict=True)),
    "aexl": dict(zip(CLASSES, (12.70, 15.70, 9.80), strict=True)),
}
Lengths = dict[tuple[str, str], list[int]]
"""By data set and class."""


def load_counter(fallback: str) -> tuple[str, Any]:
    """The paper's tokenizer, or the fallback if there is no hub; and its name."""
    try:
        return PAPER_TOKENIZER, load_tokenizer(PAPER_TOKENIZER)
    except ModelError:
        return fallback, load_tokenizer(fallback)


def injection_lengths(datasets: list[str], tokenizer: Any) -> Lengths:
    """Tokens of every injection, by data set (a file's name without suffix) and class."""
    lengths: Lengths = {}
    for name in datasets:
        samples = leakmech.load_dataset(name)
        for condition in CLASSES:
            texts = [getattr(sample, condition) for sample in samples]
            counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
            lengths[Path(name).stem, condition] = counts
    return lengths


def paper_mean(dataset: str, condition: str) -> float | None:
    """The mean that the paper prints for its data set of that name."""
    printed: dict[Any, float] = PAPER_MEANS.get(dataset.lower(), {})
    return printed.get(condition)


def draw(
    lengths: Lengths,
    path: Path | None = None,
    *,
    tokenizer: str,
    title: str | None = None,
    width: Width | None = None,
) -> Figure:
    """One point a sentence, box of the quartiles, our mean in numbers, and the paper's mean."""
    whole = inches(width, WIDTHS["page"])
    narrow = whole < NARROW
    figure, axes = new_figure(whole, 0.8 + (0.55 if narrow else 0.45) * len(lengths))
    generator = np.random.default_rng(0)
    for position, ((dataset, condition), counts) in enumerate(lengths.items()):
        own, color = np.array(counts, dtype=float), CONDITION_COLORS[condition]
        jitter = generator.uniform(-0.22, 0.22, len(own))
        axes.plot(own, position + jitter, ".", color=color, alpha=0.45, markersize=4, zorder=1)
        low, high = np.quantile(own, [0.25, 0.75])
        axes.plot([low, high], [position] * 2, color=INK, linewidth=4, solid_capstyle="butt", zorder=2)
        axes.plot(own.mean(), position, "o", color="white", markeredgecolor=INK, markersize=6, zorder=3)
        theirs = paper_mean(dataset, condition)
        if theirs is not None:
            axes.plot(theirs, position - 0.34, "v", color=INK, markersize=6, zorder=4)
        printed = "" if theirs is None else f", paper {theirs:.2f}"
        axes.annotate(
            f"mean {own.mean():.2f}{printed}",
            (1, position + 0.3) if narrow else (1.01, position),  # in a column above the points, else beside them
            xycoords=("axes fraction", "data"),
            va="top" if narrow else "center",
            ha="right" if narrow else "left",
            fontsize=7 if narrow else 8,
            color=SOFT,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(lengths)), [", ".join(names) for names in lengths], fontsize=8)
    axes.set_ylim(len(lengths) - 0.4, -0.7)
    axes.set_xlim(left=0)
    counted = f"tokens of the injected sentence ({tokenizer.removeprefix('embedded:')} tokenizer)"
    axes.set_xlabel("\n".join(wrapped(counted, whole - 1.2, size=8)), fontsize=8)
    substitute = (
        "" if tokenizer == PAPER_TOKENIZER else " The paper counts with GPT-2's tokenizer, which is not at hand."
    )
    add_titles(
        figure,
        "Lengths of injected sentences by class" if title is None else title,
        f"Circle: our mean; bar: quartiles; triangle: mean of the paper's own data set of that name.{substitute}",
    )
    rows = [(*names, count) for names, counts in lengths.items() for count in counts]
    return finished(figure, path, pd.DataFrame(rows, columns=["dataset", "condition", "tokens"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", nargs="+", default=["hexl"], help="built-in names or files")
    parser.add_argument("--tokenizer", default=SUBSTITUTE, help="used where GPT-2's cannot be had")
    look_options(parser, "figures/figure1")
    arguments = parser.parse_args()
    name, tokenizer = load_counter(arguments.tokenizer)
    lengths = injection_lengths(arguments.datasets, tokenizer)
    draw(lengths, arguments.out, tokenizer=name, title=arguments.title, width=arguments.width)
    for names, counts in lengths.items():
        theirs = paper_mean(*names)
        printed = "" if theirs is None else f" (paper: {theirs:.2f})"
        print(f"{', '.join(names)}: mean {np.mean(counts):.2f}{printed}, {min(counts)} to {max(counts)}")
    print(f"tokens of: {name}")
    print(f"figure: {arguments.out.with_suffix('.png')}")


if __name__ == "__main__":
    run_script(main)
