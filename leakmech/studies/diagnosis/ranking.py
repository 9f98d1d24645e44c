"""The stage that ranks heads, neurons and sublayers on ``tune``, and prints what they carry on ``test``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from leakmech.core.errors import GenerationError
from leakmech.core.seeds import numpy_generator
from leakmech.mechanism.attribution.direct import direct_attribution, magnitudes
from leakmech.mechanism.attribution.faithfulness import rank_overlap
from leakmech.mechanism.attribution.gradients import attribute_pairs
from leakmech.mechanism.attribution.pairs import located_by_sample
from leakmech.mechanism.attribution.scores import Attribution
from leakmech.runs.run import Fragment
from leakmech.scoring.statistics import json_number
from leakmech.studies.diagnosis.workbench import Workbench

MAX_NEURONS = 2000  # rows a method in tables/neurons.csv
_BOOTSTRAP_RANKINGS = 200
_OTHER_TARGET_SAMPLES = 16  # for a comparison of rankings; the configured target has all of tune


def ranking(bench: Workbench) -> Fragment:
    """Rank components on ``tune``, for two targets; print their scores on ``test``, and say how stable they are."""
    c, samples = bench.config, bench.ranked
    found: list[Attribution] = []
    skipped: Fragment = {}
    for name in ("tilt", "direction") if c.target == "tilt" else ("direction", "behaviour"):
        target = bench.target(name)
        chosen = samples if name == c.target else samples.take(_OTHER_TARGET_SAMPLES)
        try:
            pairs = bench.pairs(chosen, target, split="tune")
            found.append(attribute_pairs(bench.loaded, pairs, target, **bench.running))
        except GenerationError as error:
            if name == c.target:
                raise
            skipped[name] = str(error)
    found.append(
        direct_attribution(bench.reading, samples, target=bench.direction, prompting=bench.prompting, **bench.running)
    )
    headline = next(a for a in found if (a.method, a.target) == ("attribution_patching", c.target))
    prompts = [
        prompt
        for own in located_by_sample(samples, bench.renderer, ["positive", "negative"]).values()
        for prompt in own.values()
    ]
    head_lengths, neuron_lengths = magnitudes(bench.reading, prompts, **bench.running)
    target = bench.target()
    judged = attribute_pairs(bench.loaded, bench.pairs(bench.reported, target, split="test"), target, **bench.running)
    bench.run.save_arrays(
        "ranking",
        heads=headline.head_scores(),
        neurons=headline.neuron_scores(),
        neurons_test=judged.neuron_scores(),
        head_magnitude=head_lengths.numpy(),
        neuron_magnitude=neuron_lengths.numpy(),
    )
    save_rankings(bench, found, judged, headline)
    other = next((a for a in found if a.method == headline.method and a.target != c.target), None)
    agreement = None if other is None else spearman(headline.head_scores(), other.head_scores())
    top = min(c.top, judged.head_scores().size)
    shared, _ = rank_overlap(headline.head_scores(), judged.head_scores(), top=top)
    return {
        "stability": stability(judged, top=c.top, seed=c.seed)
        | {
            "split": "test",
            "n": len(judged.samples),
            "heads_tune_and_test": shared,
            "heads_tune_and_test_spearman": spearman(headline.head_scores(), judged.head_scores()),
        },
        "n_ranked": {"tune": len(headline.samples), "test": len(judged.samples)},
        "targets_spearman": agreement,
        "skipped": skipped,
    }


def save_rankings(bench: Workbench, found: list[Attribution], judged: Attribution, headline: Attribution) -> None:
    """Tables of components: rows of ``tune`` are what they were ranked on; rows of ``test`` have the rank of tune.

    `judged` is on test what `headline`, one of those `found`, is on tune.
    """
    c = bench.config
    intervals = {"intervals": True, "seed": c.seed, "draws": c.bootstrap_draws}
    frames: dict[str, list[pd.DataFrame]] = {"heads": [], "neurons": [], "sublayers": []}
    for a in found:
        about = {"split": "tune", "n": len(a.samples)}
        frames["heads"].append(a.heads_frame(**intervals).assign(**about))
        frames["neurons"].append(a.neurons_frame(top=MAX_NEURONS).assign(**about))
        frames["sublayers"].append(a.sublayers_frame().assign(**about))
        if a is headline:
            about = {"split": "test", "n": len(judged.samples)}
            for name, frame in (("heads", judged.heads_frame(**intervals)), ("neurons", judged.neurons_frame())):
                ranks = frames[name][-1][["layer", name[:-1], "rank"]]
                merged = frame.drop(columns="rank").merge(ranks, on=["layer", name[:-1]])
                frames[name].append(merged.sort_values("rank").assign(**about))
            frames["sublayers"].append(judged.sublayers_frame().assign(**about))
    for name, own in frames.items():
        bench.run.save_table(name, own)


def stability(attribution: Attribution, *, top: int, seed: int) -> Fragment:
    """Overlap of the first `top` components between halves of the samples and between bootstrap samples.

    ``*_chance`` is the overlap of two random rankings. Neurons have halves only.
    """
    n = len(attribution.samples)
    heads = attribution.head_scores()
    top_heads = min(top, heads.size)
    halves = [attribution.head_scores(slice(half, None, 2)) for half in (0, 1)]
    between, chance = rank_overlap(*halves, top=top_heads)
    generator = numpy_generator("stability", seed)
    resampled = [
        rank_overlap(heads, attribution.head_scores(generator.integers(n, size=n).tolist()), top=top_heads)[0]
        for _ in range(_BOOTSTRAP_RANKINGS)
    ]
    neuron_overlap, neuron_chance = rank_overlap(
        attribution.neuron_scores(0), attribution.neuron_scores(1), top=5 * top
    )
    return {
        "top_heads": top_heads,
        "heads_between_halves": between,
        "heads_between_halves_spearman": spearman(*halves),
        "heads_bootstrap_mean": float(np.mean(resampled)),
        "heads_bootstrap_p05": float(np.quantile(resampled, 0.05)),
        "heads_chance": chance,
        "top_neurons": 5 * top,
        "neurons_between_halves": neuron_overlap,
        "neurons_chance": neuron_chance,
    }


def spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    """Rank correlation of two sets of scores; None where one of them is constant."""
    found: Any = stats.spearmanr(first.ravel(), second.ravel())
    return json_number(float(found.statistic))
