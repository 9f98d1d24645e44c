"""Every choice of Algorithm 1 and what we add to it, with defaults; see :mod:`leakmech.studies.aexl.selection`.

The setting ``algorithm`` says where the defaults of the others come from: ``leakmech`` has those of the fields below,
``paper`` those of :data:`PAPER`. Any setting can be given with either; what then differs from the paper is a departure,
which the data card names (:meth:`AexlSettings.departures`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from leakmech.core.errors import ConfigError, UsageError
from leakmech.core.store import read_json
from leakmech.datasets.filters import InjectionRules
from leakmech.datasets.stems import StemEnd, StemRules
from leakmech.runs.settings import Settings, Spelling

TEST, FIT, TUNE = "test", "fit", "tune"

PAPER: Mapping[str, Any] = {
    "tidy": False,
    "min_confidence": 0.0,
    "min_words": 1,
    "max_words": None,
    "stem_end": "words",
    "min_stem_words": 1,
    "max_stem_words": 5,
    "stem_source": "neutral-draw",
    "min_stem_neutral": 0.0,
    "match_length": False,
    "max_overlap": 1.0,
    "max_similarity": 1.0,
    "separate_sources": False,
    "form_filter": False,
    "profanity_filter": False,
    "personal_data_filter": False,
    "standalone_filter": False,
}
"""Algorithm 1 as Köprü et al. (2025) print it, without what we add. The paper does not say to how many words stems are
cut: five is our reading."""
_PAPER_MATERIAL = {
    "corpus": "agentlans/high-quality-english-sentences",
    "estimator": "hub:cardiffnlp/twitter-roberta-base-sentiment",
    "samples": 200,
    "fit": 0,
    "tune": 0,
    "limit": None,
}
"""What the paper built AEXL from, and how much of it. No setting is set to these; what differs is a departure."""
_PAPER_M = 3
"""m over n; the paper gives neither number, and this is our reading."""


class CorpusSettings(Settings):
    """What is read; see :func:`leakmech.datasets.corpus.open_corpus`."""

    title: ClassVar[str] = "Corpus"

    corpus: str = Field(
        "embedded",
        description="embedded, a .jsonl/.csv/.tsv/.parquet/.txt file, a folder, or a hub id, which is streamed",
    )
    text_column: str = Field("text", description="column of the texts")
    group_column: str | None = Field(
        None, description="column of a text's part of the corpus; stem and injections of a sample differ in it"
    )
    subset: str | None = Field(None, description="configuration of a hub data set")
    corpus_split: Annotated[str, Spelling("--split")] = Field("train", description="split of a hub data set")
    revision: str | None = Field(None, description="commit of a hub data set")
    limit: int | None = Field(None, ge=1, description="read only the first N texts of the corpus")
    sentences: Literal["split", "single"] = Field(
        "split", description="split: use every sentence of a text; single: only texts of one sentence"
    )
    tidy: bool = Field(
        True, description="begin sentences with a capital, end them in a full stop, join marks to words (paper: no)"
    )


class InjectionSettings(Settings):
    """How many samples there are, and which sentences become injections."""

    title: ClassVar[str] = "Samples and injections"

    estimator: str = Field(
        "embedded", description="expression estimator that selects: embedded, vader, ngrams, hub:<id>"
    )
    encoder: str = Field("embedded", description="sentence encoder that --max-similarity is measured with")
    samples: int = Field(200, ge=1, description="samples of the split test, with three test prompts each")
    fit: int = Field(0, ge=0, description="samples of the split fit, which shares no text with the others")
    tune: int = Field(0, ge=0, description="samples of the split tune, which shares no text with the others")
    m: int | None = Field(
        None,
        ge=1,
        description="sentences kept of each class, by confidence, twice as many of a neutral class that gives the "
        "stems, too; null: 1.5 a sample (paper: 3 n)",
    )
    n: int | None = Field(
        None,
        ge=1,
        description="injections drawn from these, in proportion to confidence; null: 1.25 a sample (paper: 1)",
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="least probability of its class for an injection (paper: 0)"
    )
    min_words: int = Field(4, description="fewest words of an injection (paper: 1)")
    max_words: int | None = Field(20, description="most words of an injection, none for any (paper: none)")


class StemSettings(Settings):
    """How stems are cut and chosen."""

    title: ClassVar[str] = "Stems"

    stem_end: StemEnd = Field(
        "linking-verb",
        description="cut sentences where they stay open, or after --max-stem-words words (paper: words)",
    )
    min_stem_words: int = Field(3, description="fewest words of a stem (paper: 1)")
    max_stem_words: int = Field(8, description="most words of a stem (paper: 5)")
    stem_source: Literal["any", "neutral", "neutral-draw"] = Field(
        "any",
        description="cut stems from any sentences, from those of the class neutral, or from neutral sentences that are "
        "drawn after the n injections (paper: neutral-draw)",
    )
    min_stem_neutral: float = Field(
        0.5, ge=0, le=1, description="least probability of neutral for a stem by itself (paper: 0)"
    )
    stem_pool: int | None = Field(
        None, ge=1, description="stems to choose from, unless they are drawn; null: 20 a sample"
    )


class FilterSettings(Settings):
    """What a sample must not have."""

    title: ClassVar[str] = "Filters"

    match_length: bool = Field(
        True, description="give the injections of a sample the same number of words, as far as possible (paper: no)"
    )
    max_overlap: float = Field(
        0.7,
        gt=0,
        le=1,
        description="share of words (Jaccard) from which texts are near duplicates; one is dropped (paper: 1)",
    )
    max_similarity: float = Field(
        0.3,
        ge=0,
        le=1,
        description="largest cosine similarity in meaning of a stem with its injections; 1: any (paper: 1)",
    )
    separate_sources: bool = Field(
        True,
        description="take the stem of a sample from another part of the corpus than its injections, and no stem from "
        "the text of an injection (paper: no)",
    )
    form_filter: bool = Field(
        True,
        description="refuse injections without a full stop, in capitals, with odd characters or slang (paper: no)",
    )
    profanity_filter: bool = Field(True, description="refuse profanity and slurs (paper: no)")
    personal_data_filter: bool = Field(
        True, description="refuse e-mail and web addresses, telephone numbers, handles (paper: no)"
    )
    standalone_filter: bool = Field(
        True, description="refuse injections that lean on another sentence or are not a statement (paper: no)"
    )


class AexlSettings(FilterSettings, StemSettings, InjectionSettings, CorpusSettings):
    """Every choice of Algorithm 1, and what is added to it.

    With fewer injections than samples, injections recur within a split.
    """

    command: ClassVar[str] = "data build-aexl"
    kind: ClassVar[str] = "dataset"
    title: ClassVar[str] = "Algorithm and seed"
    newer: ClassVar[Collection[str]] = ("algorithm", "tidy", "separate_sources", "form_filter")

    algorithm: Literal["leakmech", "paper"] = Field(
        "leakmech",
        description="where the other defaults come from; paper: Algorithm 1 without filters and matching, "
        "as said in brackets",
    )
    seed: int = Field(0, description="decides every draw")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "build-aexl") -> Self:
        """Check `values`, and derive what is not given from the algorithm and the number of samples."""
        settings = super().parse(values, where=where)
        if settings.algorithm == "paper":
            settings = super().parse({**PAPER, **values}, where=where)
        if settings.draws_stems and settings.stem_pool is not None:
            raise ConfigError(f"{where}: stem_pool has no effect where stems are drawn (stem_source neutral-draw)")
        derived = settings._derived()
        missing = {name: value for name, value in derived.items() if getattr(settings, name) is None}
        settings = settings.model_copy(update=missing)
        n, m = settings.n or 0, settings.m or 0
        if n > m:
            raise ConfigError(f"{where}: n = {n} injections cannot be drawn from m = {m}; raise --m")
        if settings.draws_stems and n < settings.total:
            raise ConfigError(f"{where}: n = {n} gives {n} stems, fewer than {settings.total} samples; raise --n")
        settings.injection_rules()
        settings.stem_rules()
        return settings

    def _derived(self) -> dict[str, int | None]:
        """What follows from the number of samples where it is not given."""
        total = self.total
        if self.algorithm == "paper":
            derived = {"m": _PAPER_M * (self.n or total), "n": total}
        else:
            derived = {"m": -(-3 * total // 2), "n": -(-5 * total // 4)}
        return derived | {"stem_pool": None if self.draws_stems else 20 * total}

    def identity(self) -> dict[str, Any]:
        """The settings that decide results, JSON-ready; all of them unless the algorithm is the older one."""
        return super().identity() if self.algorithm == "leakmech" else self.model_dump(mode="json")

    def departures(self) -> dict[str, dict[str, Any]]:
        """The settings whose values are others than in the paper's Algorithm 1, with both values."""
        n = self.n or 0
        paper = {**_PAPER_MATERIAL, "n": self.total, "m": _PAPER_M * n, **PAPER}
        here = self.model_dump(mode="json")
        return {name: {"here": here[name], "paper": value} for name, value in paper.items() if here[name] != value}

    @property
    def draws_stems(self) -> bool:
        """Are stems cut from neutral sentences that are drawn for it, not from a pool?"""
        return self.stem_source == "neutral-draw"

    def kept(self, label: str) -> int:
        """Sentences of a class that are kept by confidence: m, or 2 m if it gives injections and stems."""
        return (self.m or 0) * self._uses(label)

    def drawn(self, label: str) -> int:
        """Sentences of a class that are drawn in proportion to confidence: n, or 2 n likewise."""
        return (self.n or 0) * self._uses(label)

    def _uses(self, label: str) -> int:
        return 2 if self.draws_stems and label == "neutral" else 1

    def most_samples(self, found: Mapping[str, int]) -> int | None:
        """The samples of the split test that a corpus with so many sentences of each class can give.

        None if m or n was chosen, since then they do not follow from the number of samples.
        """
        derived = self._derived()
        if (self.m, self.n) != (derived["m"], derived["n"]):
            return None
        total = min(found[label] * self.total // self.kept(label) for label in found)
        return max(0, total - self.fit - self.tune)

    @classmethod
    def stored(cls, out: Path) -> dict[str, Any]:
        """The settings on the card of a data set that was built; none if there is none."""
        card = file_of_test_split(out).with_suffix(".json")
        return read_json(card).get("settings", {}) if card.exists() else {}

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
            form=self.form_filter,
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


def file_of_test_split(out: Path) -> Path:
    """The file of the test split, beside which the others lie: `out`, or ``aexl.jsonl`` in the folder `out`."""
    if out.suffix == ".jsonl" and not out.is_dir():
        return out
    if out.suffix and not out.is_dir():
        raise UsageError(f"{out}: expected a .jsonl file or a folder")
    return out / "aexl.jsonl"
