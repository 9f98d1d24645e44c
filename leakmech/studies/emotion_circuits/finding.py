"""The stages ``components``, ``influence`` and ``circuits``: which units write an emotion, how many in each layer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import spearmanr

from leakmech.core.errors import ConfigError, UsageError
from leakmech.datasets.emotions import EMOTIONS, Emotion
from leakmech.datasets.samples import spread_out
from leakmech.models.components import Component, ComponentKind
from leakmech.models.layout import Layout
from leakmech.runs.run import Fragment, Run
from leakmech.scoring.statistics import json_number
from leakmech.studies.emotion_circuits.assembly import HEADS, NEURONS, KindShare, layer_budget
from leakmech.studies.emotion_circuits.components import circuit, head_scores, jaccard, neuron_scores
from leakmech.studies.emotion_circuits.gradients import command_attribution
from leakmech.studies.emotion_circuits.methods import (
    REFERENCE,
    Circuits,
    Parts,
    another,
    layers_between,
    overlap,
    random_circuit,
)
from leakmech.studies.emotion_circuits.projection import (
    LastTokens,
    SetEffect,
    ablation,
    enhancement,
    influence,
    reference_vectors,
)
from leakmech.studies.emotion_circuits.reading import COMPONENTS, changes_of
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig
from leakmech.studies.emotion_circuits.workbench import Workbench

FIRST_TOKEN = 0.1
"""A unit whose score at late tokens of the reply is less than this share of the one before the reply moves the first
token only."""
_CURVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_TABLE_ROWS = 50
Scores = Float[np.ndarray, "emotion layer unit"]


class Fitted:
    """What the stage ``directions`` kept."""

    def __init__(self, run: Run, layout: Layout) -> None:
        self.layout = layout
        self.arrays = run.arrays("directions")

    def of(self, name: str) -> Float[np.ndarray, "emotion layer d_model"]:
        """A set of directions in the stream after each layer."""
        return self.arrays[f"set_{name.replace('-', '_')}"]

    def units(self, what: str) -> dict[str, Float[np.ndarray, "emotion layer width"]]:
        """``change`` (what commands add), ``late`` (at late tokens of replies) or ``mean`` of heads and neurons."""
        kept = {site: self.arrays[f"{'mean' if what == 'change' else what}_{site}"] for site in COMPONENTS}
        return {site: changes_of(own) for site, own in kept.items()} if what == "change" else kept

    @property
    def norms(self) -> Float[np.ndarray, " layer"]:
        """RMS length of the stream after each layer."""
        return self.arrays["norms"]

    @cached_property
    def reference(self) -> Float[np.ndarray, "emotion d_model"]:
        """What influence is measured along."""
        return reference_vectors(self.of("recipe"), layers_between(REFERENCE, self.layout.n_layers))

    def scores(self, what: str) -> dict[ComponentKind, Scores]:
        """Scores of heads and neurons along the recipe's directions."""
        values, after = self.units(what), list(np.moveaxis(self.of("recipe"), 1, 0))
        middle = list(np.moveaxis(self.arrays["middle"], 1, 0))
        return {
            "head": head_scores(self.layout, values["z"], middle),
            "neuron": neuron_scores(self.layout, values["mlp_post"], after),
        }


def components(bench: Workbench) -> Fragment:
    """Rank heads and neurons, and judge the first ones beside random ones by projection."""
    fitted = Fitted(bench.run, bench.layout)
    found = fitted.scores("mean")
    commanded: dict[Emotion, LastTokens] = {emotion: _last_tokens(bench, fitted, emotion) for emotion in EMOTIONS}
    attributed = command_attribution(commanded, fitted.units("change"), bench.layout)
    agreement: Fragment = {}
    curves = []
    sites: tuple[tuple[ComponentKind, str], ...] = (("head", "z"), ("neuron", "mlp_post"))
    for kind, site in sites:
        scores, other = found[kind], attributed[site]
        bench.run.save_table(f"{kind}s", _ranked(scores, other, kind))
        correlation: Any = spearmanr(scores.ravel(), other.ravel())
        agreement[f"{kind}s_attribution_spearman"] = json_number(correlation.statistic)
        curves += _long_tail(scores, kind)
    bench.run.save_table("long_tail", pd.DataFrame(curves))
    rows = _judged_sets(bench, fitted, found, commanded)
    bench.run.save_table("unit_sets", pd.DataFrame(rows))
    return {"components": agreement | {"sets": _overview(rows)}}


def _last_tokens(bench: Workbench, fitted: Fitted, emotion: Emotion | None, number: int | None = None) -> LastTokens:
    """Prompts of some tune events at even distances."""
    asked = spread_out(bench.asked("tune", [emotion]), number or bench.config.judged_events)
    return LastTokens(bench.loaded, [own.ids for own in asked], fitted.reference)


def _ranked(scores: Scores, attributed: Scores, kind: str) -> pd.DataFrame:
    """The first units of every emotion by score, with their effect by attribution patching."""
    rows = []
    for e, emotion in enumerate(EMOTIONS):
        flat, n = scores[e].ravel(), scores.shape[2]
        for rank, place in enumerate(np.argsort(-flat, kind="stable")[:_TABLE_ROWS], start=1):
            layer, unit = divmod(int(place), n)
            rows.append({
                "emotion": emotion, "layer": layer, kind: unit, "method": "direct", "score": flat[place], "rank": rank,
                "attribution": attributed[e, layer, unit],
            })  # fmt: skip
    return pd.DataFrame(rows)


def _long_tail(scores: Scores, kind: str) -> list[dict[str, Any]]:
    """Share of all that units add along a direction which the first k add."""
    rows = []
    for e, emotion in enumerate(EMOTIONS):
        ordered = np.sort(np.maximum(scores[e].ravel(), 0.0))[::-1]
        held = np.cumsum(ordered) / max(ordered.sum(), 1e-30)
        rows += [{"emotion": emotion, "kind": kind, "k": k, "share": held[k - 1]} for k in _CURVE if k <= len(ordered)]
    return rows


def _judged_sets(
    bench: Workbench, fitted: Fitted, found: Mapping[ComponentKind, Scores], commanded: Mapping[Emotion, LastTokens]
) -> list[dict[str, Any]]:
    uncommanded = _last_tokens(bench, fitted, None)
    drawn: Any = {"draws": bench.config.random_draws, "seed": bench.config.seed}
    rows: list[dict[str, Any]] = []
    with bench.progress("sets of units", total=4 * len(EMOTIONS), done=0) as advance:
        for e, emotion in enumerate(EMOTIONS):
            changes = {site: own[e] for site, own in fitted.units("change").items()}
            for kind in found:
                units = first_units(found[kind][e], kind, _size(bench, kind))
                effects = {
                    "enhancement": enhancement(uncommanded, emotion, units, changes, **drawn),
                    "ablation": ablation(commanded[emotion], emotion, units, **drawn),
                }
                rows += [_effect_row(emotion, kind, name, len(units), own) for name, own in effects.items()]
                advance(2)
    return rows


def first_units(scores: Float[np.ndarray, "layer unit"], kind: ComponentKind, k: int) -> list[Component]:
    """The `k` units with the highest scores in all layers."""
    places = np.argsort(-scores.ravel(), kind="stable")[:k]
    return [Component(int(place) // scores.shape[1], kind, int(place) % scores.shape[1]) for place in places]


def _size(bench: Workbench, kind: ComponentKind) -> int:
    """As many units as a circuit has of that kind."""
    layout = bench.layout
    return _share(bench.config, kind).sizes(layout.n_layers, _per_layer(layout, kind))[0]


def _per_layer(layout: Layout, kind: ComponentKind) -> int:
    return layout.n_heads if kind == "head" else layout.d_mlp


def _share(c: EmotionCircuitsConfig, kind: ComponentKind) -> KindShare:
    return KindShare(c.head_share, HEADS.least) if kind == "head" else KindShare(c.neuron_share, NEURONS.least)


def refuse_unfit_sizes(config: EmotionCircuitsConfig, layout: Layout) -> None:
    """Refuse, before anything is generated, circuits for which the layers of the model have no room."""
    for kind in ("head", "neuron"):
        per_layer = _per_layer(layout, kind)
        total, least = _share(config, kind).sizes(layout.n_layers, per_layer)
        try:
            layer_budget([0.0] * layout.n_layers, total=total, least=least, per_layer=per_layer)
        except UsageError as error:
            raise ConfigError(f"{kind}_share {getattr(config, f'{kind}_share'):g}: {error}; lower it") from error


def _effect_row(emotion: str, kind: str, edit: str, k: int, found: SetEffect) -> dict[str, Any]:
    random = np.array(found.random)
    return {
        "emotion": emotion, "kind": kind, "edit": edit, "k": k, "effect": found.effect, "random_mean": random.mean(),
        "random_max": random.max(), "random_sets": len(random), "p": found.p,
    }  # fmt: skip


def _overview(rows: list[dict[str, Any]]) -> Fragment:
    frame: Any = pd.DataFrame(rows)
    return {
        f"{edit}_{kind}": {
            "effect": float(own["effect"].mean()),
            "random_mean": float(own["random_mean"].mean()),
            "above_all_random": int((own["effect"] > own["random_max"]).sum()),
            "n_emotions": len(own),
        }
        for (edit, kind), own in frame.groupby(["edit", "kind"])
    }


# -- influence and circuits --------------------------------------------------------------------------------------------


def sublayer_influence(bench: Workbench) -> Fragment:
    """How much a push along an emotion at each sublayer's output moves the end of the model."""
    fitted, c = Fitted(bench.run, bench.layout), bench.config
    rms = float(fitted.norms.mean() / np.sqrt(bench.layout.d_model))
    vectors = {"attn_out": fitted.arrays["middle"], "mlp_out": fitted.of("recipe")}
    found = influence(
        _last_tokens(bench, fitted, None, c.influence_events), vectors, rms, c.influence_strengths,
        progress=bench.progress,
    )  # fmt: skip
    bench.run.save_arrays("influence", influence=found, rms=np.array(rms))
    rows = [
        {"strength": strength, "emotion": emotion, "layer": layer, "sublayer": site.removesuffix("_out"),
         "influence": found[a, e, s, layer]}
        for a, strength in enumerate(c.influence_strengths)
        for e, emotion in enumerate(EMOTIONS)
        for s, site in enumerate(vectors)
        for layer in range(bench.layout.n_layers)
    ]  # fmt: skip
    bench.run.save_table("influence", pd.DataFrame(rows))
    by_layer = found.mean(axis=(0, 1))
    return {
        "influence": {
            site.removesuffix("_out"): {
                "peak_layer": int(own.argmax()),
                "peak": float(own.max()),
                "last": float(own[-1]),
            }
            for site, own in zip(vectors, by_layer, strict=True)
        }
    }


def circuits(bench: Workbench) -> Fragment:
    """Assemble the six circuits, and random ones of their size; mark units that move the first token only."""
    fitted, c = Fitted(bench.run, bench.layout), bench.config
    found, changed = fitted.scores("mean"), fitted.scores("change")
    late = fitted.scores("late") if "late_z" in fitted.arrays else None
    share = bench.run.arrays("influence")["influence"].mean(axis=0)
    chosen: dict[Emotion, tuple[Component, ...]] = {}
    rows: list[dict[str, Any]] = []
    for e, emotion in enumerate(EMOTIONS):
        budgets = {}
        for s, kind in enumerate(("head", "neuron")):
            per_layer = _per_layer(bench.layout, kind)
            total, least = _share(c, kind).sizes(bench.layout.n_layers, per_layer)
            budgets[kind] = layer_budget(share[e, s], total=total, least=least, per_layer=per_layer)
        chosen[emotion] = circuit(
            found["head"][e], found["neuron"][e], head_budget=budgets["head"], neuron_budget=budgets["neuron"]
        )
        rows += [_unit_row(unit, e, found, changed, late) for unit in chosen[emotion]]
    frame: Any = pd.DataFrame(rows)
    bench.run.save_table("circuits", frame)
    between = jaccard({str(emotion): own for emotion, own in chosen.items()})
    random = random_circuits(chosen, bench.layout, number=c.random_circuits, seed=c.seed)
    return {
        "circuits": {
            "size": {kind: int((frame["kind"] == kind).sum() / len(EMOTIONS)) for kind in ("head", "neuron")},
            "first_token_only": None if late is None else float(frame["first_token_only"].mean()),
            "jaccard_mean": float(np.mean(list(between.values()))),
            "jaccard": {f"{one} and {other}": value for (one, other), value in between.items()},
            "random_overlap": float(
                np.mean([overlap(own[emotion], chosen[emotion]) for own in random.values() for emotion in EMOTIONS])
            ),
        }
    }


def _unit_row(
    unit: Component,
    e: int,
    found: Mapping[ComponentKind, Scores],
    changed: Mapping[ComponentKind, Scores],
    late: Mapping[ComponentKind, Scores] | None,
) -> dict[str, Any]:
    if unit.index is None:
        raise AssertionError("a circuit has heads and neurons")
    place = (e, unit.layer, unit.index)
    first = float(changed[unit.kind][place])
    after = None if late is None else float(late[unit.kind][place])
    return {
        "emotion": EMOTIONS[e], "unit": str(unit), "layer": unit.layer, "kind": unit.kind, "index": unit.index,
        "score": found[unit.kind][place], "change": first, "late_change": after,
        "first_token_only": None if after is None else first > 0 and after < FIRST_TOKEN * first,
    }  # fmt: skip


def random_circuits(
    chosen: Circuits, layout: Layout, *, number: int, seed: int
) -> dict[str, dict[Emotion, tuple[Component, ...]]]:
    """Random circuits of the size of the chosen ones, by name."""
    return {
        f"random-{n}": {emotion: random_circuit(chosen[emotion], layout, number=n, seed=seed) for emotion in EMOTIONS}
        for n in range(1, number + 1)
    }


def method_parts(bench: Workbench) -> Parts:
    """What the methods of the comparison are made of, from what the stages kept."""
    fitted, c = Fitted(bench.run, bench.layout), bench.config
    frame: Any = bench.run.table("circuits")
    chosen: dict[Emotion, tuple[Component, ...]] = {
        emotion: tuple(Component.parse(unit) for unit in frame.loc[frame["emotion"] == emotion, "unit"])
        for emotion in EMOTIONS
    }
    if not all(chosen.values()):
        raise UsageError(f"{bench.run.path}: table circuits lacks an emotion; delete stages/circuits.json")
    named: dict[str, Circuits] = {
        "modulation": chosen,
        **random_circuits(chosen, bench.layout, number=c.random_circuits, seed=c.seed),
        "other": {emotion: chosen[another(emotion)] for emotion in EMOTIONS},
    }
    sets = {"recipe": fitted.of("recipe")} | ({"late": fitted.of("late")} if "set_late" in fitted.arrays else {})
    return Parts(bench.layout, bench.loaded.weights_hash, sets, fitted.norms, fitted.units("change"), named)
