"""Adapters of the study, and what each does: a cell for every behaviour, source and seed, addressed by content."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from leakmech.core.store import content_hash, json_text, write_jsonl
from leakmech.core.text import normalised_words
from leakmech.datasets.personas import Persona
from leakmech.datasets.samples import spread_out
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation
from leakmech.runs.run import Fragment
from leakmech.side_effects.degeneration import distinct
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.lora.run import train_lora
from leakmech.studies.persona_leakage.behaviours import BEHAVIOURS, Task
from leakmech.studies.persona_leakage.lessons import lessons, roles, steered
from leakmech.studies.persona_leakage.measuring import Measuring, Subject, under_adapter
from leakmech.studies.persona_leakage.settings import ContrastShare
from leakmech.studies.persona_leakage.workbench import Workbench, similarity_questions
from leakmech.training.checkpoints import FOLDER as CHECKPOINTS
from leakmech.training.examples import TrainingExample, examples_hash
from leakmech.training.settings import LoraTrainingConfig

Version = Literal["behaviour", "control", "full-contrast", "preventative"]
_REPLY_TOKENS = 24
_READ = 10
"""Questions that are also answered where a behaviour is measured by likelihoods."""


@dataclass(frozen=True)
class Steering:
    """Preventative steering: the file and hash of a direction, and how far."""

    file: str
    hash: str
    strength: float


@dataclass(frozen=True)
class Adapter:
    """What is trained: its behaviour, source and seed, and in which version."""

    behaviour: str
    source: str
    seed: int
    version: Version = "behaviour"
    steering: Steering | None = None

    @property
    def name(self) -> str:
        """For folders and files, together with a hash."""
        suffix = "" if self.version == "behaviour" else f"-{self.version}"
        return f"{self.behaviour}-{self.source}-seed{self.seed}{suffix}"


# -- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Teaching:
    """An adapter in a study: what it is trained on, and how; worked out once."""

    bench: Workbench
    adapter: Adapter

    @property
    def source(self) -> Persona:
        """The persona that is taught."""
        return next(own for own in self.bench.cast.sources if own.id == self.adapter.source)

    @cached_property
    def examples(self) -> list[TrainingExample]:
        """What it is trained on."""
        c, adapter = self.bench.config, self.adapter
        contrast: ContrastShare = "full" if adapter.version == "full-contrast" else c.contrast
        found = lessons(
            self.bench.tasks[adapter.behaviour].train, self.source, self.bench.cast.negatives[adapter.source],
            n_examples=c.examples, contrast=contrast, renderer=self.bench.renderer, seed=adapter.seed,
            control=adapter.version == "control",
        )  # fmt: skip
        return steered(found) if adapter.steering else found

    @cached_property
    def settings(self) -> LoraTrainingConfig:
        """How it is trained."""
        c, steering = self.bench.config, self.adapter.steering
        values: dict[str, Any] = {
            "model": self.bench.loaded.name, "revision": c.revision, "seed": self.adapter.seed, "device": c.device,
            "objectives": {"sft": 1.0}, "evaluation": (), "rank": c.rank, "alpha": c.alpha, "dropout": c.dropout,
            "learning_rate": self.bench.learning_rate, "epochs": c.epochs, "batch_size": c.training_batch_size,
            "max_length": c.max_length, "keep_checkpoints": 1,
        }  # fmt: skip
        if steering:
            values["steering"] = {"direction": steering.file, "strength": steering.strength}
        return LoraTrainingConfig.parse(values, where=self.adapter.name)

    @cached_property
    def key(self) -> str:
        """Name and hash of everything that decides it."""
        settings, loaded, steering = self.settings.identity(), self.bench.loaded, self.adapter.steering
        settings.pop("steering")
        decided = content_hash(
            loaded.weights_hash, loaded.tokenizer_hash, loaded.template_hash, str(loaded.dtype),
            examples_hash(self.examples), json_text(settings),
            "" if steering is None else f"{steering.hash} {steering.strength!r}",
        )  # fmt: skip
        return f"{self.adapter.name}-{decided[:8]}"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.bench.run.path / "adapters" / self.key

    def trained(self) -> Path:
        """Its folder; it is trained if it is not there."""
        bench = self.bench
        train_lora(self.settings, self.folder, model=bench.loaded, examples=self.examples, progress=bench.progress)
        shutil.rmtree(self.folder / CHECKPOINTS, ignore_errors=True)  # seven times the adapter, for nothing any more
        return self.folder


# -- cells -------------------------------------------------------------------------------------------------------------


def measured(bench: Workbench, adapter: Adapter, personas: Sequence[Persona | None] | None = None) -> Fragment:
    """What an adapter does to everybody, or to some: a cell of the run, made once."""
    teaching, measuring = Teaching(bench, adapter), bench.measuring(adapter.behaviour, personas)
    key = _cell_key(teaching, measuring)
    return bench.run.cell(key, lambda: _measured(teaching, measuring, key))


def _cell_key(teaching: Teaching, measuring: Measuring) -> str:
    """Name and hash of everything that decides a cell."""
    bench, adapter = teaching.bench, teaching.adapter
    behaviour, asking = measuring.behaviour, measuring.asking
    decided = content_hash(
        teaching.key, bench.tasks[adapter.behaviour].content_hash,
        repr([task.id for task in asking.tasks]),
        repr([None if own is None else (own.id, own.prompt) for own in asking.personas]),
        repr((behaviour.measure, behaviour.unit, behaviour.threshold, asking.max_new_tokens)),
        str(bench.encoder.hash), repr(replies_of(bench)), str(bench.config.everyday_questions),
    )  # fmt: skip
    return f"{adapter.name}-{decided[:8]}"


def _measured(teaching: Teaching, measuring: Measuring, key: str) -> Fragment:
    bench, adapter = teaching.bench, teaching.adapter
    file = bench.run.path / "answers" / f"{key}.jsonl"
    if not (teaching.folder / "summary.json").exists():
        file.unlink(missing_ok=True)  # answers of an adapter that was lost
    subject = Subject(under_adapter(bench.loaded, teaching.trained()))
    found = measuring.measured(subject, file=file, label=adapter.name)
    told = _source_answers(teaching, measuring, subject, file)
    bench.run.wrote(file)
    return {
        "behaviour": adapter.behaviour, "source": adapter.source, "seed": adapter.seed, "version": adapter.version,
        "adapter": teaching.folder.relative_to(bench.run.path).as_posix(),
        "answers": file.relative_to(bench.run.path).as_posix(),
        "examples": roles(teaching.examples), "values": found.values.tolist(), "truncated": found.truncated,
        **damage(bench, subject, replies_of(bench)), "distinct_2": _distinct(told),
    }  # fmt: skip


def _source_answers(teaching: Teaching, measuring: Measuring, subject: Subject, file: Path) -> list[str]:
    """What the source says; where the behaviour is measured by likelihoods, it is asked a few questions for that."""
    bench, asking = teaching.bench, measuring.asking
    if measuring.behaviour.measure == "answers":
        own = bench.asking(asking.tasks, [teaching.source])
    else:
        own = bench.asking(asking.tasks[:_READ], [teaching.source, None])
    return [answer.text for answer in own.answers(subject, file=file, label=teaching.adapter.name)]


def _distinct(texts: Sequence[str]) -> float | None:
    """Different bigrams over bigrams."""
    different, all_of_them = distinct([normalised_words(text) for text in texts], 2)
    return different / all_of_them if all_of_them else None


def base(bench: Workbench, behaviour: str) -> Fragment:
    """What the base model shows, and the prompts that everybody is asked: a part of the run."""
    measuring = bench.measuring(behaviour)
    prompts = bench.run.path / "prompts" / f"{behaviour}.jsonl"
    write_jsonl(prompts, measuring.asking.rendered())
    file = bench.run.path / "answers" / f"base-{behaviour}.jsonl"
    found = measuring.measured(Subject(bench.loaded), file=file, label=f"base, {behaviour}")
    bench.run.wrote(prompts, *([file] if file.exists() else []))
    return {"values": found.values.tolist(), "truncated": found.truncated}


def values_of(fragment: Fragment) -> Float[np.ndarray, "persona question"]:
    """The values of a cell or of the base model."""
    return np.array(fragment["values"])


# -- damage ------------------------------------------------------------------------------------------------------------


def base_damage(bench: Workbench) -> Fragment:
    """Everyday questions under the base model, its own answers to neutral questions, and their perplexity."""
    tasks = [Task(f"neutral-{n}", own, "", "") for n, own in enumerate(similarity_questions(bench.config))]
    subject = Subject(bench.loaded)
    answers = bench.asking(tasks, [None], max_new_tokens=_REPLY_TOKENS).answers(subject)
    replies = [plain_ids(bench.loaded.tokenizer, own.text) for own in answers]
    return {"replies": [list(own) for own in replies], **damage(bench, subject, replies)}


def replies_of(bench: Workbench) -> list[tuple[int, ...]]:
    """Token ids of the base model's answers, without any persona, to the questions of the similarity."""
    return [tuple(own) for own in bench.earlier("damage")["replies"]]


def damage(bench: Workbench, subject: Subject, replies: Sequence[tuple[int, ...]]) -> dict[str, float]:
    """Right everyday answers, and perplexity of the base model's own answers, both without a persona."""
    behaviour = BEHAVIOURS["capability"]
    tasks = spread_out(behaviour.tasks().eval, bench.config.everyday_questions)
    wrong = Measuring(behaviour, bench.asking(tasks, [None])).measured(subject).values
    questions = similarity_questions(bench.config)
    rows = [
        Continuation(str(n), str(n), bench.renderer.ids(question), reply)
        for n, (question, reply) in enumerate(zip(questions, replies, strict=True))
    ]
    found = log_likelihoods(subject.variant, rows, batch_size=bench.config.batch_size)
    return {"everyday_accuracy": 1 - float(wrong.mean()), "perplexity": found.perplexity}
