"""Which prompts there are to train on, before any is drawn: kinds, triples, and where injections stand.

*Paired*: one emotional sentence s before the stem t that it is about (relevant), before a stem t' of another theme
(irrelevant), and t' alone (plain). The three are a group, which goes into one step: what differs between the first two
is the relation alone. Sentences that stand on one side only are left out, but those of the irrelevant set.

Injections stand where a part of them by hash is put (``arrangements``), the same sentence always in the same place:

    before    injection stem
    middle    filler injection filler stem      fillers are neutral injections of two other samples; plain has them too
    turn      user: injection / assistant: I have noted that. / user: stem
    after     stem, line break, injection       chat form only
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from leakmech.core.errors import DatasetError
from leakmech.core.seeds import stable_hash
from leakmech.core.store import content_hash
from leakmech.datasets.facts import Fact
from leakmech.datasets.relevant_pairs import AffectPair
from leakmech.datasets.samples import POLARITIES, Polarity, PromptSet, Sample
from leakmech.prompts.bodies import PLACES
from leakmech.prompts.render import Prompt, Renderer
from leakmech.studies.lora.overlap_check import Role
from leakmech.training.kinds import KINDS, ExampleKind, TrainedArrangement


@dataclass(frozen=True)
class TrainingSources:
    """Where examples come from."""

    irrelevant: PromptSet | None = None
    """Samples whose injections have nothing to do with the stem."""
    relevant: Sequence[PromptSet] = ()
    """Samples whose injections are about what the stem asks.

    Beside an irrelevant set each of their stems is also given the injections of a sample of that set, so that stems
    occur with both.
    """
    mismatched: Sequence[PromptSet] = ()
    """Relevant samples whose injections were exchanged (:func:`leakmech.datasets.relation.mismatched`): irrelevant
    prompts of the very stems and injections that relevant prompts have."""
    pairs: Sequence[AffectPair] = ()
    facts: Sequence[Fact] = ()
    """Facts that the stem after them asks for."""
    paired: bool = False
    """Only sentences that stand on both sides, and those of the irrelevant set."""
    arrangements: Sequence[TrainedArrangement] = ("before",)
    """Where injections stand, each in a part of the prompts."""
    teacher: float | None = None
    """The teacher's threshold (:mod:`leakmech.generation.leave_one_out`); None: there is none."""

    def texts(self) -> Iterator[tuple[Role, str]]:
        """Every stem and injection, with its role."""
        texts: dict[tuple[Role, str], None] = {}
        for dataset in (self.irrelevant, *self.relevant, *self.mismatched):
            for sample in dataset or ():
                injections = (sample.positive, sample.neutral, sample.negative)
                texts |= dict.fromkeys([("stem", sample.stem), *(("injection", text) for text in injections)])
        yield from texts
        for pair in self.pairs:
            yield "stem", pair.stem
            yield "injection", pair.injection
        for fact in self.facts:
            yield "stem", fact.stem
            yield "injection", fact.fact

    def hashes(self) -> dict[str, str]:
        """Content hash of each source."""
        datasets = (self.irrelevant, *self.relevant, *self.mismatched)
        found: dict[str, str] = {}
        for dataset in filter(None, datasets):
            same = sum(name.partition("#")[0] == dataset.name for name in found)
            found[f"{dataset.name}#{same + 1}" if same else dataset.name] = dataset.content_hash
        if self.pairs:
            found["relevant_pairs"] = content_hash(*(str(pair.to_dict()) for pair in self.pairs))
        if self.facts:
            found["facts"] = content_hash(*(f"{fact.fact} {fact.stem}" for fact in self.facts))
        return found


@dataclass(frozen=True)
class Candidate:
    """A prompt before it is rendered."""

    kind: ExampleKind
    stem: str
    injection: str | None = None
    polarity: Polarity | None = None
    group: str | None = None
    """The sentence whose prompts belong together, where they are paired."""
    arrangement: TrainedArrangement = "before"
    fillers: tuple[str, str] | None = None
    """Sentences before and after the injection, in ``middle``."""

    def rendered(self, renderer: Renderer, *, reference: bool = False) -> str:
        """What the model reads of it; `reference` is what the base model reads in its place."""
        without = reference and self.kind == "irrelevant"
        said = replace(self, injection=None).said if without else self.said
        return self.renderer(renderer).read(self.stem, said)

    def renderer(self, renderer: Renderer) -> Renderer:
        """What puts its injection where it stands."""
        if self.arrangement not in PLACES or self.arrangement == renderer.prompting.place:
            return renderer
        return replace(renderer, prompting=replace(renderer.prompting, place=self.arrangement))

    def prompt(self, renderer: Renderer) -> Prompt:
        """It as the prompt of a sample, whose body can be rewritten."""
        said = self.said or ""
        sample = Sample(content_hash(self.stem, said), self.stem, said, said, said)
        return self.renderer(renderer).prompt(sample, "positive")

    @property
    def said(self) -> str | None:
        """All that stands before the stem."""
        parts = (self.injection,) if self.fillers is None else (self.fillers[0], self.injection, self.fillers[1])
        return " ".join(filter(None, parts)) or None


def all_candidates(
    sources: TrainingSources, polarities: Sequence[Polarity], seed: int
) -> dict[ExampleKind, list[Candidate]]:
    """Every prompt once, by kind."""
    found = dict.fromkeys(
        (
            *_of_samples(sources, polarities, seed),
            *(c for p in sources.pairs for c in _of_pair(p, polarities)),
            *(Candidate("facts", fact.stem, fact.fact) for fact in sources.facts),
        )
    )
    if sources.teacher is not None:  # of whatever kind: it is not told
        taught = [c for c in found if c.kind in ("irrelevant", "relevant", "neutral")]
        found |= dict.fromkeys(replace(c, kind="teacher") for c in taught)
    grouped = _paired(list(found), sources) if sources.paired else list(found)
    arranged = _arranged(grouped, sources, seed)
    return {kind: [candidate for candidate in arranged if candidate.kind == kind] for kind in KINDS}


def _paired(candidates: Sequence[Candidate], sources: TrainingSources) -> list[Candidate]:
    """The candidates with their groups; sentences of relevant samples that stand on one side only are left out."""
    relevant = {c.injection for c in candidates if c.kind == "relevant"}
    irrelevant = {c.injection for c in candidates if c.kind == "irrelevant"}
    own = {sample.injection(polarity) for sample in sources.irrelevant or () for polarity in POLARITIES}
    kept = (relevant & irrelevant) | own
    beside: dict[str, str | None] = {}
    for candidate in candidates:
        if candidate.kind == "irrelevant" and candidate.injection in kept:
            beside.setdefault(candidate.stem, candidate.injection)
    found = []
    for candidate in candidates:
        if candidate.polarity is None:  # a plain prompt belongs to an irrelevant one of its stem
            group = beside.get(candidate.stem) if candidate.kind == "plain" else None
            found.append(replace(candidate, group=group))
        elif candidate.injection in kept:
            found.append(replace(candidate, group=candidate.injection))
    return found


def _arranged(candidates: Sequence[Candidate], sources: TrainingSources, seed: int) -> list[Candidate]:
    """The candidates where they stand; of one sentence all in the same arrangement."""
    places = sources.arrangements
    if tuple(places) == ("before",):
        return list(candidates)
    neutral = sorted({c.injection for c in candidates if c.kind == "neutral" and c.injection})
    found = []
    for candidate in candidates:
        place = places[stable_hash(seed, "arrangement", candidate.group or candidate.injection) % len(places)]
        fillers = None
        if place == "middle":
            others = [text for text in neutral if text != candidate.injection]
            if len(others) < 2:
                raise DatasetError("arrangement 'middle': needs the neutral injections of two other samples")
            first = stable_hash(seed, "filler", candidate.stem) % len(others)
            fillers = (others[first], others[(first + 1 + len(others) // 3) % len(others)])
        found.append(replace(candidate, arrangement=place, fillers=fillers))
    return found


def _of_samples(sources: TrainingSources, polarities: Sequence[Polarity], seed: int) -> Iterator[Candidate]:
    irrelevant = sources.irrelevant.samples if sources.irrelevant else ()
    for sample in irrelevant:
        yield Candidate("plain", sample.stem)
        yield Candidate("neutral", sample.stem, sample.neutral)
        for polarity in polarities:
            yield Candidate("irrelevant", sample.stem, sample.injection(polarity), polarity)
    for sample in (sample for dataset in sources.mismatched for sample in dataset):
        for polarity in polarities:
            yield Candidate("irrelevant", sample.stem, sample.injection(polarity), polarity)
    for sample in (sample for dataset in sources.relevant for sample in dataset):
        yield Candidate("plain", sample.stem)
        yield Candidate("neutral", sample.stem, sample.neutral)
        for polarity in polarities:
            yield Candidate("relevant", sample.stem, sample.injection(polarity), polarity)
            if irrelevant:
                other = irrelevant[stable_hash(seed, "other", sample.stem) % len(irrelevant)]
                yield Candidate("irrelevant", sample.stem, other.injection(polarity), polarity)


def _of_pair(pair: AffectPair, polarities: Sequence[Polarity]) -> Iterator[Candidate]:
    yield Candidate("plain", pair.stem)
    if pair.polarity in polarities:
        kind: ExampleKind = "relevant" if pair.relevant else "irrelevant"
        yield Candidate(kind, pair.stem, pair.injection, pair.polarity)
