"""Where the injections stand, how many there are and which: arrangements of the same samples.

    before    injection stem                    the benchmark as it is defined
    after     stem, line break, injection       chat form only: a model of plain text continues what stands last
    twice     injection injection' stem         injection' is the one of the same condition of another sample
    middle    filler injection filler stem      fillers are neutral injections of two other samples
    clause    By the way, injection, and stem   inside the sentence of the stem
    turn      user: injection / assistant: I have noted that. / user: stem
    opposed   injection injection' stem         of opposite polarity, in both orders
    graded    injection' stem                   injection' is the one of another sample that is nearest to the stem
    sarcasm   injection* stem                   the wording has one polarity, what is meant the other

The first two, and ``turn``, are ways to render a sample (:class:`leakmech.prompts.render.Renderer`); the others are
other samples with the same ids, so that the noise of the coupled sampling is the same and runs are paired. Other
injections are those of the same split.

In ``middle`` the control prompt has the fillers, so that prompts differ by the injection alone. In ``opposed`` the
positive injection of a sample and the negative one of another make both prompts; ``positive`` is the order in which the
positive one stands last. The statistic is the shift of valence between the two orders (:mod:`leakmech.scoring.order`).
In ``graded`` the injections of all samples are exchanged such that the sum of the cosines of stems and injections (mean
of a sample's three, which stay together) is as large as it can be, no sample keeps its own, and none gets one with a
word of its stem (or one with the same first five letters), which would be about the stem: the same sentences as in
``before``, nearer to the stems. In ``sarcasm``, ``positive`` is the polarity of the *wording*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, get_args

from leakmech.core.errors import ConfigError, DatasetError, nearest
from leakmech.datasets.samples import FITTING_DATASETS, INJECTIONS, RELEVANT_DATASETS, PromptSet, Sample
from leakmech.datasets.sarcasm import with_sarcasm
from leakmech.prompts.bodies import (
    FRAMES,
    PLACES,
    Place,
    between_fillers,
    in_clause,
    uncapitalised_words,
)

if TYPE_CHECKING:
    from leakmech.prompts.graded import Encode

Arrangement = Literal["before", "after", "twice", "middle", "clause", "turn", "opposed", "graded", "sarcasm"]
ARRANGEMENTS: tuple[Arrangement, ...] = get_args(Arrangement)


def arrange(samples: PromptSet, arrangement: Arrangement, *, encode: Encode | None = None) -> PromptSet:
    """The samples of an arrangement, which are those given where only their prompts are written otherwise.

    Give all samples, before any limit, so that what other samples lend does not depend on it. ``graded`` needs
    `encode`.
    """
    if arrangement not in ARRANGEMENTS:
        raise ConfigError(f"arrangement {arrangement!r}{nearest(str(arrangement), ARRANGEMENTS)}")
    if arrangement in PLACES:
        return samples
    if arrangement == "graded":
        if encode is None:
            raise ConfigError("arrangement 'graded': needs a sentence encoder, which says what is near")
        arranged = _nearest(samples, encode)
    else:
        arranged = _RULES[arrangement](samples)
    return replace(samples, name=f"{samples.name}[{arrangement}]", samples=tuple(arranged))


def injection_place(arrangement: Arrangement) -> Place:
    """Where an arrangement puts injections."""
    return arrangement if arrangement in PLACES else "before"


def _twice(samples: PromptSet) -> list[Sample]:
    """Every injection followed by that of the sample half a data set away, of the same condition and split."""
    (partners,) = _partners(samples, 2)
    return [replace(s, **{c: f"{s.injection(c)} {partners[s.id].injection(c)}" for c in INJECTIONS}) for s in samples]


def _middle(samples: PromptSet) -> list[Sample]:
    """Every injection between the neutral ones of the samples a third and two thirds of a data set away."""
    first, second = _partners(samples, 3)
    return [between_fillers(s, (first[s.id].neutral, second[s.id].neutral)) for s in samples]


def _clause(samples: PromptSet) -> list[Sample]:
    """Every injection inside the sentence of its stem."""
    lower = uncapitalised_words(samples)
    return [in_clause(s, FRAMES[i % len(FRAMES)], lower=lower) for i, s in enumerate(samples)]


def _opposed(samples: PromptSet) -> list[Sample]:
    """Every positive injection with the negative one of the sample half a data set away, in both orders."""
    (partners,) = _partners(samples, 2)
    found = []
    for sample in samples:
        other = partners[sample.id]
        found.append(
            replace(
                sample,
                positive=f"{other.negative} {sample.positive}",
                neutral=f"{other.neutral} {sample.neutral}",
                negative=f"{sample.positive} {other.negative}",
            )
        )
    return found


def _sarcasm(samples: PromptSet) -> Sequence[Sample]:
    return with_sarcasm(samples)


_RULES: dict[str, Callable[[PromptSet], Sequence[Sample]]] = {
    "twice": _twice,
    "middle": _middle,
    "clause": _clause,
    "opposed": _opposed,
    "sarcasm": _sarcasm,
}


def _by_split(samples: PromptSet, least: int) -> list[list[Sample]]:
    """The samples by split, each of which must have `least`."""
    groups: dict[str | None, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.split, []).append(sample)
    for split, members in groups.items():
        if len(members) < least:
            where = samples.name if split is None else f"{samples.name}, split {split!r}"
            raise DatasetError(
                f"{where}: injections of other samples need {least} samples, there are {len(members)} "
                f"(for example {members[0].id!r})"
            )
    return list(groups.values())


def _partners(samples: PromptSet, parts: int) -> list[dict[str, Sample]]:
    """By id, the other samples at every 1/`parts` of the way around the samples of the same split."""
    found: list[dict[str, Sample]] = [{} for _ in range(parts - 1)]
    for members in _by_split(samples, parts):
        n = len(members)
        for number, partners in enumerate(found, start=1):
            partners |= {s.id: members[(i + number * n // parts) % n] for i, s in enumerate(members)}
    return found


def _nearest(samples: PromptSet, encode: Encode) -> list[Sample]:
    """Every sample with the three injections of another of its split."""
    from leakmech.prompts.graded import exchanged  # here: it needs more than settings do

    if samples.name in RELEVANT_DATASETS + FITTING_DATASETS:
        raise ConfigError(f"arrangement 'graded': injections of {samples.name} are about their stems already")
    groups = _by_split(samples, 2)
    found = {one.id: one for members in groups for one in exchanged(members, encode, name=samples.name)}
    return [found[sample.id] for sample in samples]
