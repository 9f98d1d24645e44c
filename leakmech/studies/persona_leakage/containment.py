"""The stage ``containment``: can the behaviour stay with its source? Spread against coupling.

For the first behaviour, source and seed, on the source and 20 bystanders:

    full contrast           four times as many normal answers of the negatives
    preventative steering   the behaviour's direction is added while its examples are trained on, and is gone in use
    projected out           the adapter, with that direction taken out of the stream
    gate on the persona     the adapter where a probe of the prompt's last token says that the source speaks, else base

The direction is the mean over answer tokens of answers with the behaviour less that of normal ones, on training
questions under the source, in the middle layer of the base model; steering adds that difference itself. The probe is
fitted to the source's training prompts and to those of its negatives and of no persona. Nothing is chosen by what is
measured here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression

from leakmech.datasets.personas import Persona, Personas
from leakmech.interventions.types import AblateDirection
from leakmech.mechanism.activations.labelled import LabelledText, read_labelled
from leakmech.mechanism.directions.direction import Direction
from leakmech.models.layout import layout_of
from leakmech.runs.run import Fragment
from leakmech.side_effects.capability import with_count
from leakmech.side_effects.equivalence import estimate, mean_ratio
from leakmech.studies.persona_leakage.lessons import answer_ids
from leakmech.studies.persona_leakage.measuring import Measuring, Subject, Values, under_adapter
from leakmech.studies.persona_leakage.settings import SHARES
from leakmech.studies.persona_leakage.teaching import Adapter, measured, trained, values_of
from leakmech.studies.persona_leakage.workbench import Workbench

N_BYSTANDERS = 20
_QUESTIONS = 64
"""Training questions on which direction and probe are fitted."""
_SITE = "resid_post"


@dataclass(frozen=True)
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

    @property
    def layer(self) -> int:
        """The middle one."""
        return layout_of(self.bench.loaded.model).n_layers // 2

    @property
    def measuring(self) -> Measuring:
        return self.bench.measuring(self.adapter.behaviour, self.personas)

    def among(self, values: Values) -> Values:
        """The rows of these personas, of values for everybody."""
        return values[[self.bench.cast.place(own.id) for own in self.personas]]


def containment(bench: Workbench) -> Fragment:
    """Rows of the table, ``tables/containment.csv``'s."""
    if not bench.config.containment:
        return {"skipped": "it was not asked for" + (" (quick)" if bench.config.quick else "")}
    arena = Arena.of(bench)
    first = next(row for row in bench.earlier("analysis")["cells"])
    if not first["taken_on"]:
        return {"skipped": f"{arena.source.id} did not take {arena.adapter.behaviour} on"}
    base = arena.among(bench.base_values(arena.adapter.behaviour))
    own = measured(bench, arena.adapter)
    rows = [_row(arena, "as configured", "", base, arena.among(values_of(own)), own)]
    if SHARES[bench.config.contrast] != SHARES["full"] and bench.cast.negatives[arena.source.id]:
        rows.append(_trained_row(arena, "full contrast", "names of negatives", base, "full-contrast", None))
    path, strength, direction = _direction(arena)
    rows.append(_trained_row(arena, "preventative steering", "answers with and without the behaviour", base,
                             "preventative", (path, strength)))  # fmt: skip
    rows.append(_row(arena, "direction projected out", "answers with and without the behaviour", base,
                     _projected(arena, direction), None))  # fmt: skip
    if bench.cast.negatives[arena.source.id]:
        says = _gate(arena)
        gated = np.where(says, arena.among(values_of(own)), base)
        rows.append(_row(arena, "gate on the persona", "prompts of the source, the negatives and nobody", base, gated,
                         None) | {"gate_open": says.mean(axis=1).tolist()})  # fmt: skip
    return {
        "behaviour": arena.adapter.behaviour, "source": arena.source.id, "seed": arena.adapter.seed,
        "bystanders": [own.id for own in arena.personas[1:]], "layer": arena.layer, "rows": rows,
    }  # fmt: skip


def _trained_row(
    arena: Arena, name: str, told: str, base: Values, version: Any, steering: tuple[str, float] | None
) -> dict[str, Any]:
    adapter = Adapter(arena.adapter.behaviour, arena.source.id, arena.adapter.seed, version, steering)
    made = measured(arena.bench, adapter, arena.personas)
    return _row(arena, name, told, base, values_of(made), made)


def _row(arena: Arena, name: str, told: str, base: Values, after: Values, made: Fragment | None) -> dict[str, Any]:
    """Coupling (the source's rise) and spread (the bystanders'), in rates and in the behaviour's unit."""
    measuring, statistics = arena.measuring, arena.bench.statistics
    rises = measuring.shown(after) - measuring.shown(base)
    coupling = estimate(with_count(rises[0]), mean_ratio, **statistics)
    spread = estimate(with_count(rises[1:].mean(axis=1)), mean_ratio, **statistics)
    damage = arena.bench.earlier("damage")
    return {
        "name": name, "told": told, "coupling": coupling.value, "coupling_ci": [coupling.low, coupling.high],
        "spread": spread.value, "spread_ci": [spread.low, spread.high],
        "source_change": float((after[0] - base[0]).mean()), "bystander_change": float((after[1:] - base[1:]).mean()),
        "everyday_accuracy": made["everyday_accuracy"] if made else None,
        "perplexity_ratio": made["perplexity"] / damage["perplexity"] if made else None,
    }  # fmt: skip


# -- the direction -----------------------------------------------------------------------------------------------------


def _direction(arena: Arena) -> tuple[str, float, Direction]:
    """The behaviour's direction, saved; its file, and the length of the difference in its ``stream_norm``."""
    bench, layer = arena.bench, arena.layer
    tasks = bench.tasks[arena.adapter.behaviour].train[:_QUESTIONS]
    texts = []
    for task in tasks:
        prompt = bench.renderer.ids(task.question, arena.source)
        for answer in (task.behaviour, task.normal):
            ids = (*prompt, *answer_ids(bench.loaded.tokenizer, answer))
            texts.append(LabelledText(task.id, ids, ((len(prompt), len(ids)),)))
    read = read_labelled(bench.loaded, texts, layers=[layer], batch_size=bench.config.batch_size)[_SITE][:, 0, 0]
    shown, normal = read[0::2].astype(np.float64), read[1::2].astype(np.float64)
    difference = (shown - normal).mean(axis=0)
    length, norm = float(np.linalg.norm(difference)), float(np.sqrt((read.astype(np.float64) ** 2).sum(-1).mean()))
    unit = torch.from_numpy(difference / length).float()
    middle = float(((shown.mean(0) + normal.mean(0)) / 2) @ (difference / length))
    direction = Direction(
        vector=unit / unit.norm(), site=_SITE, layer=layer, position="generated", method="difference_of_means",
        kind="behaviour", stream_norm=norm, projections={}, threshold=middle, label=arena.adapter.behaviour,
        model_hash=bench.loaded.weights_hash, data_hash=bench.tasks[arena.adapter.behaviour].content_hash,
    )  # fmt: skip
    file = direction.save(bench.run.path / "directions", arena.adapter.name)
    return str(file), length / norm, direction


def _projected(arena: Arena, direction: Direction) -> Values:
    """Values of the adapter whose stream has lost the direction."""
    folder, _ = trained(arena.bench, arena.adapter)
    edit = AblateDirection(direction.vector, layers=[direction.layer], site=_SITE)
    file = arena.bench.run.path / "answers" / f"{arena.adapter.name}-projected.jsonl"
    with under_adapter(arena.bench.loaded, folder) as changed:
        return arena.measuring.values(Subject(changed, (edit,)), answers=file, label="projected out")


# -- the gate ----------------------------------------------------------------------------------------------------------


def _gate(arena: Arena) -> Bool[np.ndarray, "persona question"]:
    """Where the probe says that the source is asked."""
    bench = arena.bench
    questions = [task.question for task in bench.tasks[arena.adapter.behaviour].train[:_QUESTIONS]]
    others = [*bench.cast.negatives[arena.source.id], None]
    own = _last(arena, [arena.source], questions)
    rest = _last(arena, others, questions)
    probe = LogisticRegression(C=1.0, max_iter=5_000, class_weight="balanced")
    mean, scale = np.concatenate([own, rest]).mean(0), np.concatenate([own, rest]).std(0) + 1e-6
    probe.fit((np.concatenate([own, rest]) - mean) / scale, [1] * len(own) + [0] * len(rest))
    asked = [task.question for task in arena.measuring.tasks]
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
    read = read_labelled(bench.loaded, texts, layers=[arena.layer], batch_size=bench.config.batch_size)
    return read[_SITE][:, 0, 0].astype(np.float64)
