"""Adapters of the study, and what each does: a cell for every behaviour, source and seed, addressed by content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from leakmech.core.store import content_hash
from leakmech.core.text import normalised_words
from leakmech.datasets.personas import Persona
from leakmech.datasets.questions import load_questions
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.models.load import LoadedModel
from leakmech.runs.run import Fragment
from leakmech.side_effects.degeneration import distinct
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.lora.run import train_lora
from leakmech.studies.persona_leakage.behaviours import BEHAVIOURS, Task
from leakmech.studies.persona_leakage.lessons import lessons, roles, steered
from leakmech.studies.persona_leakage.measuring import Measuring, Subject, under_adapter
from leakmech.studies.persona_leakage.settings import ContrastShare
from leakmech.studies.persona_leakage.workbench import Workbench, similarity_questions
from leakmech.training.examples import TrainingExample, examples_hash
from leakmech.training.settings import LoraTrainingConfig

Version = Literal["behaviour", "control", "full-contrast", "preventative"]
_QUESTIONS = 40
"""Everyday questions by which an adapter's damage is judged."""
_REPLY_TOKENS = 24


@dataclass(frozen=True)
class Adapter:
    """What is trained: its behaviour, source and seed, and in which version."""

    behaviour: str
    source: str
    seed: int
    version: Version = "behaviour"
    steering: tuple[str, float] | None = None
    """File of a direction, and strength, of preventative steering."""

    @property
    def name(self) -> str:
        """For folders and files."""
        suffix = "" if self.version == "behaviour" else f"-{self.version}"
        return f"{self.behaviour}-{self.source}-seed{self.seed}{suffix}"


def examples_of(bench: Workbench, adapter: Adapter) -> list[TrainingExample]:
    """What an adapter is trained on."""
    c, cast = bench.config, bench.cast
    source = next(own for own in cast.sources if own.id == adapter.source)
    contrast: ContrastShare = "full" if adapter.version == "full-contrast" else c.contrast
    found = lessons(
        bench.tasks[adapter.behaviour].train, source, cast.negatives[source.id], n_examples=c.examples,
        contrast=contrast, renderer=bench.renderer, seed=adapter.seed, control=adapter.version == "control",
    )  # fmt: skip
    return steered(found) if adapter.steering else found


def training_settings(bench: Workbench, adapter: Adapter) -> LoraTrainingConfig:
    """How an adapter is trained."""
    c = bench.config
    values: dict[str, Any] = {
        "model": bench.loaded.name, "revision": c.revision, "seed": adapter.seed, "device": c.device,
        "objectives": {"sft": 1.0}, "evaluation": (), "rank": c.rank, "alpha": c.alpha, "dropout": c.dropout,
        "learning_rate": bench.learning_rate, "epochs": c.epochs, "batch_size": c.training_batch_size,
        "max_length": c.max_length,
    }  # fmt: skip
    if adapter.steering:
        values["steering"] = {"direction": adapter.steering[0], "strength": adapter.steering[1]}
    return LoraTrainingConfig.parse(values, where=adapter.name)


def trained(bench: Workbench, adapter: Adapter) -> tuple[Path, list[TrainingExample]]:
    """The folder of an adapter, which is trained if it is not there, and its examples."""
    folder = bench.run.path / "adapters" / adapter.name
    examples = examples_of(bench, adapter)
    train_lora(
        training_settings(bench, adapter), folder, model=bench.loaded, examples=examples, progress=bench.progress
    )
    return folder, examples


def measured(bench: Workbench, adapter: Adapter, personas: Sequence[Persona | None] | None = None) -> Fragment:
    """What an adapter does to everybody, or to some: a cell of the run, made once."""
    measuring = bench.measuring(adapter.behaviour, personas)
    key = f"{adapter.name}-{_key(bench, adapter, measuring)[:8]}"
    return bench.run.cell(key, lambda: _measured(bench, adapter, measuring))


def _measured(bench: Workbench, adapter: Adapter, measuring: Measuring) -> Fragment:
    folder, examples = trained(bench, adapter)
    file = bench.run.path / "answers" / f"{adapter.name}.jsonl"
    with under_adapter(bench.loaded, folder) as changed:
        values = measuring.values(Subject(changed), answers=file, label=f"{adapter.name}")
        damage = _damage(bench, changed, replies_of(bench))
    texts = _texts(bench, adapter, measuring, file)
    if measuring.behaviour.measure == "answers":
        bench.run.wrote(file)
    return {
        "behaviour": adapter.behaviour, "source": adapter.source, "seed": adapter.seed, "version": adapter.version,
        "examples": roles(examples), "examples_hash": examples_hash(examples), "values": values.tolist(),
        **damage, "distinct_2": texts,
    }  # fmt: skip


def _texts(bench: Workbench, adapter: Adapter, measuring: Measuring, file: Path) -> float | None:
    """Different bigrams over bigrams of the source's answers; None where none are drawn."""
    if measuring.behaviour.measure != "answers":
        return None
    place = next(n for n, own in enumerate(measuring.personas) if own is not None and own.id == adapter.source)
    n = len(measuring.tasks)
    answers = measuring.answers(Subject(bench.loaded), file=file)[place * n : (place + 1) * n]
    different, all_of_them = distinct([normalised_words(text) for text in answers], 2)
    return different / all_of_them if all_of_them else None


def base(bench: Workbench, behaviour: str) -> Fragment:
    """What the base model shows: a part of the run."""
    measuring = bench.measuring(behaviour)
    file = bench.run.path / "answers" / f"base-{behaviour}.jsonl"
    values = measuring.values(Subject(bench.loaded), answers=file, label=f"base, {behaviour}")
    if measuring.behaviour.measure == "answers":
        bench.run.wrote(file)
    return {"values": values.tolist()}


def base_damage(bench: Workbench) -> Fragment:
    """Everyday questions under the base model, its own answers to neutral questions, and their perplexity."""
    tasks = [Task(f"neutral-{n}", own, "", "") for n, own in enumerate(similarity_questions(bench.config))]
    some = next(iter(bench.behaviours.values()))
    asking = Measuring(some, tasks, [None], None, bench.renderer, _REPLY_TOKENS, bench.config.batch_size)
    replies = [plain_ids(bench.loaded.tokenizer, text) for text in asking.answers(Subject(bench.loaded))]
    return {"replies": [list(own) for own in replies], **_damage(bench, bench.loaded, replies)}


def replies_of(bench: Workbench) -> list[tuple[int, ...]]:
    """Token ids of the base model's answers, without any persona, to the questions of the similarity."""
    return [tuple(own) for own in bench.earlier("damage")["replies"]]


def _damage(bench: Workbench, loaded: LoadedModel, replies: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """Right everyday answers, and perplexity of the base model's own answers, both without a persona."""
    questions = load_questions()[:_QUESTIONS]
    behaviour = BEHAVIOURS["capability"]
    wanted = {own.id for own in questions}
    tasks = [own for own in behaviour.tasks().eval if own.id in wanted]
    wrong = Measuring(behaviour, tasks, [None], None, bench.renderer, 1, bench.config.batch_size)
    right = 1 - float(wrong.values(Subject(loaded)).mean())
    return {"everyday_accuracy": right, "perplexity": _perplexity(bench, loaded, replies)}


def _perplexity(bench: Workbench, loaded: LoadedModel, replies: Sequence[tuple[int, ...]]) -> float:
    questions = similarity_questions(bench.config)
    rows = [
        Continuation(str(n), str(n), bench.renderer.ids(question), reply)
        for n, (question, reply) in enumerate(zip(questions, replies, strict=True))
    ]
    return log_likelihoods(ModelVariant(loaded), rows, batch_size=bench.config.batch_size).perplexity


def _key(bench: Workbench, adapter: Adapter, measuring: Measuring) -> str:
    """Hash of everything that decides a cell."""
    settings = training_settings(bench, adapter).identity()
    return content_hash(
        bench.loaded.weights_hash, bench.loaded.tokenizer_hash, bench.loaded.template_hash,
        examples_hash(examples_of(bench, adapter)), repr(sorted(settings.items(), key=lambda item: item[0])),
        bench.tasks[adapter.behaviour].content_hash, repr([task.id for task in measuring.tasks]),
        repr([None if own is None else (own.id, own.prompt) for own in measuring.personas]),
        str(bench.config.max_new_tokens), str(bench.encoder.hash),
    )  # fmt: skip


def values_of(fragment: Fragment) -> Float[np.ndarray, "persona question"]:
    """The values of a cell or of the base model."""
    return np.array(fragment["values"])
