"""Relevant affect from documents: a sentence with feeling, and the sentence after it.

In the archive of Hutto & Gilbert (2014) the ids of product reviews and newspaper editorials say which sentences follow
each other, and people rated every sentence. A stem cut from sentence k + 1 of a document therefore has

    a relevant injection    sentence k of the same document, if its mean rating is at least `MIN_RATING` away from 0,
    irrelevant injections   such sentences of another document, one of either polarity.

Stems are cut as for AEXL (:mod:`leakmech.datasets.stems`), after a linking verb where there is one, else before a new
phrase. Injections pass the same rules (:mod:`leakmech.datasets.filters`), but may lean on other sentences and be
longer: under AEXL's own rules a quarter as many would be left. Each stem is in a relevant and in irrelevant pairs,
so that only the relation of injection and stem tells them apart. Whether a sentence bears on the next one is not
checked by a person: neighbours in one document are about the same thing more often than not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import pandas as pd

from leakmech.core.errors import DatasetError
from leakmech.core.seeds import stable_hash
from leakmech.datasets.archive import fetch_archive, load_ratings
from leakmech.datasets.filters import InjectionRules, tidy
from leakmech.datasets.overlap import OverlapIndex
from leakmech.datasets.samples import INJECTIONS, Polarity, PromptSet
from leakmech.datasets.stems import StemRules

STEM_RULES = (StemRules(), StemRules(end="phrase"))
INJECTION_RULES = InjectionRules(max_words=30, standalone=False)
MIN_RATING = 1.0
"""Least distance from 0 of a mean rating (-4 to 4) that counts as affect."""
SOURCES_WITH_ORDER = ("amazon", "nyt")
_POSITIONS = re.compile(r"(?:stem|positive|neutral|negative) (\d+)")


@dataclass(frozen=True)
class AffectPair:
    """A stem with an injection that is relevant to it or not."""

    stem: str
    injection: str
    polarity: Polarity
    """Of the injection."""
    relevant: bool
    """Whether the stem is cut from the sentence after the injection in one document."""
    document: str
    """Document of the stem, for example ``amazon/17``."""
    injection_document: str

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready."""
        return asdict(self)


@dataclass(frozen=True)
class _Affective:
    """A sentence that may be an injection."""

    text: str
    polarity: Polarity
    document: str


def archive_pairs(
    *,
    exclude: Sequence[PromptSet] = (),
    max_overlap: float = 0.7,
    seed: int = 0,
    ratings: pd.DataFrame | None = None,
) -> list[AffectPair]:
    """Pairs from the archive of Hutto & Gilbert: for every stem one relevant and two irrelevant ones.

    Documents from which AEXL took a text for a data set in `exclude` are left out, and so are texts that share
    `max_overlap` of their words (Jaccard) or more with one of theirs.
    """
    frame = load_ratings(fetch_archive()) if ratings is None else ratings
    barred = _Barred.of(frame, exclude, max_overlap)
    followed = list(_followed(frame, barred))
    relevant: dict[str, AffectPair] = {}
    for stem, sentence in followed:  # a stem that several documents share counts once
        pair = AffectPair(stem, sentence.text, sentence.polarity, True, sentence.document, sentence.document)
        relevant.setdefault(stem.lower(), pair)
    if not relevant:
        raise DatasetError("relevant pairs: no sentence with affect is followed by a usable stem")
    sentences = [sentence for _, sentence in followed]
    pairs = []
    for pair in relevant.values():
        pairs += [pair, *_irrelevant(pair, sentences, seed)]
    return pairs


def _followed(frame: pd.DataFrame, barred: _Barred) -> Iterator[tuple[str, _Affective]]:
    """Yield every stem with the affective sentence before it."""
    for document, rows in _documents(frame):
        if document in barred.documents:
            continue
        for (index, text, rating), (next_index, next_text, _) in pairwise(rows):
            injection, following = tidy(text), tidy(next_text)
            stem = next((cut for rule in STEM_RULES if (cut := rule.cut(following))), None)
            if stem is None or next_index != index + 1 or abs(rating) < MIN_RATING:
                continue
            if INJECTION_RULES.refusal(injection) is None and not barred.has(injection) and not barred.has(stem):
                yield stem, _Affective(injection, "positive" if rating > 0 else "negative", document)


def _documents(frame: pd.DataFrame) -> Iterator[tuple[str, list[tuple[int, str, float]]]]:
    """Yield each document with (place in the document, text, rating) of its sentences."""
    for source in SOURCES_WITH_ORDER:
        own = frame[frame["source"] == source]
        for document, part in own.groupby("document", sort=False):
            columns = (part["id"], part["text"], part["mean_rating"])
            rows = [
                (int(name.rpartition("_")[2]), text, float(rating)) for name, text, rating in zip(*columns, strict=True)
            ]
            yield f"{source}/{document}", sorted(rows)


def _irrelevant(pair: AffectPair, sentences: Sequence[_Affective], seed: int) -> Iterable[AffectPair]:
    """A sentence of either polarity from another source where there is one, else from another document."""
    polarities: tuple[Polarity, ...] = ("positive", "negative")
    source = pair.document.partition("/")[0]
    for polarity in polarities:
        own = [s for s in sentences if s.polarity == polarity and s.document != pair.document]
        elsewhere = [s for s in own if s.document.partition("/")[0] != source] or own
        if elsewhere:
            chosen = elsewhere[stable_hash(seed, "irrelevant", polarity, pair.stem) % len(elsewhere)]
            yield AffectPair(pair.stem, chosen.text, polarity, False, pair.document, chosen.document)


@dataclass(frozen=True)
class _Barred:
    """Documents and texts that are kept for evaluation."""

    documents: frozenset[str]
    texts: OverlapIndex

    @classmethod
    def of(cls, frame: pd.DataFrame, datasets: Sequence[PromptSet], max_overlap: float) -> _Barred:
        """The texts of the data sets, and the documents that AEXL took them from."""
        documents: set[str] = set()
        texts = OverlapIndex(max_overlap)
        for dataset in datasets:
            for sample in dataset:
                for text in (sample.stem, *(getattr(sample, condition) for condition in INJECTIONS)):
                    texts.add(text)
                if (sample.source or "").startswith("corpus texts:"):
                    documents |= {_document(frame, int(place)) for place in _POSITIONS.findall(sample.source or "")}
        return cls(frozenset(documents), texts)

    def has(self, text: str) -> bool:
        """Whether a text is a near duplicate of one that is kept for evaluation."""
        return self.texts.find(text) is not None


def _document(frame: pd.DataFrame, position: int) -> str:
    row = frame.iloc[position]
    return f"{row['source']}/{row['document']}"
