"""Does a model still use a neutral sentence that the stem needs? What :mod:`leakmech.datasets.facts` holds, measured.

The prompt is fact and stem, put in the form of all other prompts. Each of four completions c is scored as the answer,

    s(c) = sum_t log p(c_t | prompt, c_<t),    in nats;    right: the answer has the highest s,

and ties for the first place count in part (:class:`leakmech.side_effects.capability.Capability`). Completions of one
fact have the same number of words and are of one kind, so they are compared as they are, without a mean over tokens.

    T_facts = accuracy(changed) / accuracy(base)      on the same facts

A ratio to guessing means nothing: the base model must be right more often than one in four, by a one-sided binomial
test at 5 %. The shipped facts never have the answer that is likeliest without its fact, so a model that does not read
the fact is right less often than one that guesses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from scipy import stats

from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.facts import Fact
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import Continuation, ModelVariant
from leakmech.prompts.render import Renderer
from leakmech.side_effects.capability import N_CHOICES, Capability
from leakmech.side_effects.selectivity import Part, retention_part

CHANCE = 1 / N_CHOICES
ALPHA = 0.05


def answer_facts(
    variant: ModelVariant,
    facts: Sequence[Fact],
    *,
    prompts: Mapping[str, Continuation],
    renderer: Renderer,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> Capability:
    """Let a model choose the completions of facts; the first one is right.

    `prompts` holds what the model reads of each fact, by its id, and `renderer` says how completions follow it.
    """
    continuations = [
        replace(prompts[fact.id], id=f"{fact.id}/{number}", tokens=renderer.answer_ids(fact.stem, text))
        for fact in facts
        for number, text in enumerate(fact.completions)
    ]
    found = log_likelihoods(variant, continuations, share_prompts=True, batch_size=batch_size, progress=progress)
    scores = found.log_likelihood.reshape(len(facts), N_CHOICES)
    return Capability(tuple(fact.id for fact in facts), scores, np.zeros(len(facts), dtype=int))


def facts_part(base: Capability, changed: Capability) -> Part:
    """Make the accuracy ratio a part of selectivity."""
    return retention_part("retention_facts", base.ids, base.correct, changed.correct)


def no_better_than_chance(base: Capability) -> str | None:
    """Say why accuracies cannot be compared with the base model's; None if they can."""
    right, n = base.correct.sum(), len(base.ids)
    test = stats.binomtest(int(right), n, CHANCE, alternative="greater")
    if test.pvalue < ALPHA:
        return None
    return f"the base model knows {right:g} of {n} facts, which is not more than guessing ({n * CHANCE:g})"
