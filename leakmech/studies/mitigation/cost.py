"""What a comparison costs before it starts: answers that it draws and tokens that it reads, and the time that takes.

Here a pass through the model is timed, and a drawn token counts as much as three that are read. For a model on
one GPU the formula of :mod:`leakmech.models.cost` is used, of which nothing was measured. Counts are rough: expect both
within a factor of two or three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakmech.datasets.facts import load_facts
from leakmech.datasets.samples import load_dataset
from leakmech.models.cost import (
    DECODED,
    NEW_TOKENS,
    PROMPT_TOKENS,
    SCORED,
    SHAPES,
    Shape,
    Work,
    cost,
    seconds_per_token,
)
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.reports.tables import Table
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.diagnosis.cost import token_passes
from leakmech.studies.lora.cost import TRAINED
from leakmech.studies.mitigation.adapters import AdapterFamily
from leakmech.studies.mitigation.cells import ARRANGED_CONDITIONS
from leakmech.studies.mitigation.families import BASELINES, families_of
from leakmech.studies.mitigation.family import Family
from leakmech.studies.mitigation.own_diagnosis import aexl_sizes, settings_of
from leakmech.studies.mitigation.random_baselines import RANDOM
from leakmech.studies.mitigation.settings import OWN, MitigateConfig

ON_ONE_GPU = ("Llama-3.2-1B", "Qwen2.5-1.5B")
_ANSWER, _COMPLETION, _FACT = 20, 26, 120  # tokens of an answer, of stem and completion, of a question's choices
_DAMAGE = 40_000  # tokens that the suite of side effects reads
_ARRANGED = 5  # rows that are measured in other arrangements
_DIAGNOSIS_SECONDS, _CELL_SECONDS = 100.0, 4.0
"""What takes as long with few samples: building AEXL, figures and a page; scoring, bootstrap and files of a cell (two
CPU cores, 2026-11-29)."""


@dataclass(frozen=True)
class Part:
    """One part of a comparison."""

    name: str
    cells: int
    answers: int
    """Answers that are drawn."""
    read: int
    """Tokens that are read beside the prompts of these answers."""

    @property
    def passes(self) -> int:
        """Tokens that are read, or cost as much."""
        return self.answers * _ANSWER * DECODED + self.read

    def minutes(self, per_token: float) -> float:
        """How long it takes at so many seconds a token."""
        fixed = _DIAGNOSIS_SECONDS if self.name == "diagnosis" else _CELL_SECONDS
        return (self.passes * per_token + self.cells * fixed) / 60


def planned(
    config: MitigateConfig, families: Sequence[Family], *, given: int, loaded: LoadedModel | Shape
) -> list[Part]:
    """Count what each part of a comparison draws and reads, from nothing on."""
    conditions = len(BenchConfig.model_fields["conditions"].default)
    leaking = len(load_dataset(config.dataset).take(config.limit))
    relevant = [len(load_dataset(name).take(config.relevant_limit)) for name in config.relevant]
    asked = len(load_facts(config.facts)) // 2
    facts = asked * _FACT

    def part(name: str, cells: int, samples: int, kept: Sequence[int], generations: int, *, more: int) -> Part:
        answers = generations * (samples * conditions + 2 * sum(kept))
        return Part(name, cells, cells * answers, cells * more)

    def tilt(samples: int) -> int:
        return round(samples * conditions * config.tilt_completions * _COMPLETION * SCORED)

    parts = []
    if config.diagnosis == OWN:
        c, n = settings_of(config, "fit", None), {**aexl_sizes(config), "test": leaking}
        sized = loaded if isinstance(loaded, Shape) else layout_of(loaded.model)
        parts.append(Part("diagnosis", 1, 0, round(sum(token_passes(c, sized, n).values()))))
    if trained := [one for one in families if isinstance(one, AdapterFamily)]:
        parts.append(Part("adapters", len(trained), 0, TRAINED * sum(one.n_seen for one in trained)))
    tested = len(families) + given + 2 + (len(BASELINES) if families and config.baselines else 0)
    if any(one.is_choice for one in families):
        members, few = 1 + sum(len(one.strengths) for one in families), config.tune_samples
        parts.append(part("tune", members, 2 * few, [few], config.tune_generations, more=tilt(2 * few) + facts))
    more = tilt(leaking) + min(asked, config.facts_limit or asked) * _FACT + (0 if config.quick else _DAMAGE)
    parts.append(part("test", tested, leaking, relevant, config.generations, more=more))
    kinds = {one.follows for one in RANDOM} & {one.name for one in families}
    if kinds and config.baselines:
        drawn = len(kinds) * config.random_draws
        parts.append(part("random draws", drawn, leaking, relevant[:1], config.generations, more=tilt(leaking)))
    if config.claimed:
        again = (len(config.claimed) + 2) * (config.seeds - 1)
        parts.append(part("claimed, other seeds", again, leaking, relevant, config.generations, more=0))
    if config.arrangements:
        rows = len(config.arrangements) * (_ARRANGED if families else tested)
        answers = rows * leaking * len(ARRANGED_CONDITIONS) * config.generations
        parts.append(Part("other arrangements", rows, answers, 0))
    return parts


def estimate(parts: Sequence[Part], loaded: LoadedModel) -> str:
    """A line that says how long everything will take on this machine, roughly."""
    each = seconds_per_token(loaded)
    told = ", ".join(f"{part.name} {part.minutes(each):.1f}" for part in parts)
    total = sum(part.minutes(each) for part in parts)
    return f"about {total:.0f} minutes here from the beginning, by the time of one pass ({told})"


def cost_table(parts: Sequence[Part], loaded: LoadedModel) -> Table:
    """What each part draws, reads and takes here, and what everything takes for two models on one GPU."""
    each = seconds_per_token(loaded)
    rows = [
        (part.name, f"{part.cells:,}", f"{part.answers:,}", f"{part.read:,}", f"{part.minutes(each):.1f}")
        for part in parts
    ]
    answers, read = sum(part.answers for part in parts), sum(part.read for part in parts)
    cells = sum(part.cells for part in parts)
    minutes = sum(part.minutes(each) for part in parts)
    rows.append(("all", f"{cells:,}", f"{answers:,}", f"{read:,}", f"{minutes:.1f}"))
    notes = [
        f"here: {loaded.name} on {loaded.device}, by the time of one pass of 512 tokens; rough counts, nothing was run"
    ]
    for name in ON_ONE_GPU:
        found = cost(SHAPES[name], answers + read // (PROMPT_TOKENS + NEW_TOKENS), answers)
        notes.append(
            f"{name}-Instruct on one H100 in bfloat16: about {found.seconds / 60:.0f} minutes, "
            f"{found.memory / 1e9:.0f} GB (formula, not measured)"
        )
    return Table("What this comparison costs", ("part", "cells", "answers", "tokens read", "minutes here"), rows, notes)


_DISK, _DISK_ANSWER = 30e6, 1_100
"""Bytes of tables, fitted parts and the page; of an answer and its scores."""


def work_of(config: MitigateConfig, shape: Shape) -> Work:
    """What a comparison has a model do, families that its prompts cannot take included; no model is loaded."""
    families, _ = families_of(config)
    parts = planned(config, families, given=len(config.adapters) + len(config.interventions), loaded=shape)
    answers = sum(part.answers for part in parts)
    copies = 2.0 if any(part.name == "adapters" for part in parts) else 1.0
    return Work(sum(part.passes for part in parts), answers, _DISK + answers * _DISK_ANSWER, copies)
