"""Every choice that Algorithm 1 leaves open, with its default; see leakmech/prompts/aexl.py for the algorithm."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from leakmech.core.errors import ConfigError, nearest
from leakmech.datasets.filters import InjectionRules
from leakmech.datasets.stems import StemEnd, StemRules

TEST, FIT, TUNE = "test", "fit", "tune"

StemSource = Literal["any", "neutral"]
Sentences = Literal["split", "single"]


@dataclass(frozen=True)
class AexlSettings:
    """Every choice that Algorithm 1 leaves open.

    Attributes
    ----------
    corpus, text_column, group_column, subset, corpus_split, revision
        What to read; see :func:`leakmech.datasets.corpus.open_corpus`.
    limit
        Read only the first N texts of the corpus.
    sentences
        ``"split"``: every sentence of a text is used; ``"single"``: only texts of one sentence.
    estimator, encoder
        Names of the expression estimator that selects, and of the sentence encoder behind `max_similarity`.
    samples, fit, tune
        Number of samples in the splits ``test``, ``fit`` and ``tune``. Together they are the k combinations.
    m
        Sentences kept of each class, by confidence; default: three for every two samples of any split.
    n
        Injections drawn from these, in proportion to confidence; default: five for every four samples. With fewer
        injections than samples, injections recur within a split.
    min_confidence
        Least probability of its class for an injection.
    min_words, max_words
        Length of an injection.
    stem_end, min_stem_words, max_stem_words
        See :class:`leakmech.datasets.stems.StemRules`.
    stem_source
        ``"any"``: stems are cut from any sentences; ``"neutral"``: from sentences of the class neutral.
    min_stem_neutral
        Least probability of neutral for a stem by itself, so that the control condition carries no affect.
    stem_pool
        Number of stems to choose from; default: twenty for every sample.
    match_length
        Give the injections of a sample the same number of words, as far as possible.
    max_overlap
        Texts that share this part of their words or more (Jaccard) are near duplicates; one of them is dropped.
    max_similarity
        Largest cosine similarity in meaning of a stem with its injections; 1 for any.
    profanity_filter, personal_data_filter
        See :class:`leakmech.datasets.filters.InjectionRules`.
    standalone_filter
        Refuse injections that lean on another sentence or are no statement.
    seed
        Decides every draw.
    """

    corpus: str = "embedded"
    text_column: str = "text"
    group_column: str | None = None
    subset: str | None = None
    corpus_split: str = "train"
    revision: str | None = None
    limit: int | None = None
    sentences: Sentences = "split"
    estimator: str = "embedded"
    encoder: str = "embedded"
    samples: int = 200
    fit: int = 0
    tune: int = 0
    m: int | None = None
    n: int | None = None
    min_confidence: float = 0.5
    min_words: int = 4
    max_words: int = 20
    stem_end: StemEnd = "linking-verb"
    min_stem_words: int = 3
    max_stem_words: int = 8
    stem_source: StemSource = "any"
    min_stem_neutral: float = 0.5
    stem_pool: int | None = None
    match_length: bool = True
    max_overlap: float = 0.7
    max_similarity: float = 0.3
    profanity_filter: bool = True
    personal_data_filter: bool = True
    standalone_filter: bool = True
    seed: int = 0

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Check `values` and fill in what follows from them.

        Raises
        ------
        ConfigError
            A name is unknown, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"build-aexl: unknown setting {key!r}{nearest(key, known)}")
        settings = cls(**values)
        total = settings.total
        settings = replace(
            settings,
            m=-(-3 * total // 2) if settings.m is None else settings.m,
            n=-(-5 * total // 4) if settings.n is None else settings.n,
            stem_pool=20 * total if settings.stem_pool is None else settings.stem_pool,
        )
        settings._check()
        return settings

    @property
    def total(self) -> int:
        """Samples in all splits."""
        return self.samples + self.fit + self.tune

    @property
    def sizes(self) -> dict[str, int]:
        """Samples in each split that has any."""
        return {name: size for name, size in ((TEST, self.samples), (FIT, self.fit), (TUNE, self.tune)) if size}

    def injection_rules(self) -> InjectionRules:
        """The filters of injections."""
        return InjectionRules(
            min_words=self.min_words,
            max_words=self.max_words,
            profanity=self.profanity_filter,
            personal_data=self.personal_data_filter,
            standalone=self.standalone_filter,
        )

    def stem_rules(self) -> StemRules:
        """How stems are cut."""
        return StemRules(
            min_words=self.min_stem_words,
            max_words=self.max_stem_words,
            end=self.stem_end,
            profanity=self.profanity_filter,
            personal_data=self.personal_data_filter,
        )

    def _check(self) -> None:
        for name in ("samples", "m", "n", "stem_pool"):
            if getattr(self, name) < 1:
                raise ConfigError(f"build-aexl: {name} must be at least 1, found {getattr(self, name)}")
        for name in ("fit", "tune", "limit"):
            if getattr(self, name) is not None and getattr(self, name) < (name == "limit"):
                raise ConfigError(f"build-aexl: {name} must not be negative or empty, found {getattr(self, name)}")
        for name in ("min_confidence", "min_stem_neutral", "max_overlap", "max_similarity"):
            if not 0 <= getattr(self, name) <= 1 or (name == "max_overlap" and self.max_overlap == 0):
                raise ConfigError(f"build-aexl: {name} must lie between 0 and 1, found {getattr(self, name)}")
        for name, choices in (("sentences", get_args(Sentences)), ("stem_source", get_args(StemSource))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"build-aexl: {name}: {getattr(self, name)!r}{nearest(getattr(self, name), choices)}")
        if (self.n or 0) > (self.m or 0):
            raise ConfigError(f"build-aexl: n = {self.n} injections cannot be drawn from m = {self.m}; raise --m")
        self.injection_rules()
        self.stem_rules()
