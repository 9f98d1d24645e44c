"""The stages of a diagnosis, in order: each writes its tables and returns its part of ``summary.json``.

    directions      fit    -> tune -> test     where affect can be read off, and what it looks like when expressed
    ranking         tune                       heads, neurons and sublayers by attribution
    causal          test (some samples)        every head patched: is the fast ranking right?
    attention       test (some samples)        which heads read the injection, and what they bring
    faithfulness    test                       how much of the shift the ranked components account for

Components are ranked on ``tune`` and judged on ``test``; nothing that is reported was chosen on the samples it is
reported on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from leakmech.core.errors import DirectionError, GenerationError
from leakmech.core.seeds import numpy_generator
from leakmech.mechanism.attention.knockout import attention_knockout
from leakmech.mechanism.attention.patterns import attention_to_injection
from leakmech.mechanism.attention.transport import transport_and_expression
from leakmech.mechanism.attribution.direct import direct_attribution, magnitudes
from leakmech.mechanism.attribution.faithfulness import (
    FRACTIONS,
    CircuitCurves,
    circuit_curves,
    random_rankings,
    rank_overlap,
)
from leakmech.mechanism.attribution.gradients import METHODS, Method, attribute_pairs
from leakmech.mechanism.attribution.pairs import located_by_sample
from leakmech.mechanism.attribution.patching import patch_heads, patch_stream, patch_sublayers
from leakmech.mechanism.attribution.scores import Attribution, ranked_frame
from leakmech.mechanism.directions.direction import Direction, FittedDirections, cosine_matrix
from leakmech.mechanism.directions.quality import DirectionQuality
from leakmech.mechanism.directions.tokens import token_projections
from leakmech.mechanism.sentiment import sentiment_directions
from leakmech.models.components import Component
from leakmech.runs.run import Fragment
from leakmech.scoring.statistics import json_number
from leakmech.studies.diagnosis.workbench import Workbench

MAX_NEURONS = 2000  # rows a method in tables/neurons.csv
_BOOTSTRAP_RANKINGS = 200
_KNOCKED_OUT_HEADS = 10
_STREAM_LAYERS = 15  # the stream changes little from one layer to the next
_OTHER_TARGET_SAMPLES = 16  # for a comparison of rankings; the configured target has all of tune


# -- directions --------------------------------------------------------------------------------------------------------


def directions(bench: Workbench) -> Fragment:
    """Directions of read and of expressed affect, and the target direction: the best one of the target layer."""
    bench.layout.block(bench.target_layer)
    found: dict[str, FittedDirections] = {"read": _fitted(bench, "read")}
    quality: Fragment = {}
    try:
        found["expressed"] = _fitted(bench, "expressed")
    except (GenerationError, DirectionError) as error:
        quality["expressed"] = {"skipped": str(error)}
    saved: dict[str, Direction] = {name: fitted.chosen for name, fitted in found.items()}
    best = max(
        (row for row in found["read"].table.rows if row.layer == bench.target_layer),
        key=lambda row: (row.tune.auc, row.tune.d_z),
    )
    saved["target"] = found["read"].direction(best.method, best.layer)
    for name, fitted in found.items():
        quality[name] = _quality(fitted.table.chosen) | {
            f"{key}_ci": interval.to_json() for key, interval in fitted.table.intervals.items()
        }
    quality["target"] = _quality(best)
    for name, direction in saved.items():
        direction.save(bench.run.path / "directions", name)
    bench.run.save_table("directions", [fitted.table.to_frame() for fitted in found.values()])
    bench.run.save_table("direction_cosines", [fitted.table.cosines_frame() for fitted in found.values()])
    compared = {
        f"{name} {method} L{saved['target'].layer}": fitted.direction(method, saved["target"].layer)
        for name, fitted in found.items()
        for method in fitted.fits
    }
    bench.run.save_table("cosines", cosine_matrix(compared).rename_axis("direction").reset_index())
    return {"directions": quality}


def _fitted(bench: Workbench, kind: Any) -> FittedDirections:
    c = bench.config
    methods = [method for method in c.methods if kind == "read" or method != "das"]
    return sentiment_directions(
        bench.reading,
        fit=bench.splits["fit"],
        tune=bench.splits["tune"],
        test=bench.splits["test"],
        kind=kind,
        methods=methods,
        estimator=c.estimator,
        seed=c.seed,
        prompting=bench.prompting,
        **bench.running,
    )


def _quality(row: DirectionQuality) -> Fragment:
    return {
        "method": row.method,
        "layer": row.layer,
        "auc": json_number(row.test.auc),
        "d_z": json_number(row.test.d_z),
        "accuracy": json_number(row.test.accuracy),
        "random_auc_p95": json_number(row.random.auc_p95),
        "random_d_z_p95": json_number(row.random.d_z_p95),
        "shuffled_auc_p95": json_number(row.shuffled.auc_p95),
        "shuffled_d_z_p95": json_number(row.shuffled.d_z_p95),
    }


# -- ranking -----------------------------------------------------------------------------------------------------------


def ranking(bench: Workbench) -> Fragment:
    """Rank components on ``tune``, for both targets, and say how stable the ranking is."""
    c, samples = bench.config, bench.splits["tune"]
    found: list[Attribution] = []
    skipped: Fragment = {}
    for name in ("direction", "behaviour"):
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
    bench.run.save_arrays(
        "ranking",
        heads=headline.head_scores(),
        neurons=headline.neuron_scores(),
        head_magnitude=head_lengths.numpy(),
        neuron_magnitude=neuron_lengths.numpy(),
    )
    draws = c.bootstrap_draws
    bench.run.save_table(
        "heads", [a.heads_frame(intervals=True, seed=c.seed, draws=draws).assign(split="tune") for a in found]
    )
    bench.run.save_table("neurons", [a.neurons_frame(top=MAX_NEURONS).assign(split="tune") for a in found])
    bench.run.save_table("sublayers", [a.sublayers_frame().assign(split="tune") for a in found])
    other = next((a for a in found if a.method == headline.method and a.target != c.target), None)
    agreement = None if other is None else _spearman(headline.head_scores(), other.head_scores())
    return {"stability": stability(headline, top=c.top, seed=c.seed), "targets_spearman": agreement, "skipped": skipped}


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
        "heads_between_halves_spearman": _spearman(*halves),
        "heads_bootstrap_mean": float(np.mean(resampled)),
        "heads_bootstrap_p05": float(np.quantile(resampled, 0.05)),
        "heads_chance": chance,
        "top_neurons": 5 * top,
        "neurons_between_halves": neuron_overlap,
        "neurons_chance": neuron_chance,
    }


def _spearman(first: np.ndarray, second: np.ndarray) -> float | None:
    found: Any = stats.spearmanr(first.ravel(), second.ravel())
    return json_number(float(found.statistic))


# -- is the fast ranking right? ----------------------------------------------------------------------------------------


def causal(bench: Workbench) -> Fragment:
    """Patch every head of some test samples, and compare with what attribution says on the same ones."""
    target, c = bench.target(), bench.config
    pairs = bench.pairs(bench.exact, target, split="test")
    equalised = bench.pairs(bench.exact, target, split="test", equalised=True)
    exact = patch_heads(bench.loaded, pairs, target, **bench.running)
    grid = exact.grid()
    spearman: Fragment = {}
    methods: tuple[Method, ...] = METHODS
    for method in methods:
        mine = equalised if method == "integrated_gradients" else pairs
        fast = attribute_pairs(
            bench.loaded, mine, target, method=method, steps=c.integrated_steps, **bench.running
        ).head_scores()
        reference = np.abs(grid) if method == "graddrop" else grid  # it has no sign
        spearman[method] = _spearman(fast, reference)
        if method == "attribution_patching":
            rows, columns = np.indices(grid.shape).reshape(2, -1)
            frame = pd.DataFrame({"layer": rows, "head": columns, "fast": fast.ravel(), "exact": grid.ravel()})
            bench.run.save_table("patching_heads", frame)
    bench.run.save_table("patching_sublayers", patch_sublayers(bench.loaded, pairs, target, **bench.running).to_frame(
        column="sublayer"
    ))  # fmt: skip
    every = range(0, bench.target_layer + 1, max(1, (bench.target_layer + 1) // _STREAM_LAYERS))
    stream = patch_stream(bench.loaded, equalised, target, layers=every, **bench.running).to_frame(column="position")
    bench.run.save_table("patching_stream", stream.rename(columns={"score": "effect"}))
    return {
        "attribution_patching_spearman": spearman["attribution_patching"],
        "spearman": spearman,
        "exact_samples": len(bench.exact),
        "exact_shift": float(exact.shifts.mean()),
    }


# -- attention ---------------------------------------------------------------------------------------------------------


def attention(bench: Workbench) -> Fragment:
    """Which heads look at the injection, what happens without that, and who brings and who expresses affect."""
    c, samples = bench.config, bench.exact
    read = attention_to_injection(bench.loaded, samples, prompting=bench.prompting, **bench.running).to_frame()
    bench.run.save_table("attention", read)
    scores = bench.run.arrays("ranking")["heads"]
    best = ranked_frame(scores, column="head", top=_KNOCKED_OUT_HEADS)
    heads = [Component(int(at), "head", int(head)) for at, head in zip(best["layer"], best["head"], strict=True)]
    target = bench.target("direction")
    knocked = attention_knockout(
        bench.loaded,
        samples,
        target=target,
        heads=[head for head in heads if head.layer <= target.layer],
        seed=c.seed,
        prompting=bench.prompting,
        **bench.running,
    )
    bench.run.save_table("knockout", knocked.to_frame(seed=c.seed, draws=c.bootstrap_draws))
    moved = transport_and_expression(
        bench.loaded, samples, bench.direction, prompting=bench.prompting, **bench.running
    ).to_frame()
    bench.run.save_table("transport", moved)
    of_heads = moved.loc[moved["component"] != "mlp"]
    transport, expressed = (float(np.sum(of_heads[column].to_list())) for column in ("transport", "expression"))
    by_mlps = float(np.sum(moved["expression"].to_list())) - expressed
    span = transport + expressed + by_mlps
    return {
        "knockout_ceiling": json_number(knocked.ceiling),
        "transport_share": json_number(transport / span),
        "expression_share_heads": json_number(expressed / span),
        "expression_share_mlps": json_number(by_mlps / span),
    }


# -- faithfulness ------------------------------------------------------------------------------------------------------


def faithfulness(bench: Workbench) -> Fragment:
    """Circuits of the first k heads and neurons of the ranking that was made on ``tune``, on all test samples."""
    c, target, scores = bench.config, bench.target(), bench.run.arrays("ranking")
    pairs = bench.pairs(bench.splits["test"].take(c.circuit_samples), target, split="test")
    frames, circuits = [], {}
    for universe in ("heads", "neurons"):
        ranked = scores[universe]
        rankings = {"attribution_patching": ranked, "magnitude": scores[f"{universe[:-1]}_magnitude"]}
        baselines = random_rankings(ranked.shape, n=c.random_rankings, seed=c.seed)
        rankings |= baselines
        sizes = sorted({int(np.ceil(ranked.size * f)) for f in FRACTIONS} | {min(c.top, ranked.size)})
        curves = circuit_curves(bench.loaded, pairs, target, rankings, universe=universe, sizes=sizes, **bench.running)
        frames.append(curves.to_frame(seed=c.seed, draws=c.bootstrap_draws))
        circuits[universe] = _areas(curves, top=min(c.top, ranked.size))
    bench.run.save_table("faithfulness", frames)
    heads = circuits["heads"]
    return {
        "cpr": heads["cpr"],
        "cmd": heads["cmd"],
        "cpr_random": heads["cpr_random"],
        "cmd_random": heads["cmd_random"],
        "cpr_magnitude": heads["cpr_magnitude"],
        "cmd_magnitude": heads["cmd_magnitude"],
        "circuits": circuits,
    }


def _areas(curves: CircuitCurves, *, top: int) -> Fragment:
    random = [name for name in curves.rankings() if name.startswith("random-")]
    place = curves.sizes.index(top)
    recovered = {name: float(curves.faithfulness(name)[place]) for name in curves.rankings()}
    of_random = [recovered[name] for name in random]
    return {
        "components": curves.n_components,
        "cpr": curves.cpr("attribution_patching"),
        "cmd": curves.cmd("attribution_patching"),
        "cpr_random": float(np.mean([curves.cpr(name) for name in random])),
        "cmd_random": float(np.mean([curves.cmd(name) for name in random])),
        "cpr_magnitude": curves.cpr("magnitude"),
        "cmd_magnitude": curves.cmd("magnitude"),
        "top": top,
        "kept_top": recovered["attribution_patching"],
        "kept_top_magnitude": recovered["magnitude"],
        "kept_top_random_mean": float(np.mean(of_random)),
        "kept_top_random_max": float(np.max(of_random)),
        "corrupt_share": curves.corrupt_share,
    }


def tokens(bench: Workbench) -> Fragment:
    """The target direction along the tokens of the first test sample."""
    sample = bench.splits["test"].samples[0]
    frame = token_projections(bench.reading, sample, bench.direction, prompting=bench.prompting, **bench.running)
    bench.run.save_table("token_projection", frame)
    return {}


STAGES = {
    "directions": directions,
    "ranking": ranking,
    "causal": causal,
    "attention": attention,
    "faithfulness": faithfulness,
    "tokens": tokens,
}
