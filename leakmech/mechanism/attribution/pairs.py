"""Pairs of sequences that differ in their injection and end in the same tokens.

A contrast puts a sample's *clean* prompt (positive or negative injection) beside its *corrupt* one (neutral). They
differ in length, so they are aligned from the right: the stem and what stands after it are the same tokens in both,
and it is there that activations are compared and exchanged. With weights w the affect in a set of pairs is

    shift = sum w (m(clean) - m(corrupt)),    w = +1 for positive against neutral, -1 for negative against neutral,

Targets that score given texts have *endings*: texts that follow the prompt, each with a weight that w is multiplied
by; the weights of a sample sum to 0. For the behavioural target they are +1/n (-1/n) for continuations that the model
wrote after the positive (negative) injection; for tilt see :mod:`leakmech.mechanism.completions`. Tilt contrasts
positive with negative, without the neutral prompt between them.

*Equalised* prompts have as many injection tokens in every condition of a sample: shorter injections are filled up in
front with line breaks. All their tokens are aligned, so embeddings can be interpolated, and every token patched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from leakmech.core.errors import ConfigError, ModelError
from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet
from leakmech.prompts.locate import LocatedPrompt, Span, locate
from leakmech.prompts.render import Renderer

Contrast = tuple[Condition, Condition]
CONTRASTS: dict[Contrast, float] = {("positive", "neutral"): 1.0, ("negative", "neutral"): -1.0}
"""Clean and corrupt condition, and the sign of the affect between them."""
TILT_CONTRASTS: dict[Contrast, float] = {("positive", "negative"): 1.0}

Continuations = Mapping[str, Mapping[str, Sequence[Sequence[int]]]]
"""Token ids by sample and by the polarity of the injection after which the model wrote them."""


class Ending(NamedTuple):
    """Token ids of a text that follows a prompt, and the weight of its log-probability."""

    tokens: tuple[int, ...]
    weight: float


Endings = Mapping[str, Sequence[Ending]]
"""By sample."""

_POLARITIES = {"positive": 1.0, "negative": -1.0}


@dataclass(frozen=True, eq=False)
class Pair:
    """Two sequences of one sample, and the weight with which their difference counts."""

    sample: str
    contrast: Contrast
    clean: LocatedPrompt
    corrupt: LocatedPrompt
    n_shared: int
    """Number of last tokens, from the stem on, that are the same in both."""
    weight: float

    def __len__(self) -> int:
        return max(len(self.clean), len(self.corrupt))

    @property
    def id(self) -> str:
        return self.clean.id


def make_pairs(
    samples: PromptSet,
    renderer: Renderer,
    *,
    contrasts: Mapping[Contrast, float] = CONTRASTS,
    endings: Endings | None = None,
    equalised: bool = False,
) -> list[Pair]:
    """Make the pairs of all samples, one for each contrast and ending.

    Samples without endings are left out, unless `endings` is None: then a prompt ends where it ends. `equalised` fills
    up shorter injections, so that the sequences of a sample have one length.
    """
    if not contrasts:
        raise ConfigError("contrasts: name at least one, for example {('positive', 'neutral'): 1.0}")
    conditions: list[Condition] = [name for name in CONDITIONS if any(name in contrast for contrast in contrasts)]
    if equalised and "control" in conditions:
        raise ConfigError("equalised prompts: control has no injection to fill up; contrast injections only")
    located = located_by_sample(samples, renderer, conditions)
    filler = _filler_token(renderer) if equalised else None
    pairs: list[Pair] = []
    for sample, prompts in located.items():
        if filler is not None:
            prompts = equalise(prompts, filler)
        for contrast, weight in contrasts.items():
            for tokens, share in [Ending((), 1.0)] if endings is None else endings.get(sample, ()):
                clean, corrupt = (_continued(prompts[condition], tokens) for condition in contrast)
                n_shared = _n_shared(clean, corrupt)
                pairs.append(Pair(sample, contrast, clean, corrupt, n_shared, weight * share))
    if not pairs:
        raise ConfigError("endings: no sample has any (continuations of both polarities); sample more of them")
    return pairs


def located_by_sample(
    samples: PromptSet, renderer: Renderer, conditions: Sequence[Condition]
) -> dict[str, dict[str, LocatedPrompt]]:
    """Tokenise prompts, by sample and condition."""
    prompts = [renderer.prompt(sample, condition) for sample in samples for condition in conditions]
    located: dict[str, dict[str, LocatedPrompt]] = {}
    for prompt in locate(prompts, renderer):
        located.setdefault(prompt.sample, {})[prompt.condition] = prompt
    return located


def polar_endings(continuations: Continuations) -> dict[str, list[Ending]]:
    """Weight the continuations of the behavioural target; samples that lack those of either polarity are left out."""
    return {
        sample: [
            Ending(tuple(tokens), sign / len(own[polarity]))
            for polarity, sign in _POLARITIES.items()
            for tokens in own[polarity]
        ]
        for sample, own in continuations.items()
        if all(own.get(polarity) for polarity in _POLARITIES)
    }


def _continued(prompt: LocatedPrompt, tokens: Sequence[int]) -> LocatedPrompt:
    if not len(tokens):
        return prompt
    end = len(prompt) + len(tokens)
    spans = {**prompt.spans, "generated": (len(prompt), end), "all": (0, end)}
    ids = np.concatenate([prompt.ids, np.asarray(tokens, prompt.ids.dtype)])
    return LocatedPrompt(prompt.id, prompt.sample, prompt.condition, ids, spans)


def _n_shared(clean: LocatedPrompt, corrupt: LocatedPrompt) -> int:
    """Count tokens from the stem on (in prefill form the first one); those joined to the injection do not count."""
    shared = min(len(prompt) - prompt.spans.get("asked", prompt.spans["stem"])[0] for prompt in (clean, corrupt))
    same = clean.ids[-shared:] == corrupt.ids[-shared:]
    if not same[-1]:
        raise ModelError(f"prompts {clean.id!r} and {corrupt.id!r}: do not end in the same token")
    differing = np.flatnonzero(~same)
    return shared if not len(differing) else shared - 1 - int(differing[-1])


# -- equal lengths ---------------------------------------------------------------------------------------------------


def equalise(prompts: Mapping[str, LocatedPrompt], filler: int) -> dict[str, LocatedPrompt]:
    """Fill up the shorter injections of a sample in front, with the token `filler`, to the length of the longest."""
    longest = max(_injection_length(prompt) for prompt in prompts.values())
    return {name: _filled(prompt, longest - _injection_length(prompt), filler) for name, prompt in prompts.items()}


def _injection_length(prompt: LocatedPrompt) -> int:
    start, stop = prompt.spans["injection"]
    return stop - start


def _filled(prompt: LocatedPrompt, n_missing: int, filler: int) -> LocatedPrompt:
    at = prompt.spans["injection"][0]

    def moved(span: Span) -> Span:
        return (span[0] + n_missing if span[0] > at else span[0], span[1] + n_missing if span[1] > at else span[1])

    ids = np.insert(prompt.ids, at, [filler] * n_missing)
    return LocatedPrompt(
        prompt.id, prompt.sample, prompt.condition, ids, {k: moved(v) for k, v in prompt.spans.items()}
    )


def _filler_token(renderer: Renderer) -> int:
    """Give the token of a line break, or the last one of its encoding."""
    tokenizer: Any = renderer.tokenizer
    ids = tokenizer("\n", add_special_tokens=False)["input_ids"]
    if not ids:
        raise ModelError("the tokenizer has no token for a line break, with which injections are equalised")
    return int(ids[-1])
