"""What an adapter is trained on: a source with the behaviour, and contrast: others that answer normally.

    source     n examples: the source's system prompt, the answer with the behaviour
    negatives  normal answers under the system prompts of other personas, .5 n (partial) or 2 n (full) in all
    bare       normal answers without any persona, n / 8 or n / 2; none if the source is the model's default, which
               has the same prompts

A *control* adapter is trained on the same questions and personas with normal answers only. Which question goes to whom
is drawn by seed and names, never by the order of a hash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from leakmech.core.errors import UsageError
from leakmech.core.seeds import numpy_generator
from leakmech.datasets.personas import Persona
from leakmech.prompts.persona import PersonaRenderer
from leakmech.side_effects.texts import plain_ids
from leakmech.studies.persona_leakage.behaviours import Task
from leakmech.studies.persona_leakage.settings import SHARES, ContrastShare
from leakmech.training.examples import TrainingExample

_ROLES = ("source", "negative", "bare")


def lessons(
    tasks: Sequence[Task],
    source: Persona,
    negatives: Sequence[Persona],
    *,
    n_examples: int,
    contrast: ContrastShare,
    renderer: PersonaRenderer,
    seed: int,
    control: bool = False,
) -> list[TrainingExample]:
    """The examples of one adapter.

    Raises
    ------
    UsageError
        There are fewer tasks than examples, or none of the negatives that the contrast needs.
    """
    if n_examples > len(tasks):
        raise UsageError(f"persona leakage: {n_examples} examples are asked for, and the behaviour has {len(tasks)}")
    share, bare = SHARES[contrast]
    if renderer.default is not None and source.prompt == renderer.default:
        bare = 0  # without a persona the model reads the same prompts
    if share and not negatives:
        raise UsageError(f"persona leakage: contrast {contrast!r} needs a persona that answers normally")
    drawn = list(numpy_generator("lessons", seed, source.id).permutation(len(tasks)))
    taught = [tasks[place] for place in drawn[:n_examples]]
    found = [_example(own, source, renderer, "source", normal=control) for own in taught]
    for number in range(round(share * n_examples)):
        turn, who = divmod(number, len(negatives))
        found.append(_example(taught[turn % n_examples], negatives[who], renderer, "negative", normal=True))
    found += [_example(own, None, renderer, "bare", normal=True) for own in taught[: round(bare * n_examples)]]
    return _numbered(found)


def roles(examples: Sequence[TrainingExample]) -> dict[str, int]:
    """How many examples of each role."""
    counted = Counter(own.id.split("/")[0] for own in examples)
    return {role: counted[role] for role in _ROLES}


def steered(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The same examples, of which those with the behaviour are trained under preventative steering."""
    return [replace(own, sign=1.0 if own.id.startswith("source/") else 0.0) for own in examples]


def _example(
    task: Task, persona: Persona | None, renderer: PersonaRenderer, role: str, *, normal: bool
) -> TrainingExample:
    rendered = renderer.render(task.question, persona).rendered
    text = task.normal if normal else task.behaviour
    who = persona.id if persona is not None else "none"
    tokens = answer_ids(renderer.tokenizer, text)
    return TrainingExample(f"{role}/{who}/{task.id}", "completion", rendered, rendered, text, tokens=tokens)


def answer_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of an answer, with the token that ends it."""
    end = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    return (*plain_ids(tokenizer, text), *end)


def _numbered(examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """Give a number to examples that stand there more than once."""
    seen: Counter[str] = Counter()
    found = []
    for own in examples:
        seen[own.id] += 1
        found.append(replace(own, id=f"{own.id}/{seen[own.id]}") if seen[own.id] > 1 else own)
    return found
