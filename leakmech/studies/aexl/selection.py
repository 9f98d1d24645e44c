"""AEXL by Algorithm 1 of Köprü et al. (2025): samples from a corpus, in memory that does not grow with the corpus.

1. An expression estimator reads every sentence. For each class (positive, neutral, negative) the `m` sentences with
   the highest confidence P[class] are kept (:class:`TopSentences`, a heap).
2. From these, `n` are drawn without replacement, in proportion to confidence: the injections
   (:func:`draw_in_proportion`). Drawing proportionally to w is taking the n largest of log w + g with standard Gumbel
   noise g, and g depends on seed and sentence only.
3. Stems. In the paper twice as many neutral sentences are drawn; the second half is cut, to five words here, and not
   injected. By default stems are cut from any corpus sentences where these stay open (:mod:`leakmech.datasets.stems`),
   and a bounded random pool of them is kept (:class:`StemPool`).
4. `k` combinations of one stem with one injection of every class are the samples (:func:`combine`). By default three
   things are asked for that the paper does not ask for: injections of one sample of equal length (in words), stem and
   injections from different parts of the corpus, and unlike in meaning. No text stands in two splits.

Every choice is an option of :class:`leakmech.studies.aexl.settings.AexlSettings`; ``algorithm`` sets them all to the
paper's or to ours. Always, and not in the paper: white space is made single spaces, sentences without a word and copies
of a sentence are left out, and a stem that repeats an earlier stem or an injection is replaced by the next draw.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import DatasetError
from leakmech.core.seeds import stable_hash
from leakmech.datasets.filters import words
from leakmech.datasets.overlap import OverlapIndex
from leakmech.datasets.samples import INJECTIONS, Sample

Embed = Callable[[Sequence[str]], Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Candidate:
    """A sentence (or stem) of the corpus, as it will stand in a prompt."""

    text: str
    position: int
    """Index of the corpus text that it comes from."""
    confidence: float = 0.0
    """The estimator's probability of its class; for a stem that of neutral."""
    group: str | None = None
    """The part of the corpus that it comes from, if the corpus says so."""
    origin: str = ""
    """For a stem, the whole sentence."""

    @property
    def key(self) -> str:
        """What is equal for texts that differ in case or punctuation only."""
        return " ".join(words(self.text))


@dataclass
class TopSentences:
    """The `size` different sentences with the highest confidence among those offered; of equal ones the first.

    `offered` counts what came in, `repeated` what was a copy of a sentence that is kept.
    """

    size: int
    offered: int = 0
    repeated: int = 0
    _heap: list[tuple[float, int, Candidate]] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)

    def offer(self, candidate: Candidate) -> None:
        """Keep the candidate if it is among the best so far."""
        self.offered += 1
        if len(self._heap) == self.size and candidate.confidence <= self._heap[0][0]:
            return
        key = candidate.key
        if key in self._keys:
            self.repeated += 1
            return
        self._keys.add(key)
        entry = (candidate.confidence, -self.offered, candidate)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, entry)
        else:
            _, _, dropped = heapq.heapreplace(self._heap, entry)
            self._keys.remove(dropped.key)

    def best(self) -> list[Candidate]:
        """What is kept, highest confidence first."""
        return [candidate for _, _, candidate in sorted(self._heap, reverse=True, key=lambda entry: entry[:2])]


@dataclass
class StemPool:
    """A random `size` of the different stems that were offered: those with the smallest hash of (seed, stem).

    Which ones depends neither on their order nor on how often a stem occurs.
    """

    size: int
    seed: int
    offered: int = 0
    _heap: list[tuple[int, str, Candidate]] = field(default_factory=list)
    _keys: set[str] = field(default_factory=set)

    def offer(self, stem: Candidate) -> None:
        """Keep the stem if its hash is among the smallest so far."""
        self.offered += 1
        key = stem.key
        rank = -stable_hash(self.seed, "stem", key)
        if key in self._keys or (len(self._heap) == self.size and rank <= self._heap[0][0]):
            return
        self._keys.add(key)
        if len(self._heap) < self.size:
            heapq.heappush(self._heap, (rank, key, stem))
        else:
            self._keys.remove(heapq.heapreplace(self._heap, (rank, key, stem))[1])

    def stems(self) -> list[Candidate]:
        """What is kept, in random but fixed order."""
        return [stem for _, _, stem in sorted(self._heap, reverse=True, key=lambda entry: entry[:2])]


def drop_near_duplicates(candidates: Iterable[Candidate], index: OverlapIndex) -> list[Candidate]:
    """The candidates, in order, of which `index` finds no near duplicate; each is added to the index as it is kept."""
    kept: list[Candidate] = []
    for candidate in candidates:
        if index.find(candidate.text) is None:
            index.add(candidate.text)
            kept.append(candidate)
    return kept


# -- drawing and combining ---------------------------------------------------------------------------------------------


def draw_in_proportion(candidates: Sequence[Candidate], n: int, *, seed: int) -> list[Candidate]:
    """`n` of the candidates without replacement, each draw in proportion to confidence; in the order of drawing."""

    def score(candidate: Candidate) -> float:
        return math.log(candidate.confidence) - math.log(-math.log(_uniform(seed, "draw", candidate.key)))

    return sorted(candidates, key=score, reverse=True)[:n]


def _uniform(*address: object) -> float:
    """A number in (0, 1) that depends on `address` only."""
    return ((stable_hash(*address) & (2**52 - 1)) + 0.5) / 2**52


@dataclass(frozen=True)
class Combining:
    """How stems and injections become samples, whose ids begin with `name`."""

    name: str
    seed: int
    match_length: bool
    """Whether the injections of a sample are chosen to have the same number of words."""
    max_similarity: float
    """Largest cosine similarity of stem and injection in meaning; 1 for any."""
    embed: Embed
    """Texts to unit vectors; not called if any similarity will do."""
    separate: bool = True
    """Whether stem and injections come from different parts of the corpus."""


Triple = Mapping[str, Candidate]


def combine(
    injections: Mapping[str, Sequence[Candidate]],
    stems: Sequence[Candidate],
    *,
    sizes: Mapping[str, int],
    combining: Combining,
) -> list[Sample]:
    """Samples for every split, ``sizes[split]`` of them; no stem and no injection stands in two splits.

    Every split gets its share of the injections. Where a split gets fewer than it has samples, they recur within it.
    """
    total = sum(sizes.values())
    fits = _Fits(stems, combining)
    samples: list[Sample] = []
    start = 0
    for split, size in sizes.items():
        own = {
            condition: candidates[start * len(candidates) // total : (start + size) * len(candidates) // total]
            for condition, candidates in injections.items()
        }
        start += size
        empty = [condition for condition, candidates in own.items() if size and not candidates]
        if empty:
            raise DatasetError(f"split {split!r}: gets no {empty[0]} injection of its own; raise --n, or ask for less")
        samples += _combine_split(own, fits, split=split, size=size)
    return samples


def _combine_split(
    injections: Mapping[str, Sequence[Candidate]], fits: _Fits, *, split: str, size: int
) -> list[Sample]:
    combining = fits.combining
    pools = {condition: _at_least(candidates, size) for condition, candidates in injections.items()}
    triples = _matched(pools, combining.seed) if combining.match_length else _shuffled(pools)
    samples: list[Sample] = []
    prefix = combining.name if split == "test" else f"{combining.name}-{split}"
    while len(samples) < size:
        triple = next(triples, None)
        if triple is None:
            raise DatasetError(
                f"split {split!r}: only {len(samples)} of {size} samples could be combined, {fits.left} stems are left "
                "over that fit no injections; use a larger corpus, raise --n or --stem-pool, or raise --max-similarity"
            )
        stem = fits.take(triple)
        if stem is not None:
            parts = ", ".join(f"{name} {candidate.position}" for name, candidate in (("stem", stem), *triple.items()))
            samples.append(
                Sample(
                    id=f"{prefix}-{len(samples) + 1:04d}",
                    stem=stem.text,
                    **{condition: triple[condition].text for condition in INJECTIONS},
                    split=split,
                    source=f"corpus texts: {parts}",
                )
            )
    return samples


def _at_least(candidates: Sequence[Candidate], size: int) -> list[Candidate]:
    """The candidates, over and over until there are `size`."""
    return list(candidates) * max(1, math.ceil(size / max(1, len(candidates))))


def _shuffled(pools: Mapping[str, Sequence[Candidate]]) -> Iterator[Triple]:
    """Triples in the order of drawing, which is random."""
    for parts in zip(*pools.values(), strict=False):
        yield dict(zip(pools, parts, strict=True))


def _matched(pools: Mapping[str, Sequence[Candidate]], seed: int) -> Iterator[Triple]:
    """Triples whose lengths in words differ by 0, as many as there are; then by 1, and so on, until none is left.

    Along three lists sorted by length, the shortest of the three heads is dropped until they are close enough. Among
    triples of one difference the order is random.
    """
    left = {condition: _by_length(candidates) for condition, candidates in pools.items()}
    tolerance = 0
    while all(left.values()):
        found, rest = _within(left, tolerance)
        found.sort(key=lambda triple: stable_hash(seed, "triple", *(one.key for one in triple.values())))
        yield from found
        left, tolerance = {condition: _by_length(candidates) for condition, candidates in rest.items()}, tolerance + 1


def _by_length(candidates: Iterable[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda candidate: len(words(candidate.text)))


def _within(
    sorted_pools: Mapping[str, Sequence[Candidate]], tolerance: int
) -> tuple[list[Triple], dict[str, list[Candidate]]]:
    """Triples whose longest and shortest part differ by at most `tolerance` words, and what is left over."""
    queues = {condition: list(reversed(candidates)) for condition, candidates in sorted_pools.items()}
    rest: dict[str, list[Candidate]] = {condition: [] for condition in queues}
    found: list[Triple] = []
    while all(queues.values()):
        lengths = {condition: len(words(queue[-1].text)) for condition, queue in queues.items()}
        shortest = min(lengths, key=lambda condition: lengths[condition])
        if max(lengths.values()) - lengths[shortest] <= tolerance:
            found.append({condition: queue.pop() for condition, queue in queues.items()})
        else:
            rest[shortest].append(queues[shortest].pop())
    for condition, queue in queues.items():
        rest[condition] += queue
    return found, rest


class _Fits:
    """Hands out each stem once, to injections that it has nothing to do with."""

    def __init__(self, stems: Sequence[Candidate], combining: Combining) -> None:
        self.combining = combining
        self._stems = list(stems)
        self._free = np.ones(len(self._stems), dtype=bool)
        self._vectors = combining.embed([stem.text for stem in stems]) if combining.max_similarity < 1 else None

    @property
    def left(self) -> int:
        return int(self._free.sum())

    def take(self, triple: Triple) -> Candidate | None:
        """The first free stem that fits the triple, or None."""
        groups = {candidate.group for candidate in triple.values()} - {None} if self.combining.separate else set()
        allowed = self._free & np.array([stem.group not in groups for stem in self._stems], dtype=bool)
        if self._vectors is not None and allowed.any():
            injected = self.combining.embed([candidate.text for candidate in triple.values()])
            allowed &= (self._vectors @ injected.T).max(axis=1) <= self.combining.max_similarity
        if not allowed.any():
            return None
        index = int(allowed.argmax())
        self._free[index] = False
        return self._stems[index]


# -- the result, checked -----------------------------------------------------------------------------------------------


def check_disjoint(samples: Iterable[Sample], max_overlap: float = 1.0) -> None:
    """Check that no text of one split stands in another, nor one whose words overlap by `max_overlap` or more.

    Stems are compared with stems and injections with injections; a text is never both stem and injection.
    """
    samples = list(samples)
    stems = [(sample.split, sample.stem) for sample in samples]
    injections = [(sample.split, getattr(sample, condition)) for sample in samples for condition in INJECTIONS]
    for texts in (stems, injections):
        indices: dict[str | None, OverlapIndex] = {}
        for split, text in texts:
            for other, index in indices.items():
                twin = index.find(text) if other != split else None
                if twin is not None:
                    raise DatasetError(f"splits {other!r} and {split!r} share a text: {twin!r} and {text!r}")
            indices.setdefault(split, OverlapIndex(max_overlap)).add(text)
    both = {" ".join(words(text)) for _, text in stems} & {" ".join(words(text)) for _, text in injections}
    if both:
        raise DatasetError(f"{min(both)!r} is both a stem and an injection")
