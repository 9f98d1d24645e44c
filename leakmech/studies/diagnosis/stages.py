"""The stages of a diagnosis, in order: each writes its tables and returns its part of ``summary.json``.

    directions      fit    -> tune -> test     where affect can be read off, and what it looks like when expressed
    ranking         tune                       heads, neurons and sublayers by attribution
    verdict         test                       do the first account for more of the shift than random ones?
    means           fit                        mean outputs of components, to ablate them with
    causal          test (some samples)        every head patched: is the fast ranking right?
    attention       test (some samples)        which heads read the injection, and what they bring
    faithfulness    test (some samples)        how much of the shift the ranked components account for
    sampled         test (some samples)        the verdict again, from answers under mean ablation

Components are ranked on ``tune`` and judged on ``test``; nothing that is reported was chosen on the samples it is
reported on. Rows of tables say on how many samples of which split they were computed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.errors import DirectionError, GenerationError
from leakmech.core.tensor_files import tensor_files
from leakmech.mechanism.attention.knockout import attention_knockout
from leakmech.mechanism.attention.patterns import attention_to_injection
from leakmech.mechanism.attention.transport import transport_and_expression
from leakmech.mechanism.attribution.faithfulness import (
    FRACTIONS,
    CircuitCurves,
    circuit_curves,
    random_rankings,
)
from leakmech.mechanism.attribution.gradients import METHODS, Method, attribute_pairs
from leakmech.mechanism.attribution.patching import patch_heads, patch_stream, patch_sublayers
from leakmech.mechanism.attribution.scores import ranked_frame
from leakmech.mechanism.directions.direction import Direction, FittedDirections, cosine_matrix
from leakmech.mechanism.directions.quality import DirectionQuality
from leakmech.mechanism.directions.tokens import token_projections
from leakmech.mechanism.sentiment import sentiment_directions
from leakmech.models.components import Component, with_names
from leakmech.runs.run import Fragment
from leakmech.scoring.statistics import json_number
from leakmech.studies.diagnosis.ranking import ranking, spearman
from leakmech.studies.diagnosis.verdict import means, sampled, verdict
from leakmech.studies.diagnosis.workbench import Workbench

_KNOCKED_OUT_HEADS = 10
_STREAM_LAYERS = 15  # the stream changes little from one layer to the next


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
        bench.run.wrote(*tensor_files(direction.save(bench.run.path / "directions", name)))
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


# -- is the fast ranking right? ----------------------------------------------------------------------------------------


def causal(bench: Workbench) -> Fragment:
    """Patch every head of some test samples, and compare with what attribution says on the same ones."""
    target, c = bench.target(), bench.config
    pairs = bench.pairs(bench.exact, target, split="test", few=True)
    equalised = bench.pairs(bench.exact, target, split="test", equalised=True, few=True)
    exact = patch_heads(bench.loaded, pairs, target, **bench.running)
    grid = exact.grid()
    agreement: Fragment = {}
    methods: tuple[Method, ...] = METHODS
    for method in methods:
        mine = equalised if method == "integrated_gradients" else pairs
        fast = attribute_pairs(
            bench.loaded, mine, target, method=method, steps=c.integrated_steps, **bench.running
        ).head_scores()
        reference = np.abs(grid) if method == "graddrop" else grid  # it has no sign
        agreement[method] = spearman(fast, reference)
        if method == "attribution_patching":
            rows, columns = np.indices(grid.shape).reshape(2, -1)
            frame = pd.DataFrame({"layer": rows, "head": columns, "fast": fast.ravel(), "exact": grid.ravel()})
            bench.save("patching_heads", with_names(frame, "head"), samples=bench.exact)
    sublayers = patch_sublayers(bench.loaded, pairs, target, **bench.running)
    bench.save("patching_sublayers", sublayers.to_frame(column="sublayer"), samples=bench.exact)
    every = range(0, target.layer + 1, max(1, (target.layer + 1) // _STREAM_LAYERS))
    stream = patch_stream(bench.loaded, equalised, target, layers=every, **bench.running).to_frame(column="position")
    bench.save("patching_stream", stream.rename(columns={"score": "effect"}), samples=bench.exact)
    return {
        "attribution_patching_spearman": agreement["attribution_patching"],
        "spearman": agreement,
        "exact_samples": len(bench.exact),
        "exact_shift": float(exact.shifts.mean()),
    }


# -- attention ---------------------------------------------------------------------------------------------------------


def attention(bench: Workbench) -> Fragment:
    """Which heads look at the injection, what happens without that, and who brings and who expresses affect."""
    c, samples = bench.config, bench.exact
    read = attention_to_injection(bench.loaded, samples, prompting=bench.prompting, **bench.running).to_frame()
    bench.save("attention", read, samples=samples)
    scores = bench.run.arrays("ranking")["heads"]
    best = ranked_frame(scores, column="head", top=_KNOCKED_OUT_HEADS)
    heads = [Component(int(at), "head", int(head)) for at, head in zip(best["layer"], best["head"], strict=True)]
    target = bench.target("tilt" if c.target == "tilt" else "direction")
    knocked = attention_knockout(
        bench.loaded,
        samples,
        target=target,
        heads=[head for head in heads if head.layer <= target.layer],
        endings=bench.endings(target, "test", few=True),
        seed=c.seed,
        prompting=bench.prompting,
        **bench.running,
    )
    bench.save("knockout", knocked.to_frame(seed=c.seed, draws=c.bootstrap_draws), samples=samples)
    moved = transport_and_expression(
        bench.loaded, samples, bench.direction, prompting=bench.prompting, **bench.running
    ).to_frame()
    bench.save("transport", moved, samples=samples)
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
    samples = bench.reported.take(c.circuit_samples)
    pairs = bench.pairs(samples, target, split="test", few=True)
    frames, circuits = [], {}
    for universe in ("heads", "neurons"):
        ranked = scores[universe]
        rankings = {"attribution_patching": ranked, "magnitude": scores[f"{universe[:-1]}_magnitude"]}
        baselines = random_rankings(ranked.shape, n=c.random_rankings, seed=c.seed)
        rankings |= baselines
        sizes = sorted({int(np.ceil(ranked.size * f)) for f in FRACTIONS} | {min(c.top, ranked.size)})
        curves = circuit_curves(
            bench.loaded,
            pairs,
            target,
            rankings,
            universe=universe,
            sizes=sizes,
            keep_only=[*baselines, "magnitude"],
            **bench.running,
        )
        frames.append(curves.to_frame(seed=c.seed, draws=c.bootstrap_draws))
        circuits[universe] = _areas(curves, top=min(c.top, ranked.size))
        value, interval = curves.span(seed=c.seed, draws=c.bootstrap_draws)
        circuits[universe] |= {"span": value, "span_ci": interval.to_json()}
        if not (interval.low > 0 or interval.high < 0):
            circuits[universe] = _untold(circuits[universe], universe)
    bench.save("faithfulness", frames, samples=samples)
    heads = circuits["heads"]
    return {
        "cpr": heads["cpr"],
        "cmd": heads["cmd"],
        "cpr_random": heads["cpr_random"],
        "cmd_random": heads["cmd_random"],
        "cpr_magnitude": heads["cpr_magnitude"],
        "cmd_magnitude": heads["cmd_magnitude"],
        "circuits": circuits,
        "circuit_samples": len(samples),
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


def _untold(areas: Fragment, universe: str) -> Fragment:
    """The same without the shares, where what they are shares of cannot be told from 0."""
    shares = [name for name in areas if name.startswith(("cpr", "cmd", "kept_top"))]
    reason = f"corrupting all {universe} changes the target by an amount that cannot be told from 0"
    return areas | dict.fromkeys(shares) | {"reason": reason}


def tokens(bench: Workbench) -> Fragment:
    """The target direction along the tokens of the first test sample."""
    sample = bench.splits["test"].samples[0]
    frame = token_projections(bench.reading, sample, bench.direction, prompting=bench.prompting, **bench.running)
    bench.save("token_projection", frame)
    return {}


STAGES = {
    "directions": directions,
    "ranking": ranking,
    "verdict": verdict,
    "means": means,
    "causal": causal,
    "attention": attention,
    "faithfulness": faithfulness,
    "sampled": sampled,
    "tokens": tokens,
}
