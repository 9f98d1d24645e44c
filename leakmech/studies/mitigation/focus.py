"""Focus of a model's transport heads: less attention to what has nothing to do with the request.

Maps of queries (:mod:`leakmech.mechanism.attention.focus`) are fitted for the heads that the diagnosis ranks first.
Unrelated are injections of all kinds, the neutral one included, on samples that leak and under exchanged stems; related
are injections of relevant affect under their own stems, and facts. Samples are those marked ``fit``; what the maps do
to scores and to attention is told on samples marked ``tune`` and on other facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from leakmech.core.progress import Progress, no_progress
from leakmech.datasets.facts import load_facts
from leakmech.datasets.relation import mismatched, with_exchanged
from leakmech.datasets.samples import INJECTIONS, Condition, PromptSet
from leakmech.interventions.types import MapQueries
from leakmech.mechanism.attention.focus import FocusMap, HeadScores, fit_focus_map, read_scores
from leakmech.mechanism.attention.injected import injected_prompts
from leakmech.models.components import Component
from leakmech.models.load import LoadedModel
from leakmech.prompts.render import Prompting, Renderer
from leakmech.studies.mitigation.catalogue import FOCUS_NATS

_SAMPLES = 30
"""Samples of each kind: queries and keys are held in memory."""


@dataclass(frozen=True, eq=False)
class Focus:
    """Maps of the queries of heads, and what they are held against."""

    heads: tuple[Component, ...]
    maps: tuple[FocusMap, ...]
    unrelated: Sequence[HeadScores]
    related: Sequence[HeadScores]
    """Scores on held-out prompts, one of each head."""
    model_hash: str = ""

    def intervention(self, strength: float) -> MapQueries:
        """The maps as one intervention."""
        writes, reads = (torch.stack([getattr(own, name) for own in self.maps]) for name in ("writes", "reads"))
        return MapQueries(self.heads, writes, reads, strength=strength, model_hash=self.model_hash)

    def held_out_change(self, strength: float) -> dict[str, float]:
        """Mean over heads of the change of held-out scores in nats, and of attention to the injection.

        ``unrelated``, ``related``: change of scores on the keys of injections; ``elsewhere``: mean size of the change
        on all other keys; ``attention_*``: share of the attention that goes to the injection, then under the maps.
        """
        rows = []
        for own, unrelated, related in zip(self.maps, self.unrelated, self.related, strict=True):
            row = {}
            for name, scores in (("unrelated", unrelated), ("related", related)):
                mapped = own(scores.queries, strength)
                change = scores.scores(mapped) - scores.scores()
                row[name] = float(change[scores.injected].mean())
                row[f"elsewhere, {name}"] = float(change[~scores.injected].abs().mean())
                row[f"attention_{name}"] = float(scores.attention().mean())
                row[f"attention_{name}_mapped"] = float(scores.attention(mapped).mean())
            rows.append(row)
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}

    def to_dict(self) -> dict[str, Any]:
        """What a summary says of them."""
        return {
            "heads": [str(head) for head in self.heads],
            "rank": self.maps[0].reads.shape[0],
            "by_strength": {f"{s:g}": self.held_out_change(s) for s in FOCUS_NATS},
        }


def fit_focus(
    loaded: LoadedModel,
    relevant: PromptSet,
    heads: Sequence[Component],
    *,
    irrelevant_fit: PromptSet,
    irrelevant_tune: PromptSet,
    seed: int = 0,
    prompting: Prompting = Prompting(),
    progress: Progress = no_progress,
) -> Focus:
    """Fit the maps of `heads`."""
    facts = [fact.sample for fact in load_facts("facts-fit")]
    exchanged = mismatched(relevant, seed=seed)
    renderer = Renderer(loaded.tokenizer, prompting)

    def read(samples: PromptSet, conditions: Sequence[Condition]) -> list[Any]:
        return injected_prompts(samples, renderer, conditions)

    found = {}
    for place, (split, leaking) in enumerate((("fit", irrelevant_fit), ("tune", irrelevant_tune))):
        others = with_exchanged(leaking.spread(_SAMPLES), exchanged.split(split).spread(_SAMPLES))
        related = read(relevant.split(split).spread(2 * _SAMPLES), INJECTIONS)
        related += read(PromptSet("facts", tuple(facts[place::2])).spread(_SAMPLES), ("neutral",))
        found[split] = [
            read_scores(loaded, prompts, heads, progress=progress) for prompts in (read(others, INJECTIONS), related)
        ]
    maps = tuple(fit_focus_map(*own) for own in zip(*found["fit"], strict=True))
    unrelated, related = found["tune"]
    return Focus(tuple(heads), maps, unrelated, related, loaded.base_hash)
