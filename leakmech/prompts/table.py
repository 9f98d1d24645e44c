"""The prompts of a data set, made when they are asked for: a hundred thousand need no more memory than a few."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache

from leakmech.datasets.samples import CONDITIONS, Condition, PromptSet
from leakmech.prompts.render import Prompt, Renderer

_MOST_KEPT = 2048
"""Prompts that are kept once they are made; runs of fewer make each of them once."""


class PromptTable(Mapping[str, Prompt]):
    """By id, the prompts of `samples` under `conditions`, in the order of :meth:`Renderer.prompts`.

    They are as users write them where they are not to be `rendered`.
    """

    def __init__(
        self,
        renderer: Renderer,
        samples: PromptSet,
        conditions: Collection[Condition] = CONDITIONS,
        *,
        rendered: bool = True,
    ) -> None:
        make = renderer.prompt if rendered else renderer.unrendered
        self._samples = {sample.id: sample for sample in samples}
        self._conditions = tuple(condition for condition in CONDITIONS if condition in conditions)
        # By the sample's id: what a sample of an arrangement holds cannot be hashed.
        self._prompt = lru_cache(maxsize=_MOST_KEPT)(lambda sample, condition: make(self._samples[sample], condition))

    def __getitem__(self, name: str) -> Prompt:
        if name not in self:
            raise KeyError(name)
        sample, _, condition = name.rpartition("/")
        return self._prompt(sample, condition)

    def __contains__(self, name: object) -> bool:
        sample, _, condition = str(name).rpartition("/")
        return sample in self._samples and condition in self._conditions

    def __iter__(self) -> Iterator[str]:
        return (f"{sample}/{condition}" for sample in self._samples for condition in self._conditions)

    def __len__(self) -> int:
        return len(self._samples) * len(self._conditions)
