"""One pass over a corpus: which sentences may be injections, the surest of each class, and a pool of stems."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from itertools import islice
from typing import Any, Self

from leakmech.core.progress import Progress
from leakmech.core.text import split_sentences
from leakmech.datasets.corpus import Corpus, Text
from leakmech.datasets.filters import tidy
from leakmech.datasets.samples import INJECTIONS
from leakmech.scoring.classifiers import LABELS
from leakmech.studies.aexl.score_cache import CHUNK, ScoreCache
from leakmech.studies.aexl.selection import Candidate, StemPool, TopSentences
from leakmech.studies.aexl.settings import AexlSettings


class Scan:
    """One pass over the corpus: the best sentences of each class, a pool of stems, and counts of everything."""

    def __init__(self, corpus: Corpus, settings: AexlSettings, cache: ScoreCache) -> None:
        self.corpus, self.settings, self.cache = corpus, settings, cache
        self.top: dict[str, TopSentences] = {label: TopSentences(settings.kept(label)) for label in INJECTIONS}
        self.stems = None if settings.stem_pool is None else StemPool(settings.stem_pool, settings.seed)
        self.n_texts = self.n_sentences = self.n_usable = 0
        self.refused: Counter[str] = Counter()
        self.counts: dict[str, Any] = {}
        self._digest = hashlib.blake2b(digest_size=16)
        self._rules, self._stem_rules = settings.injection_rules(), settings.stem_rules()
        self._waiting: list[Candidate] = []

    @property
    def hash(self) -> str:
        """Hash of the texts that were read."""
        return self._digest.hexdigest()

    def run(self, progress: Progress) -> Self:
        size, limit = self.corpus.size, self.settings.limit
        total = size if limit is None else limit if size is None else min(size, limit)
        with progress("reading the corpus", total=total, done=0) as advance:
            for text in islice(self.corpus, limit):
                self._read(text)
                advance(1)
            self._score()
        self.counts = {
            "texts": self.n_texts,
            "sentences": self.n_sentences,
            "usable": self.n_usable,
            "refused": dict(sorted(self.refused.items(), key=lambda item: (-item[1], item[0]))),
            "stems": {} if self.stems is None else {"cut": self.stems.offered},
        }
        return self

    def _read(self, text: Text) -> None:
        self.n_texts += 1
        self._digest.update(f"{text.text}\x1e{text.group}\x1e".encode())
        sentences = split_sentences(text.text)
        if self.settings.sentences == "single" and len(sentences) > 1:
            self.refused["text of several sentences"] += len(sentences)
            self.n_sentences += len(sentences)
            return
        for sentence in sentences:
            self.n_sentences += 1
            self._consider(tidy(sentence) if self.settings.tidy else " ".join(sentence.split()), text)

    def _consider(self, sentence: str, text: Text) -> None:
        stem = None if self.stems is None else self._stem_rules.cut(sentence)
        if self.stems is not None and stem is not None:
            self.stems.offer(Candidate(stem, text.position, group=text.group, origin=sentence))
        refusal = self._rules.refusal(sentence)
        if refusal is not None:
            self.refused[refusal] += 1
            return
        self.n_usable += 1
        self._waiting.append(Candidate(sentence, text.position, group=text.group))
        if len(self._waiting) == CHUNK:
            self._score()

    def _score(self) -> None:
        """Score what is waiting and offer it to its class."""
        scores = self.cache.scores([candidate.text for candidate in self._waiting])
        for candidate, row in zip(self._waiting, scores, strict=True):
            best = int(row.argmax())
            confidence = float(row[best])
            if confidence < self.settings.min_confidence:
                self.refused["unsure class"] += 1
            else:
                self.top[LABELS[best]].offer(replace(candidate, confidence=confidence))
        self._waiting.clear()
