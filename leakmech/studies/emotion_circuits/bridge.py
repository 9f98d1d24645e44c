"""The stage ``bridge``: do circuits of commanded emotions carry affect that leaks?

    cosines      of the emotions' directions with those of read and of expressed leakage, at the latter's layers
    overlap      of the circuits' units with those that carry *tilt* (the diagnosis' ranking), against chance:
                 hypergeometric, and sets with as many units in every layer
    dampening    the union of the six circuits at factor 0, and random unions, as rows of ``leakmech mitigate``:
                 leakage, tilt, retention, on-task and topic rates, side effects; in the diagnosis' form of prompts

Frozen sets are refused. Everything needs a finished diagnosis of the same model; without one the stage says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import content_hash
from leakmech.datasets.emotions import EMOTIONS
from leakmech.datasets.samples import load_dataset, refuse_frozen
from leakmech.interventions.files import save_interventions
from leakmech.interventions.types import ModulateCircuit
from leakmech.mechanism.attribution.verdict import rank_p, same_layer_sets
from leakmech.mechanism.directions.direction import load_direction
from leakmech.models.components import Component, ComponentKind
from leakmech.models.layout import Layout
from leakmech.models.loaded import LoadedModel
from leakmech.runs.directory import SCRIPT
from leakmech.runs.run import Fragment
from leakmech.studies.diagnosis.result import Diagnosis
from leakmech.studies.emotion_circuits.finding import Fitted, method_parts
from leakmech.studies.emotion_circuits.methods import random_circuit
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig
from leakmech.studies.emotion_circuits.workbench import Workbench
from leakmech.studies.mitigation.run import mitigate

TILT_UNITS: Mapping[ComponentKind, int] = {"head": 20, "neuron": 500}
"""How many of the first units by tilt are held against the circuits."""
_DRAWS = 999
_NEGATIVE = ("anger", "sadness", "fear", "disgust")
_SHOWN = (
    "name", "told", "auc_el", "auc_el_low", "auc_el_high", "topic_free_valence_shift", "topic_free_valence_shift_low",
    "topic_free_valence_shift_high", "tilt_shift", "tilt_shift_low", "tilt_shift_high", "removal", "removal_tilt",
    "retention", "retention_self", "on_task_rate", "topic_rate", "fluency", "perplexity_ratio", "kl",
)  # fmt: skip
DAMPENED = "circuits-dampened"


def refuse_unfit_diagnosis(config: EmotionCircuitsConfig) -> None:
    """Refuse, before the model is loaded, a diagnosis that is not finished, and frozen sets."""
    if config.diagnosis is None:
        return
    refuse_frozen(load_dataset(config.leakage))
    found = Diagnosis.load(config.diagnosis)
    if found.summary["target"] != "tilt":
        raise RunDirectoryError(
            f"{config.diagnosis}: ranks components by {found.summary['target']}; the bridge needs a diagnosis by tilt"
        )


def refuse_other_model(config: EmotionCircuitsConfig, loaded: LoadedModel) -> None:
    """Refuse, before anything is generated, a diagnosis of another model."""
    if config.diagnosis is None:
        return
    diagnosed = Diagnosis.load(config.diagnosis).record.fingerprint.get("weights")
    if diagnosed != loaded.weights_hash:
        raise RunDirectoryError(
            f"{config.diagnosis}: is of a model with weights {diagnosed}, {loaded.name!r} has {loaded.weights_hash}; "
            "name a diagnosis of this model in the same --dtype"
        )


def diagnosis_key(found: Diagnosis) -> str:
    """Names a diagnosis by what it diagnosed and how."""
    return content_hash(str(found.record.fingerprint), str(found.record.config))[:8]


def bridge(bench: Workbench) -> Fragment:
    """Hold circuits against the diagnosis, and measure leakage without them; a diagnosis can be named later."""
    if bench.config.diagnosis is None:
        return {"bridge": {"skipped": "no diagnosis was named (--diagnosis RUN)"}}
    found = Diagnosis.load(bench.config.diagnosis)
    return bench.run.part(f"bridge-{diagnosis_key(found)}", partial(_bridged, bench, found))


def _bridged(bench: Workbench, found: Diagnosis) -> Fragment:
    layout, circuits = bench.layout, method_parts(bench).circuits["modulation"]
    cosines = _cosines(bench, found)
    bench.run.save_table("bridge_cosines", pd.DataFrame(cosines))
    union = tuple(dict.fromkeys(unit for own in circuits.values() for unit in own))
    overlaps = [
        {"emotions": name, **_overlap(found, own, kind, layout, bench.config.seed)}
        for name, own in [("all", union), *circuits.items()]
        for kind in TILT_UNITS
    ]
    bench.run.save_table("bridge_overlap", pd.DataFrame(overlaps))
    rows = _dampened(bench, found, union)
    bench.run.save_table("bridge_leakage", pd.DataFrame(rows))
    heads = sum(unit.kind == "head" for unit in union)
    return {
        "bridge": {
            "cosines": {row["direction"]: {k: v for k, v in row.items() if k != "direction"} for row in cosines},
            "overlap": {row["kind"]: row for row in overlaps if row["emotions"] == "all"},
            "union": {"head": heads, "neuron": len(union) - heads},
            "leakage": {row["name"]: row for row in rows},
        }
    }


def _cosines(bench: Workbench, found: Diagnosis) -> list[dict[str, Any]]:
    """Of the directions of leakage with those of the emotions and of their valence, in the same layer."""
    recipe = Fitted(bench.run, bench.layout).of("recipe")
    rows = []
    for name in ("read", "expressed"):
        file = found.path / "directions" / f"{name}.json"
        if not file.exists():
            continue
        direction = load_direction(file, model_hash=bench.loaded.weights_hash)
        vector = direction.vector.double().numpy()
        own = dict(zip(EMOTIONS, recipe[:, direction.layer], strict=True))
        valence = own["happiness"] - np.mean([own[emotion] for emotion in _NEGATIVE], axis=0)
        row = {emotion: float(v @ vector) for emotion, v in own.items()}
        row["happiness against the rest"] = float(valence @ vector / np.linalg.norm(valence))
        rows.append({
            "direction": name, "layer": direction.layer, "site": direction.site, **row,
            "random_sd": float(1 / np.sqrt(len(vector))),
        })  # fmt: skip
    return rows


def _overlap(
    found: Diagnosis, circuit: Sequence[Component], kind: ComponentKind, layout: Layout, seed: int
) -> dict[str, Any]:
    """Units of a circuit among the first by tilt, and by chance."""
    first = found.first_units(kind, TILT_UNITS[kind])
    own = {unit for unit in circuit if unit.kind == kind}
    total = layout.n_layers * (layout.n_heads if kind == "head" else layout.d_mlp)
    shared = len(own & set(first))
    random = np.array([len(own & set(drawn)) for drawn in same_layer_sets(first, layout, n=_DRAWS, seed=seed)])
    return {
        "kind": kind, "n_circuit": len(own), "n_tilt": len(first), "n_all": total, "shared": shared,
        "expected": len(own) * len(first) / total, "p": float(hypergeom.sf(shared - 1, total, len(own), len(first))),
        "same_layers_mean": float(random.mean()), "same_layers_p": rank_p(shared, random),
    }  # fmt: skip


def _dampened(bench: Workbench, found: Diagnosis, union: Sequence[Component]) -> list[dict[str, Any]]:
    """Leakage with the union of the circuits at factor 0, and with as many other units of the same layers."""
    c = bench.config
    sets = {DAMPENED: union} | {
        f"random-dampened-{n}": random_circuit(union, bench.layout, number=n, seed=c.seed)
        for n in range(1, c.leakage_draws + 1)
    }
    files = []
    for name, units in sets.items():
        edit = ModulateCircuit(list(units), scales=0.0, model_hash=bench.loaded.weights_hash)
        file = save_interventions([edit], bench.run.path / "interventions" / f"{name}.json")
        bench.run.wrote(file)
        files.append(str(file))
    by_name = not bench.run.record.fact(SCRIPT)
    measured = mitigate(
        c.model if by_name else bench.loaded.model,
        tokenizer=None if by_name else bench.loaded.tokenizer,
        interventions=files,
        dataset=c.leakage, limit=c.leakage_samples, generations=c.leakage_generations, seed=c.seed,
        prompt_form=found.summary["prompt_form"], tilt_completions=c.leakage_completions, quick=c.quick, dtype=c.dtype,
        device=c.device, bootstrap_draws=c.bootstrap_draws, progress=bench.progress,
        out=bench.run.path / f"leakage-{diagnosis_key(found)}",
    )  # fmt: skip
    frame: Any = measured.table("mitigations")
    frame = frame[frame["split"] == "test"] if "split" in frame else frame
    kept = [name for name in _SHOWN if name in frame.columns]
    return [{str(k): _plain(v) for k, v in row.items()} for row in frame[kept].to_dict("records")]


def _plain(value: Any) -> Any:
    """JSON-ready; what is missing is null."""
    return None if isinstance(value, float) and np.isnan(value) else value
