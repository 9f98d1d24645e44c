"""The stage ``containment``: can the behaviour stay with its source? Spread against coupling.

For the first behaviour, source and seed, on the source and 20 bystanders:

    control                 normal answers only
    full contrast           four times as many normal answers of the negatives
    preventative steering   the behaviour's direction is added, at every token, while its examples are trained on, and
                            is gone in use
    projected out           the adapter; while it answers, the stream of every layer from the middle on has the
                            projection that normal answers have
    gate on the persona     the adapter where a probe of the prompt's last token says that the source speaks, else base

The directions are, layer by layer, means over answer tokens of answers with the behaviour less normal ones, on training
questions under the source, in the base model; steering adds that difference itself, in the middle layer. The probe is
fitted to the source's training prompts and to those of its negatives and of no persona, in the middle layer. Nothing is
chosen by what is measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

from leakmech.core.tensor_files import tensor_files
from leakmech.datasets.personas import Persona, Personas
from leakmech.interventions.types import AblateDirection
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.hashes import hash_tensor
from leakmech.models.layout import layout_of
from leakmech.runs.run import Fragment
from leakmech.studies.persona_leakage.lessons import answer_ids
from leakmech.studies.persona_leakage.measuring import Measuring, Subject, Values, under_adapter
from leakmech.studies.persona_leakage.settings import SHARES
from leakmech.studies.persona_leakage.teaching import (
    Adapter,
    Steering,
    Teaching,
    damage,
    measured,
    replies_of,
    values_of,
)
from leakmech.studies.persona_leakage.workbench import MODEL_DEFAULT, Workbench

N_BYSTANDERS = 20
_QUESTIONS = 64
"""Training questions on which directions and probe are fitted."""
_SITE = "resid_post"
_TOLD = "answers with and without the behaviour"


@dataclass(frozen=True, eq=False)
class Arena:
    """The adapter that is to be contained, and on whom that is judged."""

    bench: Workbench
    adapter: Adapter
    source: Persona
    personas: tuple[Persona, ...]
    """The source first."""

    @classmethod
    def of(cls, bench: Workbench) -> Arena:
        """The first behaviour, source and seed."""
        source = bench.cast.sources[0]
        kept = bench.cast.kept(source.id)
        rest = Personas("bystanders", tuple(o for o, k in zip(bench.cast.everybody, kept, strict=True) if k))
        adapter = Adapter(next(iter(bench.behaviours)), source.id, bench.seeds[0])
        return cls(bench, adapter, source, (source, *rest.spread(N_BYSTANDERS)))

    @cached_property
    def teaching(self) -> Teaching:
        """How the adapter is made, and its key."""
        return Teaching(self.bench, self.adapter)

    @property
    def layers(self) -> range:
        """From the middle on."""
        n_layers = layout_of(self.bench.loaded.model).n_layers
        return range(n_layers // 2, n_layers)

    @property
    def measuring(self) -> Measuring:
        return self.bench.measuring(self.adapter.behaviour, self.personas)

    def among(self, values: Values) -> Values:
        """The rows of these personas, of values for everybody."""
        return values[[self.bench.cast.place(own.id) for own in self.personas]]


def containment(bench: Workbench) -> Fragment:
    """Rows of the table."""
    if not bench.config.containment:
        return {"skipped": "it was not asked for" + (" (quick)" if bench.config.quick else "")}
    arena = Arena.of(bench)
    if not bench.earlier("analysis")["cells"][0]["taken_on"]:
        return {"skipped": f"{arena.source.id} did not take {arena.adapter.behaviour} on"}
    own, behaviour = arena.adapter, arena.adapter.behaviour
    base, taught = arena.among(bench.base_values(behaviour)), measured(bench, own)
    control = measured(bench, Adapter(behaviour, own.source, own.seed, "control"))
    after = arena.among(values_of(taught))
    rows = [
        _row(arena, "as configured", "", base, after, taught),
        _row(arena, "control", "", base, arena.among(values_of(control)), control),
    ]
    negatives = bench.cast.negatives[arena.source.id]
    if negatives and bench.config.contrast != "full":
        made = measured(bench, Adapter(behaviour, own.source, own.seed, "full-contrast"), arena.personas)
        told = f"{SHARES['full'][0]:g} normal answers an example"
        rows.append(_row(arena, "full contrast", told, base, values_of(made), made))
    steering = Steering(**bench.run.part(f"direction-{arena.teaching.key}", lambda: _fit(arena)))
    made = measured(bench, Adapter(behaviour, own.source, own.seed, "preventative", steering), arena.personas)
    rows.append(_row(arena, "preventative steering", _TOLD, base, values_of(made), made))
    key = f"{arena.teaching.key}-projected"
    made = bench.run.cell(key, lambda: _projected(arena, key))
    rows.append(_row(arena, "direction projected out", _TOLD, base, values_of(made), made))
    if negatives:
        opened = _gate(arena)
        gated = np.where(opened, after, base)
        told = "prompts of the source, the negatives and nobody"
        row = _row(arena, "gate on the persona", told, base, gated, None)
        rows.append(row | {"gate_open": opened.mean(axis=1).tolist()})
    return {
        "behaviour": behaviour, "source": arena.source.id, "seed": own.seed,
        "bystanders": [one.id for one in arena.personas[1:]], "layer": arena.layers[0], "rows": rows,
    }  # fmt: skip


def _row(arena: Arena, name: str, told: str, base: Values, after: Values, made: Fragment | None) -> dict[str, Any]:
    """Coupling (the source's rise) and spread (the bystanders'), in rates and in the behaviour's unit."""
    bench, measuring = arena.bench, arena.measuring
    rises = measuring.shown(after) - measuring.shown(base)
    coupling, spread = bench.mean_of(rises[0]), bench.mean_of(rises[1:].mean(axis=1))
    before = bench.earlier("damage")
    return {
        "name": name, "told": told, **coupling.named("coupling"), **spread.named("spread"),
        "source_change": float((after[0] - base[0]).mean()), "bystander_change": float((after[1:] - base[1:]).mean()),
        "everyday_accuracy": made["everyday_accuracy"] if made else None,
        "perplexity_ratio": made["perplexity"] / before["perplexity"] if made else None,
    }  # fmt: skip


# -- directions --------------------------------------------------------------------------------------------------------


def _fit(arena: Arena) -> Fragment:
    """Directions of the behaviour; what preventative steering takes, with the middle one in a file."""
    bench, layers = arena.bench, arena.layers
    tasks = bench.tasks[arena.adapter.behaviour].train[:_QUESTIONS]
    texts = []
    for task in tasks:
        prompt = bench.renderer.ids(task.question, arena.source)
        for answer in (task.behaviour, task.normal):
            ids = (*prompt, *answer_ids(bench.loaded.tokenizer, answer))
            texts.append(LabelledText(task.id, ids, ((len(prompt), len(ids)),)))
    read = read_labelled(bench.loaded, texts, layers=layers, batch_size=bench.config.batch_size)[_SITE][:, 0]
    shown, normal = read[0::2].astype(np.float64), read[1::2].astype(np.float64)
    difference = (shown - normal).mean(axis=0)
    lengths = np.linalg.norm(difference, axis=1)
    vectors = difference / lengths[:, None]
    set_points = (normal.mean(axis=0) * vectors).sum(axis=1)
    name = arena.teaching.key
    bench.run.save_arrays(f"directions-{name}", vectors=vectors.astype(np.float32), set_points=set_points)
    norm = float(np.sqrt((read[:, 0].astype(np.float64) ** 2).sum(-1).mean()))
    unit = torch.from_numpy(vectors[0]).float()
    direction = Direction(
        vector=unit / unit.norm(), site=_SITE, layer=layers[0], position="generated", method="difference_of_means",
        kind="behaviour", stream_norm=norm, projections={},
        threshold=float((shown[:, 0].mean(0) + normal[:, 0].mean(0)) @ vectors[0] / 2), label=arena.adapter.behaviour,
        model_hash=bench.loaded.weights_hash, data_hash=bench.tasks[arena.adapter.behaviour].content_hash,
    )  # fmt: skip
    file = direction.save(bench.run.path.resolve() / "directions", name)
    bench.run.wrote(*tensor_files(file))
    return {"file": str(file), "hash": hash_tensor(direction.vector), "strength": round(float(lengths[0]) / norm, 6)}


def _projected(arena: Arena, key: str) -> Fragment:
    """Values and damage of the adapter whose stream has the projections of normal answers while it answers."""
    bench = arena.bench
    known = bench.run.arrays(f"directions-{arena.teaching.key}")
    vectors = torch.nn.functional.normalize(torch.from_numpy(known["vectors"]), dim=-1)
    edit = AblateDirection(
        vectors, layers=list(arena.layers), site=_SITE, set_point=known["set_points"].tolist(), positions="generated"
    )
    subject = Subject(under_adapter(bench.loaded, arena.teaching.trained()), (edit,))
    file = bench.run.path / "answers" / f"{key}.jsonl"
    found = arena.measuring.measured(subject, file=file, label="projected out")
    if file.exists():
        bench.run.wrote(file)
    return {"values": found.values.tolist(), **damage(bench, subject, replies_of(bench))}


# -- the gate ----------------------------------------------------------------------------------------------------------


def _gate(arena: Arena) -> Bool[np.ndarray, "persona question"]:
    """Where the probe says that the source is asked."""
    bench = arena.bench
    questions = [task.question for task in bench.tasks[arena.adapter.behaviour].train[:_QUESTIONS]]
    nobody = [] if arena.source.id == MODEL_DEFAULT else [None]
    own = _last(arena, [arena.source], questions)
    rest = _last(arena, [*bench.cast.negatives[arena.source.id], *nobody], questions)
    probe = LogisticRegression(C=1.0, max_iter=5_000, class_weight="balanced")
    mean, scale = np.concatenate([own, rest]).mean(0), np.concatenate([own, rest]).std(0) + 1e-6
    probe.fit((np.concatenate([own, rest]) - mean) / scale, [1] * len(own) + [0] * len(rest))
    asked = [task.question for task in arena.measuring.asking.tasks]
    found = np.asarray(probe.predict((_last(arena, arena.personas, asked) - mean) / scale))
    return found.reshape(len(arena.personas), len(asked)).astype(bool)


def _last(arena: Arena, personas: Sequence[Persona | None], questions: Sequence[str]) -> Float[np.ndarray, "n d_model"]:
    """The base model's stream at the last token of every prompt, in the middle layer."""
    bench = arena.bench
    texts = [
        LabelledText.at_last(f"{n}", bench.renderer.ids(question, persona))
        for persona in personas
        for n, question in enumerate(questions)
    ]
    read = read_labelled(bench.loaded, texts, layers=arena.layers[:1], batch_size=bench.config.batch_size)
    return read[_SITE][:, 0, 0].astype(np.float64)
