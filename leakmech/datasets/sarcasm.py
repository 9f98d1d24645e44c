"""Sarcastic injections, whose wording has one polarity and what is meant the other (``data/sarcasm.md``)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path

from leakmech.core.errors import DatasetError
from leakmech.core.rows import read_items
from leakmech.core.validation import CLOSED, Text, Words
from leakmech.datasets.samples import PromptSet, Sample


@dataclass(frozen=True)
class SarcasticPair:
    """Two injections for the sample `id`, of which `stem` is the stem; their conditions are those of the wording."""

    __pydantic_config__ = CLOSED

    id: Text
    stem: Words
    positive: Words
    negative: Words


@cache
def sarcastic_pairs() -> dict[str, SarcasticPair]:
    """By the id of a sample, the sarcastic injections that were written for it."""
    file = resources.files("leakmech.datasets") / "data" / "sarcasm.jsonl"
    return {pair.id: pair for pair in read_items(Path(str(file)), SarcasticPair)}


def with_sarcasm(samples: PromptSet) -> list[Sample]:
    """The samples that have sarcastic injections, with these; neutral ones stay. DatasetError if there are none."""
    found = list(_exchanged(samples))
    if not found:
        raise DatasetError(
            f"{samples.name}: arrangement 'sarcasm' has no injections for it; they were written for hexl-mild and "
            "the first 64 samples of hexl-frozen"
        )
    return found


def _exchanged(samples: Iterable[Sample]) -> Iterable[Sample]:
    pairs = sarcastic_pairs()
    for sample in samples:
        pair = pairs.get(sample.id)
        if pair is not None and pair.stem == sample.stem:
            yield replace(sample, positive=pair.positive, negative=pair.negative)
