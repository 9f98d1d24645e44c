"""Which of the sentences that a scan kept become injections, and which are cut to stems.

Injections of a class are drawn in proportion to confidence from its `m` surest sentences. Stems come from a pool of
cut sentences, or from the neutral sentences that are drawn after the neutral injections: of 2 n drawn, the first n are
injections and the others are cut. A stem that cannot be used (it repeats another one, or breaks a rule that was asked
for) is replaced by the next draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from leakmech.core.errors import DatasetError
from leakmech.datasets.overlap import OverlapIndex
from leakmech.datasets.samples import INJECTIONS
from leakmech.scoring.classifiers import LABELS
from leakmech.studies.aexl.scan import Scan
from leakmech.studies.aexl.score_cache import CHUNK, ScoreCache
from leakmech.studies.aexl.selection import Candidate, draw_in_proportion, drop_near_duplicates
from leakmech.studies.aexl.settings import TEST, AexlSettings

NEUTRAL = "neutral"


def choose(
    found: Scan, settings: AexlSettings, cache: ScoreCache
) -> tuple[dict[str, list[Candidate]], list[Candidate]]:
    """The injections of each class in the order of drawing, and stems to combine with them, in random order.

    Counts of every step are added to ``found.counts``.
    """
    assert settings.n is not None
    best = {label: top.best() for label, top in found.top.items()}
    _refuse_too_few(found, settings, best)
    seen = OverlapIndex(settings.max_overlap)
    classes: dict[str, Any] = {}
    drawn: dict[str, list[Candidate]] = {}
    later: list[Candidate] = []
    for label in INJECTIONS:
        wanted = settings.drawn(label)
        distinct = drop_near_duplicates(best[label], seen)
        if len(distinct) < wanted:
            raise DatasetError(
                f"corpus {settings.corpus}: of m = {settings.kept(label)} {label} sentences {len(distinct)} are not "
                f"near duplicates, fewer than n = {wanted}; raise --m, lower --n, or raise --max-overlap"
            )
        order = draw_in_proportion(distinct, len(distinct), seed=settings.seed)
        drawn[label] = order[: settings.n]
        if settings.draws_stems and label == NEUTRAL:
            later = order[settings.n :]
        classes[label] = {
            "found": found.top[label].offered,
            "kept": len(best[label]),
            "distinct": len(distinct),
            "drawn": wanted,
            "least_confidence": round(min(one.confidence for one in order[:wanted]), 4),
        }
    cut = _cut(later, settings) if found.stems is None else found.stems.stems()
    neutral = _neutral(cut, settings, cache)
    elsewhere = _elsewhere(neutral, drawn, seen, settings)
    distinct_stems = drop_near_duplicates(elsewhere, OverlapIndex(settings.max_overlap))
    found.counts |= {"classes": classes}
    found.counts["stems"] |= {"drawn": len(later), "cut": len(cut)} if found.stems is None else {"pool": len(cut)}
    found.counts["stems"] |= {
        "neutral": len(neutral),
        "from_other_texts": len(elsewhere),
        "distinct": len(distinct_stems),
    }
    return drawn, distinct_stems


def _refuse_too_few(found: Scan, settings: AexlSettings, best: Mapping[str, Sequence[Candidate]]) -> None:
    """Refuse a corpus that holds fewer sentences of a class than are needed, with what it has of all classes."""
    short = [label for label in INJECTIONS if len(best[label]) < settings.kept(label)]
    if not short:
        return
    there = {label: top.offered - top.repeated for label, top in found.top.items()}
    counts = ", ".join(f"{label} {there[label]:,} of {settings.kept(label):,}" for label in INJECTIONS)
    most = settings.most_samples(there)
    fewer = "ask for fewer samples"
    if most:
        others = "".join(f" --{name} {size}" for name, size in settings.sizes.items() if name != TEST)
        fewer = f"ask for --samples {most}{others} or fewer"
    raise DatasetError(
        f"corpus {settings.corpus}: too few usable sentences of the class {short[0]} (found of needed: {counts}); "
        f"use a larger corpus, {fewer}, or lower --m and --n"
    )


# -- stems -------------------------------------------------------------------------------------------------------------


def _cut(sentences: Iterable[Candidate], settings: AexlSettings) -> list[Candidate]:
    """The stems of sentences that can be cut, in order."""
    rules = settings.stem_rules()
    cut = ((rules.cut(sentence.text), sentence) for sentence in sentences)
    return [replace(sentence, text=stem, origin=sentence.text) for stem, sentence in cut if stem is not None]


def _neutral(stems: Sequence[Candidate], settings: AexlSettings, cache: ScoreCache) -> list[Candidate]:
    """Stems that are neutral enough by themselves, and whose sentences are, if that is asked for."""
    if settings.min_stem_neutral == 0 and settings.stem_source != "neutral":
        return list(stems)
    neutral = LABELS.index("neutral")
    kept: list[Candidate] = []
    for start in range(0, len(stems), CHUNK):
        part = stems[start : start + CHUNK]
        scores = cache.scores([stem.text for stem in part])
        origins = cache.scores([stem.origin for stem in part]) if settings.stem_source == "neutral" else None
        for index, (stem, row) in enumerate(zip(part, scores, strict=True)):
            fits = origins is None or int(origins[index].argmax()) == neutral
            if fits and row[neutral] >= settings.min_stem_neutral:
                kept.append(replace(stem, confidence=float(row[neutral])))
    return kept


def _elsewhere(
    stems: Sequence[Candidate],
    drawn: Mapping[str, Sequence[Candidate]],
    seen: OverlapIndex,
    settings: AexlSettings,
) -> list[Candidate]:
    """Stems that are no injection, and come from other texts than the injections, if that is asked for."""
    injections = [candidate for own in drawn.values() for candidate in own]
    if not settings.separate_sources:
        taken = {candidate.key for candidate in injections}
        return [stem for stem in stems if stem.key not in taken]
    used = {candidate.position for candidate in injections}
    begun = {beginning for candidate in injections for beginning in _beginnings(candidate.key)}
    # A drawn sentence is in the index itself, and was kept because nothing before it is like it.
    return [
        stem
        for stem in stems
        if stem.position not in used
        and stem.key not in begun
        and (settings.draws_stems or seen.find(stem.origin) is None)
    ]


def _beginnings(key: str) -> Iterator[str]:
    """The first word, the first two words, and so on."""
    return accumulate(key.split(), lambda beginning, word: f"{beginning} {word}")
