"""Every choice that Algorithm 1 leaves open, with its default; see :mod:`leakmech.studies.aexl.selection`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from leakmech.core.errors import ConfigError, UsageError
from leakmech.core.store import read_json
from leakmech.datasets.filters import InjectionRules
from leakmech.datasets.stems import StemEnd, StemRules
from leakmech.runs.settings import Settings, Spelling

TEST, FIT, TUNE = "test", "fit", "tune"


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


class InjectionSettings(Settings):
    """How many samples there are, and which sentences become injections."""

    title: ClassVar[str] = "Samples and injections"

    estimator: str = Field("embedded", description="expression estimator that selects: embedded, vader, hub:<id>")
    encoder: str = Field("embedded", description="sentence encoder that --max-similarity is measured with")
    samples: int = Field(200, ge=1, description="samples of the split test, with three test prompts each")
    fit: int = Field(0, ge=0, description="samples of the split fit, which shares no text with the others")
    tune: int = Field(0, ge=0, description="samples of the split tune, which shares no text with the others")
    m: int | None = Field(None, ge=1, description="sentences kept of each class, by confidence; null: 1.5 a sample")
    n: int | None = Field(
        None, ge=1, description="injections drawn from these, in proportion to confidence; null: 1.25 a sample"
    )
    min_confidence: float = Field(0.5, ge=0, le=1, description="least probability of its class for an injection")
    min_words: int = Field(4, description="fewest words of an injection")
    max_words: int = Field(20, description="most words of an injection")


class StemSettings(Settings):
    """How stems are cut and chosen."""

    title: ClassVar[str] = "Stems"

    stem_end: StemEnd = Field("linking-verb", description="where sentences are cut")
    min_stem_words: int = Field(3, description="fewest words of a stem")
    max_stem_words: int = Field(8, description="most words of a stem")
    stem_source: Literal["any", "neutral"] = Field(
        "any", description="cut stems from any sentences, or from those of the class neutral"
    )
    min_stem_neutral: float = Field(0.5, ge=0, le=1, description="least probability of neutral for a stem by itself")
    stem_pool: int | None = Field(None, ge=1, description="stems to choose from; null: 20 a sample")


class FilterSettings(Settings):
    """What a sample must not have."""

    title: ClassVar[str] = "Filters"

    match_length: bool = Field(
        True, description="give the injections of a sample the same number of words, as far as possible"
    )
    max_overlap: float = Field(
        0.7, gt=0, le=1, description="share of words (Jaccard) from which texts are near duplicates; one is dropped"
    )
    max_similarity: float = Field(
        0.3, ge=0, le=1, description="largest cosine similarity in meaning of a stem with its injections; 1: any"
    )
    profanity_filter: bool = Field(True, description="refuse profanity and slurs")
    personal_data_filter: bool = Field(True, description="refuse e-mail and web addresses, telephone numbers, handles")
    standalone_filter: bool = Field(
        True, description="refuse injections that lean on another sentence or are not a statement"
    )


class AexlSettings(FilterSettings, StemSettings, InjectionSettings, CorpusSettings):
    """Every choice that Algorithm 1 leaves open.

    With fewer injections than samples, injections recur within a split.
    """

    command: ClassVar[str] = "data build-aexl"
    kind: ClassVar[str] = "dataset"
    title: ClassVar[str] = "Seed"

    seed: int = Field(0, description="decides every draw")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "build-aexl") -> Self:
        """Check `values`, and derive `m`, `n` and `stem_pool` from the number of samples if they are not given."""
        settings = super().parse(values, where=where)
        total = settings.total
        derived = {"m": -(-3 * total // 2), "n": -(-5 * total // 4), "stem_pool": 20 * total}
        missing = {name: value for name, value in derived.items() if getattr(settings, name) is None}
        settings = settings.model_copy(update=missing)
        if (settings.n or 0) > (settings.m or 0):
            raise ConfigError(f"{where}: n = {settings.n} injections cannot be drawn from m = {settings.m}; raise --m")
        settings.injection_rules()
        settings.stem_rules()
        return settings

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
