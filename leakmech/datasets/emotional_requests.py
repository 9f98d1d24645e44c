"""Direct requests for emotional text ("Write one sentence about a sad farewell."): can a model still answer them?

A mitigation that makes a model unable to write with feeling when it is asked to has done damage, whatever it does to
leakage. A request names the polarity that its answer should have; there is no stem and no injection. The 30 requests
that ship (15 positive, 15 negative) were written for this project by a language model; no human rated them
(data/relevant_affect.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from leakmech.core.rows import read_items
from leakmech.core.validation import CLOSED, Text
from leakmech.datasets.samples import Polarity


@dataclass(frozen=True)
class EmotionalRequest:
    """A request as it is put to the model, and the polarity that an answer should have."""

    __pydantic_config__ = CLOSED

    id: Text
    request: Text
    polarity: Polarity
    theme: Text


def load_emotional_requests(path: str | Path | None = None) -> tuple[EmotionalRequest, ...]:
    """The requests of a JSONL file with ``id, theme, polarity, request``; by default the 30 that ship."""
    builtin = resources.files("leakmech.datasets") / "data" / "emotional_requests.jsonl"
    return read_items(Path(str(builtin if path is None else path)), EmotionalRequest)
