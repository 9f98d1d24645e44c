"""Stages that judge a ranking: by interchange, and by answers that are sampled under mean ablation.

Interchange (:mod:`leakmech.mechanism.attribution.verdict`) is done twice: on all samples and completions of ``test``
for the ranked sets, which gives the share and its interval, and on the first ``judged_samples`` of them, with the
completions of most extreme valence, for ranked and random sets alike, which gives the p value.

Answers cannot be sampled under interchange: once two answers differ, their tokens have no partners. So the first k
heads, and random ones of as many per layer, are set to their means (of prompt tokens in the prompt, of generated tokens
after it), and the topic-free valence shift of what the model then says is held against that of the base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.tensor_files import tensor_files
from leakmech.datasets.samples import POLARITIES, load_dataset
from leakmech.interventions.component_edits import AblateHeads
from leakmech.mechanism.activations.means import ComponentMeans, component_means
from leakmech.mechanism.attribution.pairs import Pair
from leakmech.mechanism.attribution.scores import ranked_frame
from leakmech.mechanism.attribution.targets import Target
from leakmech.mechanism.attribution.verdict import (
    Verdict,
    judge_components,
    judge_direction,
    rank_p,
    same_layer_sets,
)
from leakmech.mechanism.directions.direction import load_direction
from leakmech.models.components import Component, ComponentKind
from leakmech.runs.run import Fragment
from leakmech.scoring.statistics import json_number
from leakmech.studies.benchmark.run import run_benchmark
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.diagnosis.workbench import Workbench

_KINDS: Mapping[str, ComponentKind] = {"heads": "head", "neurons": "neuron"}
_FEW_DRAWS = 100  # the intervals of single sampled sets are not used


# -- interchange -------------------------------------------------------------------------------------------------------


def verdict(bench: Workbench) -> Fragment:
    """Judge the first heads and neurons, and the direction that reads affect best, beside random ones."""
    c, target = bench.config, bench.target()
    few, all_samples = bench.reported.take(c.judged_samples), bench.reported
    judged = _judge(bench, bench.pairs(few, target, split="test", few=True), target, random_sets=c.random_sets)
    whole = _judge(bench, bench.pairs(all_samples, target, split="test"), target, random_sets=0)
    rows, draws = [], []
    for (universe, small), (_, large) in zip(judged, whole, strict=True):
        interval = large.interval(seed=c.seed, draws=c.bootstrap_draws)
        random = small.shares[1:]
        rows.append(
            {
                "set": small.name,
                "universe": universe,
                "size": small.size,
                "target": target.name,
                "share": json_number(large.share),
                "low": json_number(interval.low),
                "high": json_number(interval.high),
                "share_judged": json_number(small.share),
                "random_mean": json_number(float(random.mean())),
                "random_p95": json_number(float(np.quantile(random, 0.95))),
                "random_max": json_number(float(random.max())),
                "random_sets": len(random),
                "p": small.p,
                "split": "test",
                "n": len(large.shifts),
                "n_judged": len(small.shifts),
            }
        )
        draws += [{"set": small.name, "draw": n, "share": share} for n, share in enumerate(random.tolist())]
    bench.run.save_table("verdict", pd.DataFrame(rows))
    bench.save("verdict_random", pd.DataFrame(draws), samples=few)
    scores = bench.run.arrays("ranking")
    return {
        "verdict": {
            "rows": rows,
            "completions": c.tilt_completions if target.name == "tilt" else None,
            "completions_judged": c.exact_completions if target.name == "tilt" else None,
            "components": {universe: int(scores[universe].size) for universe in _KINDS},
            "shift": json_number(float(whole[0][1].shifts.mean())),
        }
    }


def _judge(bench: Workbench, pairs: Sequence[Pair], target: Target, *, random_sets: int) -> list[tuple[str, Verdict]]:
    how: Any = {"random_sets": random_sets, "seed": bench.config.seed, **bench.running}
    found = []
    for universe in _KINDS:
        chosen = first_sets(bench, universe, target)
        if chosen:
            judged = judge_components(bench.loaded, pairs, target, chosen, **how)
            found += [(universe, own) for own in judged]
    if target.name != "direction":
        read = load_direction(bench.run.path / "directions" / "read.json", model_hash=bench.loaded.weights_hash)
        one = judge_direction(bench.loaded, pairs, target, read.vector, layer=read.layer, **how)
        found.append(("direction", one))
    return found


def first_sets(bench: Workbench, universe: str, target: Target) -> dict[str, list[Component]]:
    """The first components of the ranking, by the name of the set; those that the target can see."""
    c, kind = bench.config, _KINDS[universe]
    scores = bench.run.arrays("ranking")[universe][: target.layer + 1]
    order = ranked_frame(scores, column="number")
    components = [
        Component(int(layer), kind, int(number)) for layer, number in zip(order["layer"], order["number"], strict=True)
    ]
    sizes = c.judged_heads if universe == "heads" else c.judged_neurons
    return {f"first {k} {universe}": components[:k] for k in sorted(set(sizes)) if k < len(components)}


# -- mean ablation -----------------------------------------------------------------------------------------------------


def means(bench: Workbench) -> Fragment:
    """Mean outputs of heads and neurons on ``fit``, by kind of position; they lie beside the tables of components."""
    found = component_means(
        bench.loaded, bench.splits["fit"], prompting=bench.prompting, seed=bench.config.seed, **bench.running
    )
    bench.run.wrote(*tensor_files(found.save(bench.run.path / "tables")))
    return {"means": {"split": "fit", "n": len(bench.splits["fit"]), "n_tokens": dict(found.n_tokens)}}


def sampled(bench: Workbench) -> Fragment:
    """Topic-free valence shift of answers while the first heads, or random ones of their layers, are at their means."""
    c = bench.config
    sets = first_sets(bench, "heads", bench.target())
    if not c.sampled_sets or not sets:
        return {"sampled": None}
    name, chosen = list(sets.items())[-1]
    samples = bench.reported.take(c.sampled_samples)
    means = ComponentMeans.load(bench.run.path / "tables")
    drawn = same_layer_sets(chosen, bench.layout, n=c.sampled_sets, seed=c.seed)
    found: list[dict[str, Any]] = [{"set": "base", **_answers(bench, samples, "base", ())}]
    for number, components in enumerate([tuple(chosen), *drawn]):
        label = name if number == 0 else f"random {number - 1}"
        edit = AblateHeads(components, method="mean", values=means.of(components, bench.layout))
        found.append({"set": label, **_answers(bench, samples, f"set-{number}", (edit,))})
    bench.save("sampled", pd.DataFrame(found), samples=samples)
    base, *others = (row["topic_free_valence_shift"] for row in found)
    if found[0]["no_topic"]:
        return {"sampled": {"set": name, "reason": found[0]["no_topic"]}}
    if base is None or any(shift is None for shift in others):
        return {"sampled": {"set": name, "reason": "a set leaves no answers that are not about the injection"}}
    if base <= 0:
        return {
            "sampled": {"set": name, "reason": f"the base model's shift on these samples is {base:.3f}, not above 0"}
        }
    taken = 1 - np.array(others) / base
    return {
        "sampled": {
            "set": name,
            "edit": "mean ablation",
            "base_shift": base,
            "share": float(taken[0]),
            "random_mean": float(taken[1:].mean()),
            "random_max": float(taken[1:].max()),
            "random_sets": len(drawn),
            "p": rank_p(float(taken[0]), taken[1:]),
            "split": "test",
            "n": len(samples),
            "generations": c.sampled_generations,
        }
    }


def _answers(bench: Workbench, samples: Any, name: str, edits: tuple[AblateHeads, ...]) -> dict[str, Any]:
    """What a benchmark of the positive and negative prompts finds under edits."""
    c, folder = bench.config, bench.run.path / "sampled"
    file = folder / "samples.jsonl"
    if not file.exists():  # the whole set, since topic is told by how near an answer is to other samples' injections
        first = {sample.id for sample in samples}
        rest = tuple(sample for sample in load_dataset(c.dataset) if sample.id not in first)
        replace(samples, samples=(*samples, *rest)).save(file)
    config = BenchConfig.parse(
        {
            **{key: getattr(c, key) for key in ("model", "device", "dtype", "batch_size", "seed", "estimator")},
            **{key: getattr(c, key) for key in ("prompt_form", "system", "instruction", "task")},
            "dataset": str(file),
            "limit": len(samples),
            "generations": c.sampled_generations,
            "conditions": POLARITIES,
            "noise_floor": False,
            "on_task": False,
            "bootstrap_draws": _FEW_DRAWS,
        }
    )
    result = run_benchmark(
        config,
        model=bench.loaded.model,
        tokenizer=bench.loaded.tokenizer,
        interventions=edits,
        out=folder / name,
        progress=bench.progress,
    )
    overall = result.summary["overall"]
    free = overall.get("topic_free") or {}
    return {
        "no_topic": (result.summary.get("topic") or {}).get("reason"),
        "valence_shift": overall.get("valence_shift"),
        "topic_rate": overall.get("topic_rate"),
        "topic_free_valence_shift": free.get("valence_shift"),
    }
