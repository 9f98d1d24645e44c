"""What is in a data set of samples, and what is wrong with it, before a model sees it.

Three things are checked. *Form*: every line parses, no stem and no injection occurs twice (samples would not be
independent), every text is one sentence where it should be. *Length*: tokens per condition, and how far the three
injections of one sample lie apart. *Meaning*: the sentiment class that the expression estimator gives every injection,
and the cosine similarity of injection and stem, which is low when the injection is irrelevant to the stem. In a set of
relevant affect, where it should not be, a high similarity is no reason for a warning.

What makes samples unusable is a problem; what deserves a look is a warning. An estimator is no human judge, so that
its disagreement with a label is never more than a warning.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from leakmech.core.errors import DatasetError
from leakmech.core.text import normalised_words, split_sentences
from leakmech.datasets.samples import (
    FITTING_DATASETS,
    INJECTIONS,
    RELEVANT_DATASETS,
    Condition,
    PromptSet,
    builtin_datasets,
    load_dataset,
)
from leakmech.reports.tables import Table
from leakmech.runs.settings import DEFAULT_MODEL
from leakmech.scoring.expression import LABELS, load_estimator
from leakmech.scoring.semantic import cosine_similarity, load_encoder

SIMILARITY_WARNING = 0.5

_DISAGREEMENTS_SHOWN = 20
_PAIRS_SHOWN = 5
_FINAL = (".", "!", "?", "…")


@dataclass(frozen=True)
class Disagreement:
    """An injection whose most probable class, by the estimator, is not the one it stands for."""

    line: int
    sample: str
    condition: Condition
    found: str
    probability: float
    text: str


@dataclass(frozen=True)
class SimilarPair:
    """An injection, its sample's stem, and the cosine similarity of the two."""

    line: int
    sample: str
    condition: Condition
    similarity: float
    injection: str
    stem: str


@dataclass(frozen=True)
class LengthSummary:
    """Mean, smallest and largest of some lengths in tokens."""

    mean: float
    smallest: int
    largest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> LengthSummary:
        return cls(float(np.mean(lengths)), min(lengths), max(lengths))


@dataclass(frozen=True)
class Measurements:
    """What was measured on a data set that could be read.

    Attributes
    ----------
    n_samples
        Number of samples.
    tokenizer, estimator, encoder
        Names of what measured.
    lengths
        Tokens of stems (``"stem"``) and of the injections of each condition.
    gap
        Longest minus shortest injection of one sample, in tokens, over all samples.
    widest
        Id of the sample with the largest gap.
    classes
        ``classes[condition][label]``: number of injections of a condition that the estimator finds most likely `label`.
    disagreements
        Injections in another class than their condition, the estimator's surest first.
    pairs
        Every injection with its stem, most similar first.
    """

    n_samples: int
    tokenizer: str
    estimator: str
    encoder: str
    lengths: dict[str, LengthSummary]
    gap: LengthSummary
    widest: str
    classes: dict[Condition, dict[str, int]]
    disagreements: tuple[Disagreement, ...]
    pairs: tuple[SimilarPair, ...]


@dataclass(frozen=True)
class DatasetReport:
    """What :func:`check_dataset` found.

    Attributes
    ----------
    name
        The data set as it was asked for.
    problems
        What makes samples unusable, each with file and line; empty for a sound data set.
    warnings
        What deserves a look, each with file and line where it has one.
    measurements
        None when the file could not be read.
    """

    name: str
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    measurements: Measurements | None

    def tables(self) -> list[Table]:
        """Lengths, classes and similarities as tables; none when the file could not be read."""
        if self.measurements is None:
            return []
        found = self.measurements
        return [_length_table(self.name, found), _class_table(found), _similarity_table(found)]


def check_dataset(
    name_or_path: str | Path,
    *,
    tokenizer: str | None = None,
    estimator: str = "embedded",
    encoder: str = "embedded",
    relevant: bool | None = None,
) -> DatasetReport:
    """Check a data set: form, lengths, sentiment class of every injection, similarity of injection and stem.

    Parameters
    ----------
    name_or_path
        A built-in name (``"hexl"``), or a JSONL / CSV file of samples.
    tokenizer
        Model whose tokenizer counts tokens, as :func:`leakmech.load_model` takes it; default: the embedded model.
    estimator, encoder
        See :func:`leakmech.load_estimator` and :func:`leakmech.scoring.semantic.load_encoder`.
    relevant
        Whether injections are meant to be about their stem, so that a similarity is no warning; by default, yes for the
        built-in sets of relevant affect and no for every other.

    Returns
    -------
    DatasetReport
        A file with a malformed line gives a report with that one problem and nothing measured.

    Raises
    ------
    DatasetError
        There is no such file and no such built-in data set.
    ModelError, EstimatorError
        The tokenizer, the estimator or the encoder cannot be loaded.
    """
    path = builtin_datasets().get(str(name_or_path), Path(name_or_path))
    try:
        samples = load_dataset(name_or_path)
    except DatasetError as error:
        if not path.exists():
            raise
        return DatasetReport(str(name_or_path), problems=(str(error),), warnings=(), measurements=None)
    lines = _sample_lines(path, len(samples))
    tokenizer = tokenizer or DEFAULT_MODEL
    relevant = str(name_or_path) in (*RELEVANT_DATASETS, *FITTING_DATASETS) if relevant is None else relevant
    measurements = _measure(samples, lines, tokenizer=tokenizer, estimator=estimator, encoder=encoder)
    return DatasetReport(
        name=str(name_or_path),
        problems=tuple(_problems(samples, path, lines)),
        warnings=(*_form_warnings(samples, path, lines), *_meaning_warnings(measurements, path, relevant=relevant)),
        measurements=measurements,
    )


# -- form ------------------------------------------------------------------------------------------------------------


def _sample_lines(path: Path, n_samples: int) -> list[int]:
    """Line number of each sample; a JSONL file has no other lines, a quoted CSV field may span several."""
    if path.suffix.lower() != ".csv":
        return list(range(1, n_samples + 1))
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    return [reader.line_num for _ in reader]


def _texts(samples: PromptSet, lines: Sequence[int]) -> Iterator[tuple[int, str, str]]:
    """(line, field, text) of every stem and injection, in file order."""
    for line, sample in zip(lines, samples, strict=True):
        for field in ("stem", *INJECTIONS):
            yield line, field, getattr(sample, field)


def _problems(samples: PromptSet, path: Path, lines: Sequence[int]) -> Iterator[str]:
    """Texts without a word, and texts that occur twice: stems among stems, injections among injections."""
    seen: dict[tuple[bool, str], tuple[int, str, str]] = {}
    for line, field, text in _texts(samples, lines):
        if not normalised_words(text):
            yield f"{path}:{line}: field {field!r}: {text!r} holds no word"
        key = (field == "stem", " ".join(text.casefold().split()))
        if key not in seen:
            seen[key] = line, field, text
            continue
        first_line, first_field, first_text = seen[key]
        same = "is the same text as" if text == first_text else "differs only in case or spaces from"
        yield f"{path}:{line}: field {field!r}: {text!r} {same} {first_field!r} in line {first_line}"


def _form_warnings(samples: PromptSet, path: Path, lines: Sequence[int]) -> Iterator[str]:
    for line, field, text in _texts(samples, lines):
        where = f"{path}:{line}: field {field!r}"
        ends = text.rstrip("\"'”’»)").endswith(_FINAL)
        if field == "stem":
            if ends:
                yield f"{where}: ends in final punctuation, so that there is nothing to complete: {text!r}"
            continue
        n_sentences = len(split_sentences(text))
        if n_sentences > 1:
            yield f"{where}: has {n_sentences} sentences instead of one: {text!r}"
        if not ends:
            yield f"{where}: has no final punctuation and would run into the stem: {text!r}"


# -- lengths and meaning ---------------------------------------------------------------------------------------------


def _measure(samples: PromptSet, lines: Sequence[int], *, tokenizer: str, estimator: str, encoder: str) -> Measurements:
    lengths = _token_lengths(samples, token_counter(tokenizer))
    gaps = [max(own) - min(own) for own in zip(*(lengths[condition] for condition in INJECTIONS), strict=True)]
    sentence_encoder = load_encoder(encoder)
    classify = load_estimator(estimator, encoder=sentence_encoder)
    injections = {condition: [getattr(sample, condition) for sample in samples] for condition in INJECTIONS}
    # One call: rows of equal texts are then equal to the last bit.
    flat = [text for condition in INJECTIONS for text in injections[condition]]
    probabilities = classify(flat).reshape(len(INJECTIONS), len(samples), len(LABELS))
    stems = sentence_encoder([sample.stem for sample in samples])
    similarities: dict[Condition, Float[np.ndarray, " samples"]] = {
        condition: cosine_similarity(sentence_encoder(injections[condition]), stems) for condition in INJECTIONS
    }
    return Measurements(
        n_samples=len(samples),
        tokenizer=tokenizer,
        estimator=estimator,
        encoder=encoder,
        lengths={field: LengthSummary.of(counts) for field, counts in lengths.items()},
        gap=LengthSummary.of(gaps),
        widest=samples.samples[int(np.argmax(gaps))].id,
        classes=_class_counts(probabilities),
        disagreements=tuple(_disagreements(samples, lines, probabilities)),
        pairs=tuple(_similar_pairs(samples, lines, similarities)),
    )


def token_counter(name: str) -> Callable[[list[str]], list[int]]:
    """A function that counts the tokens of texts, special ones left out."""
    # Here, not above: transformers takes seconds to import, and a broken file is reported without it.
    from leakmech.models.load import load_tokenizer

    tokenizer: Any = load_tokenizer(name)
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _token_lengths(samples: PromptSet, count: Callable[[list[str]], list[int]]) -> dict[str, list[int]]:
    return {field: count([getattr(sample, field) for sample in samples]) for field in ("stem", *INJECTIONS)}


def _class_counts(probabilities: Float[np.ndarray, "conditions samples 3"]) -> dict[Condition, dict[str, int]]:
    most_likely = probabilities.argmax(axis=-1)
    return {
        condition: {label: int((own == index).sum()) for index, label in enumerate(LABELS)}
        for condition, own in zip(INJECTIONS, most_likely, strict=True)
    }


def _disagreements(
    samples: PromptSet, lines: Sequence[int], probabilities: Float[np.ndarray, "conditions samples 3"]
) -> list[Disagreement]:
    found = []
    for condition, own in zip(INJECTIONS, probabilities, strict=True):
        for line, sample, row in zip(lines, samples, own, strict=True):
            label = LABELS[int(row.argmax())]
            if label != condition:
                text = getattr(sample, condition)
                found.append(Disagreement(line, sample.id, condition, label, float(row.max()), text))
    return sorted(found, key=lambda disagreement: -disagreement.probability)


def _similar_pairs(
    samples: PromptSet, lines: Sequence[int], similarities: Mapping[Condition, Float[np.ndarray, " samples"]]
) -> list[SimilarPair]:
    pairs = [
        SimilarPair(line, sample.id, condition, float(value), getattr(sample, condition), sample.stem)
        for condition, values in similarities.items()
        for line, sample, value in zip(lines, samples, values, strict=True)
    ]
    return sorted(pairs, key=lambda pair: -pair.similarity)


def _meaning_warnings(found: Measurements, path: Path, *, relevant: bool) -> Iterator[str]:
    for pair in found.pairs:
        if not relevant and pair.similarity > SIMILARITY_WARNING:
            yield (
                f"{path}:{pair.line}: field {pair.condition!r}: {pair.injection!r} is close to its stem {pair.stem!r} "
                f"(similarity {pair.similarity:.2f}); is it irrelevant?"
            )
    if found.disagreements:
        count = f"{len(found.disagreements)} of {len(found.pairs)}"
        yield (
            f"{path}: estimator {found.estimator!r} puts {count} injections in another class than the one they stand "
            "for; they are listed under the table of classes"
        )


# -- tables ----------------------------------------------------------------------------------------------------------


def _length_table(name: str, found: Measurements) -> Table:
    rows = [
        (field, f"{length.mean:.1f}", str(length.smallest), str(length.largest))
        for field, length in (*found.lengths.items(), ("gap", found.gap))
    ]
    return Table(
        title=f"{name}: {found.n_samples} samples, lengths in tokens of {found.tokenizer}",
        header=("text", "mean", "min", "max"),
        rows=rows,
        notes=[f"gap: longest minus shortest injection of one sample; widest in {found.widest}"],
    )


def _class_table(found: Measurements) -> Table:
    rows = [
        (
            condition,
            *(str(counts[label]) for label in LABELS),
            f"{counts[condition] / found.n_samples:.0%}".replace("%", " %"),
        )
        for condition, counts in found.classes.items()
    ]
    return Table(
        title=f"Class of the injections by the estimator {found.estimator!r}",
        header=("written as", *LABELS, "agrees"),
        rows=rows,
        notes=["The estimator is no human judge: a disagreement asks for a look, it is no error.", *_listed(found)],
    )


def _listed(found: Measurements) -> list[str]:
    shown = found.disagreements[:_DISAGREEMENTS_SHOWN]
    notes = [
        f"line {one.line}, {one.condition}: found {one.found}, P = {one.probability:.2f}: {one.text}" for one in shown
    ]
    left_out = len(found.disagreements) - len(shown)
    return [*notes, f"and {left_out} more"] if left_out else notes


def _similarity_table(found: Measurements) -> Table:
    rows = []
    for condition in INJECTIONS:
        own = [pair for pair in found.pairs if pair.condition == condition]
        rows.append((condition, f"{np.mean([pair.similarity for pair in own]):.2f}", f"{own[0].similarity:.2f}"))
    return Table(
        title=f"Cosine similarity of injection and stem by the encoder {found.encoder!r}",
        header=("condition", "mean", "max"),
        rows=rows,
        notes=[
            f"{pair.similarity:.2f}  line {pair.line}, {pair.condition}: {pair.injection} / {pair.stem}"
            for pair in found.pairs[:_PAIRS_SHOWN]
        ],
    )
