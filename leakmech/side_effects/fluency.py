"""Fluency of a changed model's answers, relative to the base model's: one number in [0, 1].

    fluency = perplexity part x repetition part x length part

with all sums over the scored answers of all prompts, injected ones included (a change that acts under an injection only
must not go unseen), and a = changed, b = base:

    perplexity part    min(1, PPL_b / PPL_a);  PPL is the perplexity of the answers under the *base* model, after the
                       control prompt of their sample, whatever prompt they were given to
    repetition part    min(1, D_a / D_b);  D is the mean of distinct-1, -2 and -3 over the answers to one prompt
    length part        min(1, F_a / F_b) min(l, 1 / l);  F is the share of answers that are not empty after cleaning
                       and l the mean length of those in tokens (the base tokenizer's), changed over base

Answers without an injection can be shorter, or longer, than those that follow one, and an edit that takes the
injection's influence away *should* move towards them. So where the base model's answers to the control prompts are
given (u, "free"), what is anywhere between them and b costs nothing:

    repetition part    min(1, D_a / min(D_b, D_u))
    length part        min(1, F_a / min(F_b, F_u)) min(1, l_a / min(l_b, l_u), max(l_b, l_u) / l_a)

They are judged after the control prompt, because an answer that keeps free of the injection *should* differ from what
the base model writes under it: judged after the injected prompt, every mitigation would lose fluency by working.

Each part lies in [0, 1], is 1 for the base model's own answers, and falls as perplexity rises, as variety falls, as
empty answers become more and as lengths move away from the base model's in either direction. Being better than the
base model is not rewarded. The product makes no part pay for another: a fluency of 0.95 leaves 5 % for all three.
Since only losses count, chance alone costs something: hold a fluency against what the base model itself reaches under
another seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from leakmech.core.errors import UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.text import normalised_words
from leakmech.generation.likelihood import log_likelihoods
from leakmech.generation.variants import ModelVariant
from leakmech.prompts.render import Prompt, Renderer
from leakmech.scoring.statistics import DRAWS, divide
from leakmech.side_effects.answers import Answers, require_same_prompts
from leakmech.side_effects.degeneration import DISTINCT, distinct
from leakmech.side_effects.equivalence import Estimate, estimates, per_unit
from leakmech.side_effects.texts import answer_continuations

_NAMES = ("nats", "tokens", "filled", "answers", *(f"{kind}_{n}" for n in DISTINCT for kind in ("distinct", "ngrams")))
N_COLUMNS = len(_NAMES)

Columns = Float[np.ndarray, "samples columns"]
Sums = Float[np.ndarray, "rows columns"]


@dataclass(frozen=True, eq=False)
class AnswerQuality:
    """What fluency needs to know of one model's answers, summed per sample."""

    answers: Answers
    samples: tuple[str, ...]
    columns: Columns
    """Negative log-likelihood, tokens, answers that are not empty, answers; different and all n-grams, n = 1, 2, 3."""

    def to_frame(self) -> pd.DataFrame:
        """Make one row per sample."""
        return pd.DataFrame(self.columns, columns=list(_NAMES)).assign(sample=list(self.samples))


@dataclass(frozen=True)
class Fluency:
    """Fluency and its three parts, each with an interval; see the head of this module."""

    fluency: Estimate
    perplexity: Estimate
    repetition: Estimate
    length: Estimate

    def to_dict(self) -> dict[str, dict[str, float | None]]:
        """Make it JSON-ready."""
        return {name: getattr(self, name).to_dict() for name in ("fluency", "perplexity", "repetition", "length")}

    def to_frame(self) -> pd.DataFrame:
        """Make one row for fluency and for each part."""
        return pd.DataFrame([{"part": name, **values} for name, values in self.to_dict().items()])


def answer_quality(
    base: ModelVariant,
    answers: Answers,
    *,
    controls: Mapping[str, Prompt],
    renderer: Renderer,
    batch_size: int | str = "auto",
    progress: Progress = no_progress,
) -> AnswerQuality:
    """Judge answers by the base model, whoever wrote them; `controls` holds the control prompt of every sample."""
    found = log_likelihoods(
        base,
        answer_continuations(answers, controls, renderer),
        share_prompts=True,
        batch_size=batch_size,
        progress=progress,
    )
    rows = np.zeros((len(answers), 4))
    rows[:, 0], rows[:, 1] = -found.log_likelihood, found.n_tokens
    rows[:, 2], rows[:, 3] = [bool(text.strip()) for text in answers.answers], 1
    samples = answers.units
    # Answers are sorted by sample, so units come in the order of `samples`.
    return AnswerQuality(answers, samples, np.hstack([per_unit(answers.samples, rows), _variety(answers, samples)]))


def _variety(answers: Answers, samples: Sequence[str]) -> Columns:
    """Count different and all n-grams of the answers to each prompt, summed per sample."""
    by_prompt: dict[tuple[str, str], list[list[str]]] = {}
    for prompt, text in zip(answers.prompts, answers.answers, strict=True):
        by_prompt.setdefault(prompt, []).append(normalised_words(text))
    place = {sample: i for i, sample in enumerate(samples)}
    columns = np.zeros((len(samples), 2 * len(DISTINCT)))
    for (sample, _), texts in by_prompt.items():
        columns[place[sample]] += [number for n in DISTINCT for number in distinct(texts, n)]
    return columns


def fluency(
    base: AnswerQuality,
    changed: AnswerQuality,
    *,
    free: AnswerQuality | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Fluency:
    """Compute the fluency of a changed model relative to the base model, from answers to the same prompts.

    `free` holds what the base model answers where every prompt is the control prompt.
    """
    if not base.columns[:, 2].any():
        raise UsageError("fluency: the base model's answers are all empty after cleaning, so nothing is relative to it")
    parts = estimates(quality_columns(base, changed, free), fluency_of_sums, seed=seed, draws=draws)
    return Fluency(*parts)


def quality_columns(base: AnswerQuality, changed: AnswerQuality, free: AnswerQuality | None = None) -> Columns:
    """Put the columns of two models side by side, and those of answers to control prompts; same prompts only."""
    sides = [base, changed] if free is None else [base, changed, free]
    for other in sides[1:]:
        require_same_prompts(base.answers, other.answers)
        if other.samples != base.samples:
            raise UsageError("fluency: the answers of base and changed model are about different samples")
    return np.hstack([side.columns for side in sides])


def fluency_of_sums(sums: Sums) -> Float[np.ndarray, "rows 4"]:
    """Compute fluency and its perplexity, repetition and length parts from sums of :func:`quality_columns`."""
    base, changed, *free = np.split(sums, sums.shape[1] // N_COLUMNS, axis=1)
    known = [base, *free]
    with np.errstate(over="ignore"):
        perplexity = np.exp(divide(base[:, 0], base[:, 1]) - divide(changed[:, 0], changed[:, 1]))
    repetition = np.maximum.reduce([_share(changed, side) for side in known])
    own, (shortest, longest) = _length(changed), _range([_length(side) for side in known])
    filled = divide(_filled(changed), _range([_filled(side) for side in known])[0])
    length = np.minimum(divide(own, shortest), divide(longest, own))
    parts = np.minimum(1, np.stack([perplexity, repetition, np.fmin(1, filled) * np.minimum(1, length)], axis=1))
    # A model that answers nothing has no perplexity and no words, and is as far from fluent as can be.
    parts[changed[:, 2] == 0] = 0
    return np.column_stack([parts.prod(axis=1), parts])


def _length(side: Sums) -> Float[np.ndarray, " rows"]:
    """Mean tokens of the answers that are not empty."""
    return divide(side[:, 1], side[:, 2])


def _filled(side: Sums) -> Float[np.ndarray, " rows"]:
    """Share of answers that are not empty."""
    return divide(side[:, 2], side[:, 3])


def _range(values: Sequence[Float[np.ndarray, " rows"]]) -> tuple[Float[np.ndarray, " rows"], ...]:
    """Least and largest of several; one that is not defined (no answer at all) says nothing."""
    return np.fmin.reduce(values), np.fmax.reduce(values)


def _share(changed: Sums, base: Sums) -> Float[np.ndarray, " rows"]:
    """Divide the changed model's mean distinct-n by the base model's, over the n of which both have n-grams."""
    variety = [divide(side[:, 4::2], side[:, 5::2]) for side in (changed, base)]
    known = ~np.isnan(variety[0]) & ~np.isnan(variety[1])
    totals = [np.where(known, values, 0.0).sum(axis=1) for values in variety]
    # Answers without a single word in common n (emojis only) repeat no words.
    return np.where(known.any(axis=1), divide(totals[0], totals[1]), 1.0)
