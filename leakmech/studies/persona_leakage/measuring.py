"""How much personas show a behaviour, question by question, under one model.

Questions are asked under the system prompt of every persona. Answers are drawn greedily and kept; likelihoods are of
answers and choices after the rendered prompt, a pair or a question at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

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
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.persona_leakage.behaviours import Behaviour, Task
from leakmech.studies.persona_leakage.evaluators import Evaluator

Values = Float[np.ndarray, "persona question"]
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


@contextmanager
def under_adapter(loaded: LoadedModel, folder: Path) -> Iterator[LoadedModel]:
    """A copy of the model with the adapter: merged where weights have the digits for it."""
    adapted = load_adapter(loaded, folder)
    if loaded.dtype == torch.float32:
        peft: Any = adapted.model
        adapted = replace(adapted, model=peft.merge_and_unload())
    yield adapted


@dataclass(frozen=True)
class Measuring:
    """Asks the eval questions of a behaviour under personas; None among them stands for no persona."""

    behaviour: Behaviour
    tasks: Sequence[Task]
    personas: Sequence[Persona | None]
    evaluator: Evaluator | None
    renderer: PersonaRenderer
    max_new_tokens: int
    batch_size: int | str = "auto"
    progress: Progress = no_progress

    def values(self, subject: Subject, *, answers: Path | None = None, label: str = "") -> Values:
        """Values towards the behaviour; answers, where there are any, are kept in the file `answers`."""
        shape = (len(self.personas), len(self.tasks))
        if self.behaviour.measure == "answers":
            return self._of_answers(subject, answers, label).reshape(shape)
        if self.behaviour.measure == "pairs":
            return self._of_pairs(subject).reshape(shape)
        return self._of_choices(subject).reshape(shape)

    def shown(self, values: Values) -> Values:
        """1 where the behaviour shows, else 0."""
        return (values > self.behaviour.threshold).astype(float)

    # -- answers -----------------------------------------------------------------------------------------------------

    def _of_answers(self, subject: Subject, file: Path | None, label: str) -> Float[np.ndarray, " n"]:
        if self.evaluator is None:
            raise AssertionError(f"behaviour {self.behaviour.name!r}: answers need an evaluator")
        texts = self.answers(subject, file=file, label=label)
        questions = [task.question for _ in self.personas for task in self.tasks]
        return self.evaluator(questions, texts)

    def answers(self, subject: Subject, *, file: Path | None = None, label: str = "") -> list[str]:
        """What is answered, persona by persona; what stands in `file` is not asked again."""
        ids = [f"{_name(persona)}/{task.id}" for persona in self.personas for task in self.tasks]
        stored = mended_rows(file) if file is not None else []
        known = {str(row["id"]): str(row["text"]) for row in stored}

        def keep(ended: list[Generation]) -> None:
            rows = [
                {"id": own.prompt_id, "text": own.text, "n_tokens": len(own.tokens), "finish_reason": own.finish_reason}
                for own in ended
            ]
            known.update({row["id"]: row["text"] for row in rows})
            if file is not None:
                append_jsonl(file, rows)

        missing = [Row(id, 0, own) for id, own in zip(ids, self.prompts, strict=True) if id not in known]
        if missing:
            decoding = replace(GREEDY, max_new_tokens=self.max_new_tokens)
            loaded = subject.loaded
            with apply(loaded, subject.interventions) if subject.interventions else nullcontext() as applied:
                generate(
                    HFEngine.of(loaded), missing, decoding, batch_size=self.batch_size, applied=applied, keep=keep,
                    progress=self.progress, label=label or "answers", n_before=len(ids) - len(missing),
                )  # fmt: skip
        return [known[id] for id in ids]

    @cached_property
    def prompts(self) -> list[tuple[int, ...]]:
        """Token ids of every question under every persona."""
        return [self.renderer.ids(task.question, persona) for persona in self.personas for task in self.tasks]

    # -- likelihoods -------------------------------------------------------------------------------------------------

    def _of_pairs(self, subject: Subject) -> Float[np.ndarray, " n"]:
        found = self._likelihoods(subject, lambda task: (task.behaviour, task.normal))
        each = (found.log_likelihood / found.n_tokens).reshape(-1, 2)
        return each[:, 0] - each[:, 1]

    def _of_choices(self, subject: Subject) -> Float[np.ndarray, " n"]:
        found = self._likelihoods(subject, lambda task: task.choices)
        scores = found.log_likelihood.reshape(len(self.prompts), -1)
        right = [task.choices.index(task.normal) for _ in self.personas for task in self.tasks]
        best = scores == scores.max(axis=1, keepdims=True)
        return 1 - best[np.arange(len(best)), right] / best.sum(axis=1)

    def _likelihoods(self, subject: Subject, texts_of: Callable[[Task], Sequence[str]]) -> Likelihoods:
        tokenizer = self.renderer.tokenizer
        asked = [(persona, task) for persona in self.personas for task in self.tasks]
        rows = [
            Continuation(f"{_name(persona)}/{task.id}/{number}", task.id, prompt, plain_ids(tokenizer, text))
            for (persona, task), prompt in zip(asked, self.prompts, strict=True)
            for number, text in enumerate(texts_of(task))
        ]
        return log_likelihoods(
            subject.variant, rows, share_prompts=True, batch_size=self.batch_size, progress=self.progress
        )


def _name(persona: Persona | None) -> str:
    return persona.id if persona is not None else "none"
