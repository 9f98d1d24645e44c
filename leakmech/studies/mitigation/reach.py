"""On which texts a mitigation can act at all: elsewhere it has no side effect, and none is told.

An edit of attention to the injection changes nothing where no injection stands, so its KL on control prompts is 0 and
its perplexity of neutral text 1 whatever it does to prompts with an injection. Such numbers would flatter it:

=======================  ======================  =====================
column                   texts                   parts that they have
=======================  ======================  =====================
kl                       control prompts         stem
perplexity_ratio         neutral texts           none
capability               questions               none
retention_requests       requests                none
=======================  ======================  =====================

An instruction does not stand before neutral texts. What rewrites prompts or changes decoding leaves the forward pass as
it is, so that the model's likelihoods say nothing about it.
"""

from __future__ import annotations

from leakmech.side_effects.measure import Reached
from leakmech.studies.mitigation.mitigation import Mitigation, stored_interventions

MEASURED_ON: dict[Reached, str] = {"controls": "kl", "neutral": "perplexity_ratio", "questions": "capability"}
"""Texts of the suite of side effects, and the column of the table that is measured on them."""
_PARTS = {column: frozenset[str]() for column in (*MEASURED_ON.values(), "retention_requests")} | {
    "kl": frozenset({"stem"})
}
_PROMPTS_OR_DECODING = ("rewrite", "decoding", "oracle")


def changes_the_model(mitigation: Mitigation) -> bool:
    """Does it change the model's forward pass, or what stands before every request?"""
    return mitigation.kind not in _PROMPTS_OR_DECODING


def out_of_reach(mitigation: Mitigation) -> tuple[str, ...]:
    """The columns that are measured on texts on which the mitigation cannot act."""
    if not changes_the_model(mitigation):
        return tuple(_PARTS)
    return tuple(column for column, parts in _PARTS.items() if not _acts(mitigation, column, parts))


def _acts(mitigation: Mitigation, column: str, parts: frozenset[str]) -> bool:
    settings = mitigation.settings
    if mitigation.kind == "base" or mitigation.hook is not None or settings.get("adapter"):
        return True
    if settings.get("instruction") and column != "perplexity_ratio":
        return True
    edits = (*mitigation.interventions, *stored_interventions(settings))
    if not edits:  # what nothing says cannot be ruled out, unless it is only an instruction
        return not settings.get("instruction")
    return any(edit.needed <= parts for edit in edits)
