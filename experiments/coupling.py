"""What coupled sampling buys: the variance of a difference in auc_el with the same seed against another one.

A small change of the model (one attention head whose write to the residual stream is set to zero, or another number
format) is measured with the same draws as the base model (coupled) and with those of another seed (uncoupled). With
d_j the difference in auc_el of sample j, the squared standard error of the difference is Var_j(d_j) / n, so

    ratio = Var_j(d_j uncoupled) / Var_j(d_j coupled)

says how many times fewer samples the coupled comparison needs. Every pair of seeds gives one variance; the ratio is
that of their means, and its interval comes from resampling the samples. Also printed: what `leakmech compare` says of
the base model against itself under another seed.

The last line is one JSON object with ``name``, ``ratios`` and ``environment``. Runs are kept in --out and continued.
"""

from __future__ import annotations

import argparse
import json
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

import leakmech
from leakmech.core.progress import rich_progress
from leakmech.core.provenance import environment
from leakmech.models.load import LoadedModel, load_model
from leakmech.reports.tables import Table
from leakmech.scoring.leakage import overall_leakage
from leakmech.scoring.records import leakage_scores

PerSeed = list[Float[np.ndarray, " samples"]]


def main() -> None:
    arguments = _arguments()
    models: dict[str, dict[str, Any]] = {
        "base": {"dtype": "float32"},
        "bfloat16": {"dtype": "bfloat16"},
        **{f"L{layer}H{head} ablated": {"dtype": "float32", "head": (layer, head)} for layer, head in arguments.heads},
    }
    leakage: dict[str, PerSeed] = {name: [] for name in models}
    for seed in range(arguments.seeds):
        for name, settings in models.items():
            loaded = load_model(arguments.model, dtype=settings["dtype"])
            if "head" in settings:
                _silence_head(loaded, *settings["head"])
            run = leakmech.bench(
                loaded.model,
                tokenizer=loaded.tokenizer,
                dtype=settings["dtype"],
                out=arguments.out / f"{name.replace(' ', '-')}-seed{seed}",
                seed=seed,
                limit=arguments.samples,
                generations=arguments.generations,
                batch_size=arguments.batch_size,
                noise_floor=False,
                progress=rich_progress,
            )
            leakage[name].append(_auc_el(run))
    ratios = {name: _variance_ratio(leakage["base"], changed) for name, changed in leakage.items() if name != "base"}
    print(_table(ratios, arguments).to_markdown())
    itself = leakmech.compare([arguments.out / f"base-seed{seed}" for seed in range(2)])
    print("\n" + itself.to_table().to_markdown())
    print(json.dumps({
        "name": "coupling",
        "ratios": {name: values["ratio"] for name, values in ratios.items()},
        "details": ratios,
        "environment": environment(),
    }))  # fmt: skip


def _silence_head(loaded: LoadedModel, layer: int, head: int) -> None:
    """Set one head's columns of o_proj to zero, so that the head writes nothing."""
    attention: Any = loaded.model.model.layers[layer].self_attn  # pyright: ignore - a Llama-like model
    width = attention.head_dim
    with torch.no_grad():
        attention.o_proj.weight[:, head * width : (head + 1) * width] = 0


def _auc_el(run: leakmech.BenchResult) -> Float[np.ndarray, " samples"]:
    """auc_el of every sample; NaN where a sample has no scored pair."""
    ratio = overall_leakage(leakage_scores(run.scores, run.summary["cleaning"]), pairing="all")
    return np.where(ratio.denominator > 0, ratio.numerator / np.maximum(ratio.denominator, 1), np.nan)


def _variance_ratio(base: PerSeed, changed: PerSeed, *, draws: int = 2000) -> dict[str, Any]:
    """Variances over samples with the same and with another seed, their ratio, and its percentile interval."""
    seeds = range(len(base))
    coupled = np.stack([changed[seed] - base[seed] for seed in seeds])
    uncoupled = np.stack([changed[a] - base[b] for a, b in permutations(seeds, 2)])
    n_samples = coupled.shape[1]

    def variance(differences: Float[np.ndarray, "pairs samples"]) -> float:
        return float(np.nanvar(differences, axis=1, ddof=1).mean())

    drawn = np.random.default_rng(0).integers(n_samples, size=(draws, n_samples))
    resampled = [variance(uncoupled[:, rows]) / variance(coupled[:, rows]) for rows in drawn]
    return {
        "ratio": round(variance(uncoupled) / variance(coupled), 3),
        "ratio_ci": [round(float(end), 3) for end in np.quantile(resampled, [0.025, 0.975])],
        "sd_coupled": round(variance(coupled) ** 0.5, 4),
        "sd_uncoupled": round(variance(uncoupled) ** 0.5, 4),
        "mean_difference": round(float(np.nanmean(coupled)), 4),
    }


def _table(ratios: dict[str, dict[str, Any]], arguments: argparse.Namespace) -> Table:
    rows = [
        (
            name,
            f"{values['mean_difference']:+.3f}",
            f"{values['sd_coupled']:.3f}",
            f"{values['sd_uncoupled']:.3f}",
            f"{values['ratio']:.2f} [{values['ratio_ci'][0]:.2f}, {values['ratio_ci'][1]:.2f}]",
        )
        for name, values in ratios.items()
    ]
    return Table(
        title=f"Difference in auc_el from the base model ({arguments.samples} samples x {arguments.generations} "
        f"generations, {arguments.seeds} seeds)",
        header=("change", "mean", "sd coupled", "sd uncoupled", "variance ratio [95 % CI]"),
        rows=rows,
        notes=["sd: over samples, of the difference of one sample. Interval: samples resampled."],
    )


def _head(text: str) -> tuple[int, int]:
    layer, head = text.split(".")
    return int(layer), int(head)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="Llama-like (it needs o_proj)")
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--generations", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    parser.add_argument("--heads", type=_head, nargs="*", default=[(5, 2), (15, 4), (25, 6)], help="e.g. 15.4")
    parser.add_argument("--batch-size", type=int, default=160, help="the same for all runs")
    parser.add_argument("--out", type=Path, default=Path("runs/coupling"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
