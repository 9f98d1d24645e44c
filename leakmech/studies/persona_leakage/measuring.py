"""How much personas show a behaviour, question by question, under one model.

Questions are asked under the system prompt of every persona. Answers are drawn greedily and kept; likelihoods are of
answers and choices after the rendered prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import append_jsonl, mended_rows
from leakmech.datasets.personas import Persona
from leakmech.generation.decode import Generation, Row
from leakmech.generation.decoding import Decoding
from leakmech.generation.engine import generate
from leakmech.generation.hf_engine import HFEngine
from leakmech.generation.likelihood import Likelihoods, log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.interventions.base import Intervention
from leakmech.interventions.hooks import apply
from leakmech.models.load import LoadedModel, load_adapter
from leakmech.prompts.persona import PersonaRenderer
from leakmech.side_effects.capability import Capability
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.persona_leakage.behaviours import Behaviour, Task
from leakmech.studies.persona_leakage.evaluators import Evaluator

Values = Float[np.ndarray, "persona question"]
NOBODY = "none"
"""Stands for no persona in ids."""
GREEDY = Decoding(temperature=0.0, top_k=0, top_p=1.0, repetition_penalty=1.0)


@dataclass(frozen=True)
class Subject:
    """A model that is measured, with what changes it while it runs."""

    loaded: LoadedModel
    interventions: tuple[Intervention, ...] = ()

    @property
    def variant(self) -> ModelVariant:
        """For likelihoods."""
        change = partial(apply, self.loaded, self.interventions) if self.interventions else None
        return ModelVariant(self.loaded, change)


def under_adapter(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """A copy of the model with the adapter; merged in where the model is in float32, which takes less time.

    In shorter formats most of what an adapter adds to a weight is less than half a step, and would be lost.
    """
    adapted = load_adapter(loaded, folder)
    if loaded.dtype != torch.float32:
        return adapted
    peft: Any = adapted.model
    return replace(adapted, model=peft.merge_and_unload(), folder=None)


class Answer(NamedTuple):
    """What was said, and whether it was cut off at the longest length."""

    text: str
    truncated: bool


@dataclass(frozen=True)
class Asking:
    """Questions under personas; None among these stands for no persona."""

    tasks: Sequence[Task]
    personas: Sequence[Persona | None]
    renderer: PersonaRenderer
    max_new_tokens: int
    batch_size: int | str = "auto"
    progress: Progress = no_progress

    @property
    def asked(self) -> list[tuple[Persona | None, Task]]:
        """Every question under every persona, persona by persona."""
        return [(persona, task) for persona in self.personas for task in self.tasks]

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        """Their token ids."""
        return [self.renderer.ids(task.question, persona) for persona, task in self.asked]

    def rendered(self) -> Iterator[dict[str, Any]]:
        """Their texts, as the model reads them."""
        for persona, task in self.asked:
            own = self.renderer.render(task.question, persona)
            head = {"id": _id(persona, task), "persona": own.persona, "question": own.question}
            yield {**head, "system": own.system, "place": own.place, "rendered": own.rendered}

    def answers(self, subject: Subject, *, file: Path | None = None, label: str = "answers") -> list[Answer]:
        """What is answered; what stands in `file` is not asked again, and what is new goes there."""
        ids = [_id(persona, task) for persona, task in self.asked]
        known = {str(row["id"]): _answer(row) for row in (mended_rows(file) if file is not None else [])}

        def keep(ended: list[Generation]) -> None:
            rows = [
                {"id": own.prompt_id, "text": own.text, "n_tokens": len(own.tokens), "finish_reason": own.finish_reason}
                for own in ended
            ]
            known.update({row["id"]: _answer(row) for row in rows})
            if file is not None:
                append_jsonl(file, rows)

        missing = [Row(id, 0, own) for id, own in zip(ids, self.prompts, strict=True) if id not in known]
        if missing:
            decoding = replace(GREEDY, max_new_tokens=self.max_new_tokens)
            loaded = subject.loaded
            with apply(loaded, subject.interventions) if subject.interventions else nullcontext() as applied:
                generate(
                    HFEngine.of(loaded), missing, decoding, batch_size=self.batch_size, applied=applied, keep=keep,
                    progress=self.progress, label=label, n_before=len(ids) - len(missing),
                )  # fmt: skip
        return [known[id] for id in ids]


def _id(persona: Persona | None, task: Task) -> str:
    return f"{persona.id if persona is not None else NOBODY}/{task.id}"


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(str(row["text"]), row["finish_reason"] == "length")


@dataclass(frozen=True)
class Measured:
    """Values towards the behaviour, and the share of each persona's answers that were cut off, where any are drawn."""

    values: Values
    truncated: list[float] | None = None


@dataclass(frozen=True)
class Measuring:
    """Measures a behaviour by the questions of an :class:`Asking`."""

    behaviour: Behaviour
    asking: Asking
    evaluator: Evaluator | None = None

    def measured(self, subject: Subject, *, file: Path | None = None, label: str = "answers") -> Measured:
        """Ask and evaluate; answers, where there are any, are kept in `file`."""
        shape = (len(self.asking.personas), len(self.asking.tasks))
        if self.behaviour.measure == "pairs":
            return Measured(self._of_pairs(subject).reshape(shape))
        if self.behaviour.measure == "choices":
            return Measured(self._of_choices(subject).reshape(shape))
        if self.evaluator is None:
            raise AssertionError(f"behaviour {self.behaviour.name!r}: answers need an evaluator")
        answers = self.asking.answers(subject, file=file, label=label)
        questions = [task.question for _, task in self.asking.asked]
        values = self.evaluator(questions, [own.text for own in answers])
        cut = np.array([own.truncated for own in answers], dtype=float).reshape(shape).mean(axis=1)
        return Measured(np.asarray(values, dtype=float).reshape(shape), cut.tolist())

    def shown(self, values: Values) -> Values:
        """1 where the behaviour shows, else 0."""
        return (values > self.behaviour.threshold).astype(float)

    def _of_pairs(self, subject: Subject) -> Float[np.ndarray, " n"]:
        found = self._likelihoods(subject, lambda task: (task.behaviour, task.normal))
        each = (found.log_likelihood / found.n_tokens).reshape(-1, 2)
        return each[:, 0] - each[:, 1]

    def _of_choices(self, subject: Subject) -> Float[np.ndarray, " n"]:
        found, asked = self._likelihoods(subject, lambda task: task.choices), self.asking.asked
        scores = found.log_likelihood.reshape(len(asked), -1)
        right = np.array([task.choices.index(task.normal) for _, task in asked])
        return 1 - Capability(tuple(task.id for _, task in asked), scores, right).correct

    def _likelihoods(self, subject: Subject, texts_of: Callable[[Task], Sequence[str]]) -> Likelihoods:
        """Of every text after its question; a GPU is faster with many rows, a CPU with fewer tokens."""
        asking = self.asking
        rows = [
            Continuation(f"{_id(persona, task)}/{n}", task.id, prompt, plain_ids(asking.renderer.tokenizer, text))
            for (persona, task), prompt in zip(asking.asked, asking.prompts, strict=True)
            for n, text in enumerate(texts_of(task))
        ]
        return log_likelihoods(
            subject.variant, rows, share_prompts=subject.loaded.device.type == "cpu", batch_size=asking.batch_size,
            progress=asking.progress,
        )  # fmt: skip
