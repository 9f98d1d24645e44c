"""Where the injections stand, and how many: arrangements of the same samples.

    before   injection stem                    the benchmark as it is defined
    after    stem, line break, injection       chat form only: a model of plain text continues what stands last
    twice    injection injection' stem         injection' is the one of the same condition of another sample

The first two are two ways to render a sample (:class:`leakmech.prompts.render.Renderer`). The third is another sample:
its injection has two sentences, so that cleaning, similarity and positions know of both.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

from leakmech.core.errors import ConfigError, DatasetError, nearest
from leakmech.datasets.samples import INJECTIONS, PromptSet, Sample

Arrangement = Literal["before", "after", "twice"]
Place = Literal["before", "after"]
ARRANGEMENTS: tuple[Arrangement, ...] = get_args(Arrangement)


def arrange(samples: PromptSet, arrangement: Arrangement) -> PromptSet:
    """The samples of an arrangement: those given, or those with a second injection for ``twice``.

    Give all samples, before any limit, so that the second injection does not depend on it.
    """
    if arrangement not in ARRANGEMENTS:
        raise ConfigError(f"arrangement {arrangement!r}{nearest(str(arrangement), ARRANGEMENTS)}")
    return with_second_injections(samples) if arrangement == "twice" else samples


def with_second_injections(samples: PromptSet) -> PromptSet:
    """Every injection followed by that of the sample half a data set away, of the same condition and split.

    Ids stay, so that the noise of the coupled sampling does: runs of both sets are paired sample by sample.
    """
    by_split: dict[str | None, list[Sample]] = {}
    for sample in samples:
        by_split.setdefault(sample.split, []).append(sample)
    partners: dict[str, Sample] = {}
    for split, members in by_split.items():
        if len(members) < 2:
            where = samples.name if split is None else f"{samples.name}, split {split!r}"
            raise DatasetError(f"{where}: two injections need two samples, sample {members[0].id!r} is the only one")
        shift = len(members) // 2
        partners |= {s.id: members[(i + shift) % len(members)] for i, s in enumerate(members)}
    doubled = tuple(_joined(sample, partners[sample.id]) for sample in samples)
    return replace(samples, name=f"{samples.name}[twice]", samples=doubled)


def _joined(sample: Sample, partner: Sample) -> Sample:
    both = {name: f"{sample.injection(name)} {partner.injection(name)}" for name in INJECTIONS}
    return replace(sample, **both)


def injection_place(arrangement: Arrangement) -> Place:
    """Where an arrangement puts injections."""
    return "after" if arrangement == "after" else "before"
