"""Figure 2: leakage per injected expression, across models.

    python experiments/figure2.py runs/paper/* --out figures/figure2

An injected expression is one sentence; its leakage in a run is the share of all K x K pairs of test and control
generations with P_t[l] > P_c[l], ties ½ (auc_el of one prompt). Expressions are sorted by their mean over the runs, and
the figure shows the strongest and the weakest of each polarity, one mark a run. A single prompt has few generations,
and the strongest of many noisy numbers look stronger than they are: an expression's place says little unless the runs
agree, so the rank correlation between them stands in the figure. Writes PNG, PDF and CSV.
"""

from __future__ import annotations

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from leakmech.reports.figures import INK, SERIES_COLORS, SOFT, new_figure, save_figure
from matplotlib.figure import Figure
from paper import model_name
from scipy import stats

import leakmech
from leakmech.errors import RunDirectoryError
from leakmech.prompts.samples import POLARITIES
from leakmech.reports.examples import sample_texts
from leakmech.scoring.leakage import condition_leakage
from leakmech.scoring.records import leakage_scores
from leakmech.store import read_json, write_text

_MARKERS = "osD^vP*X"


def expression_leakage(runs: list[Path]) -> pd.DataFrame:
    """Columns ``run, model, sample, polarity, injection, stem, auc_el``.

    Raises
    ------
    RunDirectoryError
        The runs are over different data sets.
    """
    frames, datasets = [], {}
    for path in runs:
        result = leakmech.load_result(path)
        datasets[read_json(path / "run.json")["fingerprint"]["dataset"]] = path
        if len(datasets) > 1:
            first, second = datasets.values()
            raise RunDirectoryError(f"{first} and {second} are over different data sets; draw one figure for each")
        scores, texts = leakage_scores(result.scores, result.summary["cleaning"]), sample_texts(result)
        for polarity in POLARITIES:
            ratio = condition_leakage(scores, polarity, pairing="all")
            values = np.where(ratio.denominator > 0, ratio.numerator, np.nan)
            frames.append(
                pd.DataFrame(
                    {
                        "run": str(path),
                        "model": model_name(result.summary["model"]),
                        "sample": scores.samples,
                        "polarity": polarity,
                        "injection": [texts[sample].injections[polarity] for sample in scores.samples],
                        "stem": [texts[sample].stem for sample in scores.samples],
                        "auc_el": values,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def rank_agreement(frame: pd.DataFrame) -> float | None:
    """Mean Spearman correlation between runs of the expressions' leakage; None for a single run."""
    wide = frame.pivot_table(index=["polarity", "sample"], columns="run", values="auc_el").dropna()
    found = [stats.spearmanr(wide[a], wide[b]).statistic for a, b in combinations(wide.columns, 2)]
    return float(np.mean(found)) if found else None


def draw(frame: pd.DataFrame, *, number: int) -> Figure:
    """The strongest and weakest expressions of each polarity, one mark a run."""
    chosen = []
    for polarity in ("negative", "positive"):
        means = frame[frame["polarity"] == polarity].groupby("sample", sort=False)["auc_el"].mean().dropna()
        order = means.sort_values(ascending=False).index.tolist()
        shown = order if len(order) <= 2 * number else [*order[:number], None, *order[-number:]]
        chosen += [(polarity, sample) for sample in shown] + [None]
    chosen.pop()
    figure, axes = new_figure(9.5, 1.4 + 0.24 * len(chosen))
    labels, ticks, runs = [], [], list(dict.fromkeys(frame["run"]))
    for y, entry in enumerate(chosen):
        if entry is None:
            axes.axhline(y, color=SOFT, linewidth=0.6)
            continue
        polarity, sample = entry
        if sample is None:
            axes.text(0.5, y, "…", ha="center", va="center", color=SOFT)
            continue
        part = frame[(frame["polarity"] == polarity) & (frame["sample"] == sample)]
        axes.plot([part["auc_el"].min(), part["auc_el"].max()], [y, y], color=SOFT, linewidth=0.8)
        for row in part.itertuples():
            i = runs.index(row.run)
            axes.plot(
                row.auc_el, y, _MARKERS[i % len(_MARKERS)], color=SERIES_COLORS[i % len(SERIES_COLORS)], markersize=5
            )
        ticks.append(y)
        labels.append(f"{polarity[:3]}  {_short(part['injection'].iloc[0])}")
    axes.axvline(0.5, color=INK, linewidth=0.8, linestyle="--")
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_ylim(len(chosen) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("leakage of the expression (share of pairs, 0.5 = none)", fontsize=9)
    names = [frame.loc[frame["run"] == run, "model"].iloc[0] for run in runs]
    for i, name in enumerate(names):
        axes.plot([], [], _MARKERS[i % len(_MARKERS)], color=SERIES_COLORS[i % len(SERIES_COLORS)], label=name)
    agreement = rank_agreement(frame)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(4, len(names)),
        frameon=False,
        fontsize=8,
        title=None if agreement is None else f"mean Spearman between runs {agreement:+.2f}",
        title_fontsize=8,
    )
    return figure


def _short(text: str, length: int = 58) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="finished run directories over one data set")
    parser.add_argument("--number", type=int, default=12, help="strongest and weakest expressions of each polarity")
    parser.add_argument("--out", type=Path, default=Path("figures/figure2"), help="where to write, without suffix")
    arguments = parser.parse_args()
    frame = expression_leakage(arguments.runs)
    write_text(arguments.out.with_suffix(".csv"), frame.to_csv(index=False))
    files = save_figure(draw(frame, number=arguments.number), arguments.out)
    for polarity, part in frame.groupby("polarity"):
        means = part.groupby(["sample", "injection"])["auc_el"].mean().sort_values(ascending=False)
        for name, position in (("strongest", 0), ("weakest", -1)):
            print(f"{polarity}, {name}: {means.index[position][1]!r} {means.iloc[position]:.2f}")
    agreement = rank_agreement(frame)
    if agreement is not None:
        print(f"mean Spearman correlation between runs: {agreement:+.2f}")
    print(f"figure: {', '.join(map(str, files))}")


if __name__ == "__main__":
    main()
