"""Leakage of single injected expressions, across models; a picture of ours, the paper has none like it.

    python experiments/expressions.py runs/paper/*-HEXL-none-* --out figures/expressions

An injected expression is one sentence; its leakage in a run is the share of all K x K pairs of test and control
generations with P_t[l] > P_c[l], ties ½ (auc_el of one prompt). Expressions are sorted by their mean over the runs, and
the figure shows the strongest and the weakest of each polarity, one mark a run. A single prompt has few generations,
and the strongest of many noisy numbers look stronger than they are: an expression's place says little unless the runs
agree, so the rank correlation between them stands in the figure. Writes PNG, PDF and CSV.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from paper import look_options, model_name, run_script
from scipy import stats

import leakmech
from leakmech.core.errors import RunDirectoryError
from leakmech.datasets.samples import POLARITIES
from leakmech.reports.examples import sample_texts
from leakmech.reports.figures.canvas import (
    INK,
    NARROW,
    SERIES_COLORS,
    SOFT,
    WIDTHS,
    Width,
    add_titles,
    finished,
    inches,
    new_figure,
)
from leakmech.scoring.leakage import condition_leakage
from leakmech.scoring.records import leakage_scores

_MARKERS = "osD^vP*X"


@dataclass(frozen=True, eq=False)
class Expressions:
    """Leakage of every injected expression in every run."""

    models: tuple[str, ...]
    polarities: tuple[str, ...]
    samples: tuple[str, ...]
    injections: tuple[str, ...]
    stems: tuple[str, ...]
    leakage: Float[np.ndarray, "expressions runs"]
    """auc_el of the expression's prompt; NaN if nothing was scored."""

    def ranking(self, polarity: str) -> list[int]:
        """Expressions of one polarity, strongest first, by their mean over the runs that scored them."""
        own = [i for i, p in enumerate(self.polarities) if p == polarity and not np.isnan(self.leakage[i]).all()]
        return sorted(own, key=lambda i: -float(np.nanmean(self.leakage[i])))

    def agreement(self) -> float | None:
        """Mean Spearman correlation of pairs of runs over all expressions; None where no two runs vary."""
        scored = self.leakage[~np.isnan(self.leakage).any(axis=1)]
        varying = [values for values in scored.T if len(values) and np.ptp(values) > 0]
        found = []
        for a, b in combinations(varying, 2):
            result: Any = stats.spearmanr(a, b)
            found.append(result.statistic)
        return float(np.mean(found)) if found else None

    def to_frame(self) -> pd.DataFrame:
        """One row an expression, one column of leakage a run."""
        columns: dict[str, Any] = {"polarity": self.polarities, "sample": self.samples, "stem": self.stems}
        columns |= {"injection": self.injections}
        return pd.DataFrame(columns | {f"{i} {m}": self.leakage[:, i] for i, m in enumerate(self.models)})


def expression_leakage(runs: Sequence[Path]) -> Expressions:
    """Read finished runs, which have to be over the same data set."""
    results = [leakmech.load_result(run) for run in runs]
    datasets = [result.record.fingerprint["dataset"] for result in results]
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset != datasets[0]:
            raise RunDirectoryError(f"{runs[0]} and {run} are over different data sets; draw one figure for each")
    scores = [leakage_scores(result.scores, result.summary["cleaning"]) for result in results]
    texts, samples = sample_texts(results[0]), scores[0].samples
    columns = []
    for own in scores:
        ratios = [condition_leakage(own, polarity, pairing="all") for polarity in POLARITIES]
        columns.append(np.concatenate([np.where(r.denominator > 0, r.numerator, np.nan) for r in ratios]))
    return Expressions(
        models=_told_apart([model_name(result.summary["model"]) for result in results], runs),
        polarities=tuple(polarity for polarity in POLARITIES for _ in samples),
        samples=tuple(samples) * len(POLARITIES),
        injections=tuple(texts[sample].injections[polarity] for polarity in POLARITIES for sample in samples),
        stems=tuple(texts[sample].stem for sample in samples) * len(POLARITIES),
        leakage=np.stack(columns, axis=1),
    )


def _told_apart(models: Sequence[str], runs: Sequence[Path]) -> tuple[str, ...]:
    """Names of models; of one that was run several times, with the folder of the run, and with its place if need be."""
    names = [f"{name} ({run.name})" if models.count(name) > 1 else name for name, run in zip(models, runs, strict=True)]
    return tuple(f"{name} {place}" if names.count(name) > 1 else name for place, name in enumerate(names, start=1))


def draw(
    found: Expressions,
    path: Path | None = None,
    *,
    number: int,
    title: str | None = None,
    width: Width | None = None,
) -> Figure:
    """The strongest and weakest expressions of each polarity, one mark a run."""
    lines: list[int | str] = []
    for polarity in ("negative", "positive"):
        order = found.ranking(polarity)
        lines += order if len(order) <= 2 * number else [*order[:number], "…", *order[-number:]]
        lines.append("rule")
    lines.pop()
    whole = inches(width, WIDTHS["page"])
    figure, axes = new_figure(whole, 1.2 + 0.17 * len(lines))
    letters, size = (58, 7.5) if whole >= NARROW else (26, 6.5)
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle="--")
    labels = {}
    for y, line in enumerate(lines):
        if line == "rule":
            axes.axhline(y, color=SOFT, linewidth=0.6)
        elif isinstance(line, str):
            axes.text(0.5, y, line, ha="center", va="center", color=SOFT, backgroundcolor="white")
        else:
            labels[y] = f"{found.polarities[line][:3]}  {_short(found.injections[line], letters)}"
            _draw_expression(axes, found.leakage[line], y)
    axes.set_yticks(list(labels), list(labels.values()), fontsize=size, parse_math=False)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("leakage\n(0.5: as the control)", fontsize=9)
    for i, model in enumerate(found.models):
        axes.plot([], [], **_mark(i), label=model)
    figure.legend(
        loc="outside lower center",
        ncols=min(2, len(found.models)) if whole >= NARROW else 1,
        frameon=False,
        fontsize=7.5,
    )
    agreement = found.agreement()
    told = "" if agreement is None else f"Mean Spearman correlation between runs {agreement:+.2f}."
    add_titles(figure, "Expressions that leak most and least" if title is None else title, told)
    return finished(figure, path, found.to_frame())


def _draw_expression(axes: Any, values: Float[np.ndarray, " runs"], y: int) -> None:
    """One mark a run, joined by a line."""
    axes.plot([np.nanmin(values), np.nanmax(values)], [y, y], color=SOFT, linewidth=0.8)
    for i, value in enumerate(values):
        axes.plot(value, y, **_mark(i))


def _mark(run: int) -> dict[str, Any]:
    return {
        "marker": _MARKERS[run % len(_MARKERS)],
        "color": SERIES_COLORS[run % len(SERIES_COLORS)],
        "markersize": 5,
        "linestyle": "none",
    }


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories over one data set")
    parser.add_argument("--number", type=int, default=12, help="strongest and weakest expressions of each polarity")
    look_options(parser, "figures/expressions")
    arguments = parser.parse_args()
    found = expression_leakage(arguments.runs)
    draw(found, arguments.out, number=arguments.number, title=arguments.title, width=arguments.width)
    for polarity in POLARITIES:
        order = found.ranking(polarity)
        for name, i in (("strongest", order[0]), ("weakest", order[-1])):
            print(f"{polarity}, {name}: {found.injections[i]!r} {np.nanmean(found.leakage[i]):.2f}")
    agreement = found.agreement()
    if agreement is not None:
        print(f"mean Spearman correlation between runs: {agreement:+.2f}")
    print(f"figure: {arguments.out.with_suffix('.png')}")


if __name__ == "__main__":
    run_script(main)
