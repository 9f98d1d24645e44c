"""Mitigations of tiny models are judged on few questions, facts and neutral texts: what they say means nothing."""

from __future__ import annotations

from functools import partial

import pytest

from leakmech.datasets.facts import load_facts
from leakmech.datasets.questions import load_questions
from leakmech.side_effects.texts import neutral_continuations
from leakmech.studies.mitigation import cells, evaluation, run


def few_texts(patch: pytest.MonkeyPatch) -> None:
    """Have comparisons read few texts, by a ``pytest.MonkeyPatch``."""
    patch.setattr(cells, "load_questions", lambda: load_questions()[:20])
    patch.setattr(cells, "neutral_continuations", partial(neutral_continuations, limit=30))
    for module in (evaluation, run):
        patch.setattr(module, "load_facts", lambda name: load_facts(name)[:8])
