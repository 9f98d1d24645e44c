"""AEXL from any corpus: read, score, select, combine, check, write, with a data card beside the samples.

:mod:`leakmech.studies.aexl.selection` says what is computed. Here the parts are put together: the corpus is streamed
once, usable sentences are scored in chunks whose scores stay in the user's cache, and memory holds one chunk, the best
`m` sentences of each class and a pool of stems, however long the corpus is. A build that was interrupted is begun again
with the same call: chunks that were scored are read, not scored.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, Self

from leakmech.core.errors import DatasetError, UsageError
from leakmech.core.progress import Progress, no_progress
from leakmech.core.store import read_json, write_json, write_text
from leakmech.core.text import split_sentences
from leakmech.datasets.corpus import Corpus, Text, open_corpus
from leakmech.datasets.filters import tidy, words
from leakmech.datasets.overlap import OverlapIndex
from leakmech.datasets.samples import INJECTIONS, PromptSet, Sample
from leakmech.reports.tables import Table
from leakmech.runs.interrupt import interruptible
from leakmech.runs.settings import DEFAULT_MODEL
from leakmech.scoring.classifiers import LABELS
from leakmech.scoring.expression import Estimator, load_estimator
from leakmech.scoring.semantic import load_encoder
from leakmech.studies.aexl.card import card_markdown, card_tables
from leakmech.studies.aexl.check import token_counter
from leakmech.studies.aexl.score_cache import CHUNK, ScoreCache
from leakmech.studies.aexl.selection import (
    Candidate,
    Combining,
    StemPool,
    TopSentences,
    check_disjoint,
    combine,
    draw_in_proportion,
    drop_near_duplicates,
)
from leakmech.studies.aexl.settings import TEST, AexlSettings, file_of_test_split

FORMAT_VERSION = 1


@dataclass(frozen=True)
class AexlResult:
    """The data set that was built.

    Attributes
    ----------
    samples
        All samples; ``samples.split("test")`` and so on.
    files
        The file of each split.
    card
        Everything that the data card says (also in the .json file beside the samples).
    """

    samples: PromptSet
    files: dict[str, Path]
    card: dict[str, Any]

    def tables(self) -> list[Table]:
        """Counts of every stage, and lengths."""
        return card_tables(self.card)


def build_aexl(
    out: str | Path,
    *,
    estimator: str | Estimator = "embedded",
    tokenizer: str | None = DEFAULT_MODEL,
    progress: Progress = no_progress,
    **settings: Any,
) -> AexlResult:
    """Build AEXL (Köprü et al. 2025, Algorithm 1) from a corpus.

    Parameters
    ----------
    out
        A .jsonl file for the test split; ``<name>_fit.jsonl`` and ``<name>_tune.jsonl``, the data card ``<name>.md``
        and the same as ``<name>.json`` are written beside it. A folder stands for ``aexl.jsonl`` in it.
    estimator
        Name of an expression estimator, or one that is loaded already.
    tokenizer
        Model whose tokenizer counts the tokens of the card; None leaves them out.
    progress
        Where to report progress.
    **settings
        Fields of :class:`AexlSettings`, e.g. ``samples=100, fit=50, seed=0``.

    Returns
    -------
    AexlResult
        The same settings, corpus and estimator give the same files, to the byte.

    Raises
    ------
    UsageError
        A setting is out of range, the corpus cannot be read or holds too few sentences, or `out` holds a data set
        that was built otherwise.
    InterruptedRunError
        Ctrl-C or SIGTERM; what was scored is kept and the same call goes on from there.
    """
    name = estimator if isinstance(estimator, str) else estimator.name
    chosen = AexlSettings.parse(settings | {"estimator": name})
    path = file_of_test_split(Path(out))
    _refuse_other(path, chosen)
    corpus = open_corpus(
        chosen.corpus,
        text_column=chosen.text_column,
        group_column=chosen.group_column,
        subset=chosen.subset,
        split=chosen.corpus_split,
        revision=chosen.revision,
    )
    cache = ScoreCache(load_estimator(estimator) if isinstance(estimator, str) else estimator)
    with interruptible(path, lambda: "scores so far are saved", "the same call"):
        found = _Scan(corpus, chosen, cache).run(progress)
        drawn, stems = _select(found, chosen, cache)
        encoder = load_encoder(chosen.encoder) if chosen.max_similarity < 1 else None
        combining = Combining(
            name="aexl",
            seed=chosen.seed,
            match_length=chosen.match_length,
            max_similarity=chosen.max_similarity,
            embed=encoder or _no_embedding,
        )
        samples = combine(drawn, stems, sizes=chosen.sizes, combining=combining)
    check_disjoint(samples, chosen.max_overlap)
    files = _write_samples(path, samples, chosen)
    card = _card(
        found,
        files,
        encoder=encoder.details if encoder else None,
        tokenizer=tokenizer,
        lengths=_lengths(drawn, samples, tokenizer),
    )
    write_text(path.with_suffix(".md"), card_markdown(card))
    write_json(path.with_suffix(".json"), card)
    return AexlResult(PromptSet(path.stem, tuple(samples)), files, card)


def _no_embedding(texts: Sequence[str]) -> Any:
    raise AssertionError(f"nothing asks for the meaning of {len(texts)} texts")


# -- reading -----------------------------------------------------------------------------------------------------------


class _Scan:
    """One pass over the corpus: the best sentences of each class, a pool of stems, and counts of everything."""

    def __init__(self, corpus: Corpus, settings: AexlSettings, cache: ScoreCache) -> None:
        assert settings.m is not None
        assert settings.stem_pool is not None
        self.corpus, self.settings, self.cache = corpus, settings, cache
        self.top: dict[str, TopSentences] = {label: TopSentences(settings.m) for label in INJECTIONS}
        self.stems = StemPool(settings.stem_pool, settings.seed)
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
            "stems": {"cut": self.stems.offered},
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
            self._consider(tidy(sentence), text)

    def _consider(self, sentence: str, text: Text) -> None:
        stem = self._stem_rules.cut(sentence)
        if stem is not None:
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


# -- selecting ---------------------------------------------------------------------------------------------------------


def _select(
    found: _Scan, settings: AexlSettings, cache: ScoreCache
) -> tuple[dict[str, list[Candidate]], list[Candidate]]:
    """The injections that are drawn, and stems that are neutral, distinct, and from other sentences than these."""
    assert settings.m is not None
    assert settings.n is not None
    best = {label: top.best() for label, top in found.top.items()}
    counts = ", ".join(f"{label} {found.top[label].offered - found.top[label].repeated}" for label in INJECTIONS)
    short = [label for label in INJECTIONS if len(best[label]) < settings.m]
    if short:
        said = "no usable sentence" if not best[short[0]] else f"fewer usable sentences than m = {settings.m}"
        raise DatasetError(
            f"corpus {settings.corpus}: {said} of the class {short[0]} ({counts}); "
            "use a larger corpus, ask for fewer samples, or lower --m and --n"
        )
    injections = OverlapIndex(settings.max_overlap)
    classes: dict[str, Any] = {}
    drawn: dict[str, list[Candidate]] = {}
    for label in INJECTIONS:
        distinct = drop_near_duplicates(best[label], injections)
        if len(distinct) < settings.n:
            raise DatasetError(
                f"corpus {settings.corpus}: of m = {settings.m} {label} sentences {len(distinct)} are not near "
                f"duplicates, fewer than n = {settings.n}; raise --m, lower --n, or raise --max-overlap"
            )
        drawn[label] = draw_in_proportion(distinct, settings.n, seed=settings.seed)
        classes[label] = {
            "found": found.top[label].offered,
            "kept": len(best[label]),
            "distinct": len(distinct),
            "drawn": len(drawn[label]),
            "least_confidence": round(min(one.confidence for one in drawn[label]), 4),
        }
    stems = _neutral_stems(found, settings, cache)
    used = {candidate.position for own in drawn.values() for candidate in own}
    begun = {beginning for own in drawn.values() for candidate in own for beginning in _beginnings(candidate.key)}
    elsewhere = [
        stem
        for stem in stems
        if stem.position not in used and stem.key not in begun and injections.find(stem.origin) is None
    ]
    distinct_stems = drop_near_duplicates(elsewhere, OverlapIndex(settings.max_overlap))
    found.counts |= {"classes": classes}
    found.counts["stems"] |= {
        "pool": len(found.stems.stems()),
        "neutral": len(stems),
        "from_other_texts": len(elsewhere),
        "distinct": len(distinct_stems),
    }
    return drawn, distinct_stems


def _beginnings(key: str) -> Iterator[str]:
    """The first word, the first two words, and so on."""
    return accumulate(key.split(), lambda beginning, word: f"{beginning} {word}")


def _neutral_stems(found: _Scan, settings: AexlSettings, cache: ScoreCache) -> list[Candidate]:
    """Stems of the pool that are neutral enough and come from a sentence of the class that is asked for."""
    neutral = LABELS.index("neutral")
    pool = found.stems.stems()
    kept: list[Candidate] = []
    for start in range(0, len(pool), CHUNK):
        part = pool[start : start + CHUNK]
        scores = cache.scores([stem.text for stem in part])
        origins = cache.scores([stem.origin for stem in part]) if settings.stem_source == "neutral" else None
        for index, (stem, row) in enumerate(zip(part, scores, strict=True)):
            fits = origins is None or int(origins[index].argmax()) == neutral
            if fits and row[neutral] >= settings.min_stem_neutral:
                kept.append(replace(stem, confidence=float(row[neutral])))
    return kept


# -- writing -----------------------------------------------------------------------------------------------------------


def _refuse_other(path: Path, settings: AexlSettings) -> None:
    """Refuse to write over a data set that was built with other settings, or over a file of another origin."""
    card = path.with_suffix(".json")
    if not path.exists() and not card.exists():
        return
    stored = read_json(card).get("settings") if card.exists() else None
    if stored != settings.identity():
        raise UsageError(f"{path}: exists and was built with other settings; choose another --out, or delete it")


def _write_samples(path: Path, samples: Sequence[Sample], settings: AexlSettings) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for split in settings.sizes:
        files[split] = path if split == TEST else path.with_stem(f"{path.stem}_{split}")
        own = tuple(sample for sample in samples if sample.split == split)
        PromptSet(files[split].stem, own).save(files[split])
    return files


def _card(
    found: _Scan,
    files: Mapping[str, Path],
    *,
    encoder: Mapping[str, Any] | None,
    tokenizer: str | None,
    lengths: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the data card says."""
    settings = found.settings
    return {
        "format_version": FORMAT_VERSION,
        "kind": "dataset",
        "settings": settings.identity(),
        "corpus": dict(found.corpus.details) | {"texts": found.n_texts, "hash": found.hash},
        "estimator": dict(found.cache.estimator.details),
        "encoder": encoder,
        "counts": found.counts,
        "tokenizer": tokenizer,
        "lengths": lengths,
        "files": {
            split: {"file": file.name, "samples": settings.sizes[split], "sha256": _sha256(file)}
            for split, file in files.items()
        },
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _lengths(
    drawn: dict[str, list[Candidate]], samples: Sequence[Sample], tokenizer: str | None
) -> dict[str, dict[str, float]]:
    """Mean lengths of the injections of each condition, as drawn and as chosen, and of the stems."""
    texts = {f"{label} drawn": [one.text for one in drawn[label]] for label in INJECTIONS}
    texts |= {f"{label} chosen": [getattr(sample, label) for sample in samples] for label in INJECTIONS}
    texts["stem"] = [sample.stem for sample in samples]
    count = token_counter(tokenizer) if tokenizer else None
    lengths: dict[str, dict[str, float]] = {}
    for name, own in texts.items():
        lengths[name] = {"words": round(sum(len(words(text)) for text in own) / len(own), 2)}
        if count is not None:
            lengths[name]["tokens"] = round(sum(count(own)) / len(own), 2)
    return lengths
