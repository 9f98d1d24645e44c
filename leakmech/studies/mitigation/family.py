"""A family of mitigations: one kind of edit, rule or adapter at several strengths, of which one is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from leakmech.interventions.base import Intervention
from leakmech.interventions.files import load_interventions, save_interventions
from leakmech.prompts.instructions import resolve_instruction
from leakmech.prompts.told import Told
from leakmech.studies.mitigation.catalogue import OFFERS, Offer
from leakmech.studies.mitigation.mitigation import Mitigation, MitigationKind
from leakmech.studies.mitigation.parts import FittedParts

Build = Callable[[FittedParts, float], Sequence[Intervention]]


@dataclass(frozen=True)
class Family:
    """One kind of mitigation at several strengths, each of which is added to the name."""

    name: str
    kind: MitigationKind
    note: str
    strengths: tuple[float | None, ...]
    """The strengths to try; None for a mitigation that has none."""
    make: Callable[[FittedParts, float | None], Mitigation]
    told: Told = "nothing"
    """What its mitigations are told beside the text of the prompt."""
    ends_prompt: bool = False
    """Does it put something after the stem, so that plain prompts cannot have it?"""

    def mildest(self) -> Family:
        """The same at its first strength alone."""
        return replace(self, strengths=self.strengths[:1])

    @property
    def is_choice(self) -> bool:
        """Are there several strengths, of which one is chosen on tune samples?"""
        return len(self.strengths) > 1

    def members(self, parts: FittedParts, fitted: Path) -> list[Mitigation]:
        """The mitigations at all strengths.

        Interventions are saved in the folder `fitted` and read from there the next time: fitted again, with another
        number of threads, they would differ in their last digits, and what was measured with them would not be theirs.
        """
        return [self._member(parts, strength, fitted) for strength in self.strengths]

    def _member(self, parts: FittedParts, strength: float | None, fitted: Path, /) -> Mitigation:
        name = self.name if strength is None else f"{self.name}-{strength:g}"
        file = fitted / f"{name}.json"
        if file.exists():
            stored = load_interventions(file)
            return Mitigation(name, self.kind, interventions=stored, note=self.note, told=self.told)
        made = self.make(parts, strength)
        if made.interventions:
            save_interventions(made.interventions, file, prompt_form=parts.prompt_form)
        return made


def edits(offer: str | Offer, note: str, build: Build, *, kind: MitigationKind = "intervention") -> Family:
    """Interventions that are built from a diagnosis; an offer by its name is one of the catalogue."""
    own = OFFERS[offer] if isinstance(offer, str) else offer

    def make(parts: FittedParts, strength: float | None) -> Mitigation:
        if strength is None:
            raise AssertionError("interventions have a strength")
        made = tuple(build(parts, strength))
        return Mitigation(f"{own.name}-{strength:g}", kind, interventions=made, note=note, told=own.told)

    return Family(own.name, kind, note, own.strengths, make, told=own.told)


def rules(name: str, make: Callable[[float], Mitigation]) -> Family:
    """A rule of decoding or rewriting at the strengths of the catalogue."""
    strengths = OFFERS[name].strengths
    members = {strength: make(strength) for strength in strengths}
    first = members[strengths[0]]

    def chosen(_: FittedParts, strength: float | None) -> Mitigation:
        return members[strength or 0.0]

    return Family(name, first.kind, first.note, strengths, chosen, told=first.told)


def fixed(mitigation: Mitigation) -> Family:
    """A mitigation that has no strength."""
    after = resolve_instruction(mitigation.settings.get("instruction", "none")).after
    return Family(
        mitigation.name,
        mitigation.kind,
        mitigation.note,
        (None,),
        lambda _, __: mitigation,
        told=mitigation.told,
        ends_prompt=bool(after),
    )
