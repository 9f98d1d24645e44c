"""What ``leakmech mitigate`` can try, by name: the strengths of each family, and what its mitigations are told.

Nothing is built here, and nothing large is imported: a name is checked, and the list printed, without a model.
:mod:`leakmech.studies.mitigation.families` builds what stands here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from leakmech.core.errors import ConfigError
from leakmech.core.registry import Registry
from leakmech.generation.contrast import CONTRASTS
from leakmech.prompts.instructions import INSTRUCTIONS
from leakmech.prompts.rewrites import find_rewrite
from leakmech.prompts.told import Told

if TYPE_CHECKING:
    from leakmech.reports.tables import Table

CAUGHT = (0.8, 0.9, 0.95)
"""Shares of held-out irrelevant prompts for which a gate fires."""
NULL_SPACE_SHARES = (0.001, 0.01, 0.05)
"""Shares of the energy of what must stay that null-space maps may read."""
FOCUS_NATS = (1.0, 2.0, 4.0)
"""Nats by which scores on unrelated keys are to fall."""
_HALF_AND_WHOLE = (0.5, 1.0)


@dataclass(frozen=True)
class Offer:
    """A family by its name."""

    name: str
    strengths: tuple[float, ...] = ()
    """The strengths to try; empty for a mitigation that has none."""
    told: Told = "nothing"
    """What its mitigations are told beside the text of the prompt."""
    quick: bool = False
    """Is it tried where a run is quick and names none? One of each kind is, of those that are no oracle."""

    def at(self, strength: str) -> float:
        """The strength that is written so, which must be one of this family."""
        for own in self.strengths:
            if strength in (str(own), f"{own:g}"):
                return own
        raise ConfigError(f"families: {self.name} has no strength {strength!r}; strengths: {self.listed or 'none'}")

    @property
    def listed(self) -> str:
        """The strengths as one text."""
        return ", ".join(f"{strength:g}" for strength in self.strengths)


def _instruction(name: str) -> Offer:
    return Offer(f"instruction-{name}", told=INSTRUCTIONS[name].told, quick=name == "paper")


OFFERS: Registry[Offer] = Registry.named(
    "mitigation",
    Offer("project-affect", _HALF_AND_WHOLE),
    Offer("set-point-affect", _HALF_AND_WHOLE),
    Offer("set-point-if-unrelated", CAUGHT, "boundary"),
    Offer("ignore-injection", _HALF_AND_WHOLE, "boundary"),
    Offer("ignore-if-unrelated", CAUGHT, "boundary"),
    Offer("ignore-top-heads", (20, 60), "boundary"),
    Offer("heads-mean", (5, 20)),
    Offer("heads-late", (5, 20)),
    Offer("late-heads-if-unrelated", CAUGHT, quick=True),
    Offer("resampled-heads-if-unrelated", CAUGHT),
    Offer("null-space", NULL_SPACE_SHARES),
    Offer("focus", FOCUS_NATS),
    Offer("residual-direction", _HALF_AND_WHOLE),
    Offer("residual-direction-if-unrelated", CAUGHT),
    Offer("angular", _HALF_AND_WHOLE),
    Offer("angular-adaptive", _HALF_AND_WHOLE),
    Offer("angular-if-unrelated", CAUGHT),
    Offer("heads-scaled", (0.0, 0.5)),
    Offer("neurons-mean", (100, 500)),
    Offer("steer-against", (0.05, 0.15)),
    *map(_instruction, ("paper", "ignore-irrelevant", "self-reminder")),
    Offer("rewrite-self-examples", told=find_rewrite("self-examples").told),
    Offer("drop-unrelated-text", (0.1, 0.15, 0.2), find_rewrite("drop-unrelated-text").told, quick=True),
    Offer("leave-one-out", (0.0, 0.2, 0.4), find_rewrite("leave-one-out").told),
    Offer("adapter-gated", quick=True),
    Offer("adapter-teacher"),
    Offer("contrast-toward-neutral", _HALF_AND_WHOLE, CONTRASTS["toward-neutral"].told, quick=True),
    unknown="mitigation {name}: there is no such family",
)
"""In the order in which they are tried."""

SHUFFLED = Offer("shuffled-directions", (1.0,))
"""A baseline, tried beside them."""


def pinned(named: str) -> tuple[Offer, float | None]:
    """The family that `named` means, and its strength where it is ``NAME=STRENGTH``, of which nothing is chosen."""
    name, sign, strength = named.partition("=")
    offer = OFFERS.find(name)
    return offer, offer.at(strength) if sign else None


def offers_table() -> Table:
    """What can be tried, and what each is told beside the text of the prompt."""
    from leakmech.reports.tables import Table  # here: it needs numpy, names do not

    rows = [(one.name, one.told, one.listed) for one in OFFERS.values()]
    return Table(
        "Families of mitigations",
        ("name", "told", "strengths"),
        rows,
        [
            "told: what a mitigation is given beside the text of the prompt. Choose with --families NAME,NAME; "
            "NAME=STRENGTH takes one strength and chooses none."
        ],
    )
