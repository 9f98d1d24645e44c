"""What is in a data set of samples, and what is wrong with it, before a model sees it.

Three things are checked. *Form*: every line parses, no stem and no injection occurs twice (samples would not be
independent), every text is one sentence where it should be. *Length*: tokens per condition, and how far the three
injections of one sample lie apart. *Meaning*: the sentiment class that the expression estimator gives every injection,
and the cosine similarity of injection and stem, which is low when the injection is irrelevant to the stem. In a set of
relevant affect, where it should not be, a high similarity is not a reason for a warning.

What makes samples unusable is a problem; what deserves a look is a warning. An estimator is not a human judge, so that
its disagreement with a label is never more than a warning.

Every check adds rows to one frame (:data:`COLUMNS`), one for each text that it looks at; problems, warnings and tables
are queries of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from leakmech.core.errors import DatasetError
from leakmech.core.rows import numbered_items
from leakmech.core.text import has_final_mark, split_sentences
from leakmech.datasets.samples import (
    FITTING_DATASETS,
    INJECTIONS,
    RELEVANT_DATASETS,
    Sample,
    dataset_file,
)
from leakmech.reports.cells import number, percent
from leakmech.reports.tables import Table
from leakmech.runs.settings import DEFAULT_MODEL
from leakmech.scoring.expression import LABELS, load_estimator
from leakmech.scoring.semantic import load_encoder
from leakmech.scoring.similarity import cosine_similarity

SIMILARITY_WARNING = 0.5
COLUMNS = ("line", "sample", "field", "text", "stem", "what", "value", "found", "verdict", "message")
"""Where a text stands; what was measured of it (``tokens``, ``class``, ``similarity``; ``form``: nothing) and its value
(for ``class`` the probability of the class `found`); whether that is a ``problem`` or a ``warning``, and why.
"""

_DISAGREEMENTS_SHOWN = 20
_PAIRS_SHOWN = 5

Row = dict[Hashable, Any]


@dataclass(frozen=True, eq=False)
class DatasetReport:
    """What :func:`check_dataset` found: the data set as it was asked for, its file, and the names of what measured."""

    name: str
    path: Path
    rows: pd.DataFrame
    """A frame with :data:`COLUMNS`; of a file that cannot be read, its first problem alone."""
    tokenizer: str
    estimator: str
    encoder: str

    @property
    def problems(self) -> tuple[str, ...]:
        """What makes samples unusable, each with file and line; empty for a sound data set."""
        return self._messages("problem")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What deserves a look, each with file and line if it has one."""
        others, injections = len(self.disagreements()), len(self.measured("class"))
        by_class = (
            f"{self.path}: estimator {self.estimator!r} puts {others} of {injections} injections in another class than "
            "the one they stand for; they are listed under the table of classes"
        )
        return (*self._messages("warning"), *([by_class] if others else []))

    def _messages(self, verdict: str) -> tuple[str, ...]:
        chosen = self.rows.loc[self.rows["verdict"] == verdict]
        return tuple(
            f"{self.path}:{line}: field {field!r}: {message}" if field else message
            for line, field, message in zip(chosen["line"], chosen["field"], chosen["message"], strict=True)
        )

    def measured(self, what: str, field: str | None = None) -> pd.DataFrame:
        """The rows of one measurement, of all fields or of one."""
        rows = self.rows.loc[self.rows["what"] == what]
        return rows if field is None else rows.loc[rows["field"] == field]

    def disagreements(self) -> pd.DataFrame:
        """Injections that the estimator puts in another class than their condition, its surest first."""
        rows = self.measured("class")
        return rows.loc[rows["found"] != rows["field"]].sort_values("value", ascending=False, kind="stable")

    def tables(self) -> list[Table]:
        """Lengths, classes and similarities as tables; none when the file could not be read."""
        if self.measured("tokens").empty:
            return []
        return [_length_table(self), _class_table(self), _similarity_table(self)]


def check_dataset(
    name_or_path: str | Path,
    *,
    tokenizer: str | None = None,
    estimator: str = "embedded",
    encoder: str = "embedded",
    relevant: bool | None = None,
) -> DatasetReport:
    """Check a data set: form, lengths, sentiment class of every injection, similarity of injection and stem.

    `relevant`: injections are meant to be about their stem, so that a similarity is not a warning; None asks the name.
    """
    path = dataset_file(name_or_path)
    tokenizer = tokenizer or DEFAULT_MODEL
    relevant = str(name_or_path) in (*RELEVANT_DATASETS, *FITTING_DATASETS) if relevant is None else relevant
    try:
        samples = numbered_items(path, Sample)
    except DatasetError as error:
        parts = [pd.DataFrame([{"verdict": "problem", "message": str(error)}])]
    else:
        texts = _texts(samples)
        sentence_encoder = load_encoder(encoder)
        parts = [
            pd.DataFrame([*_problems(texts), *_form_warnings(texts)]),
            _lengths(texts, token_counter(tokenizer)),
            _classes(texts, load_estimator(estimator, encoder=sentence_encoder)),
            _similarities(texts, sentence_encoder, most=1 if relevant else SIMILARITY_WARNING),
        ]
    rows = pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))
    rows = rows.astype({"line": "Int64"}).fillna({"field": "", "verdict": "", "message": ""})
    return DatasetReport(str(name_or_path), path, rows, tokenizer, estimator, encoder)


def _texts(samples: Mapping[int, Sample]) -> pd.DataFrame:
    """Line, sample, field, text and stem of every stem and injection, in file order."""
    return pd.DataFrame(
        [
            {"line": line, "sample": sample.id, "field": field, "text": getattr(sample, field), "stem": sample.stem}
            for line, sample in samples.items()
            for field in ("stem", *INJECTIONS)
        ]
    )


# -- form ------------------------------------------------------------------------------------------------------------


def _rows(texts: pd.DataFrame) -> list[Row]:
    rows: Any = texts.to_dict("records")
    return rows


def _problems(texts: pd.DataFrame) -> Iterator[Row]:
    """Texts that occur twice: stems among stems, injections among injections."""
    seen: dict[tuple[bool, str], Row] = {}
    for row in _rows(texts):
        problem = row | {"what": "form", "verdict": "problem"}
        text, field = row["text"], row["field"]
        first = seen.setdefault((field == "stem", " ".join(text.casefold().split())), row)
        if first is not row:
            same = "is the same text as" if text == first["text"] else "differs only in case or spaces from"
            yield problem | {"message": f"{text!r} {same} {first['field']!r} in line {first['line']}"}


def _form_warnings(texts: pd.DataFrame) -> Iterator[Row]:
    for row in _rows(texts):
        warning = row | {"what": "form", "verdict": "warning"}
        text = row["text"]
        ends = has_final_mark(text)
        if row["field"] == "stem":
            if ends:
                message = f"ends in final punctuation, so that there is nothing to complete: {text!r}"
                yield warning | {"message": message}
            continue
        n_sentences = len(split_sentences(text))
        if n_sentences > 1:
            yield warning | {"message": f"has {n_sentences} sentences instead of one: {text!r}"}
        if not ends:
            yield warning | {"message": f"has no final punctuation and would run into the stem: {text!r}"}


# -- lengths and meaning ---------------------------------------------------------------------------------------------


def token_counter(name: str) -> Callable[[list[str]], list[int]]:
    """A function that counts the tokens of texts, special ones left out."""
    # Here, not above: transformers takes seconds to import, and a broken file is reported without it.
    from leakmech.models.load import load_tokenizer

    tokenizer: Any = load_tokenizer(name)
    return lambda texts: [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]


def _lengths(texts: pd.DataFrame, count: Callable[[list[str]], list[int]]) -> pd.DataFrame:
    """Tokens of every text; in the field ``gap`` the longest minus the shortest injection of each sample."""
    counted = texts.assign(what="tokens", value=count(texts["text"].tolist()))
    by_sample = counted.loc[counted["field"] != "stem"].groupby("sample", sort=False)["value"]
    gaps = pd.DataFrame(
        [{"sample": name, "field": "gap", "what": "tokens", "value": own.max() - own.min()} for name, own in by_sample]
    )
    return pd.concat([counted, gaps], ignore_index=True)


def _injections(texts: pd.DataFrame) -> pd.DataFrame:
    """The injections, condition by condition."""
    return pd.concat([texts.loc[texts["field"] == condition] for condition in INJECTIONS], ignore_index=True)


def _classes(texts: pd.DataFrame, classify: Callable[[list[str]], np.ndarray]) -> pd.DataFrame:
    """The most likely class of every injection."""
    injections = _injections(texts)
    # One call: rows of equal texts are then equal to the last bit.
    probabilities = classify(injections["text"].tolist())
    found = [LABELS[index] for index in probabilities.argmax(axis=-1)]
    return injections.assign(what="class", value=probabilities.max(axis=-1), found=found)


def _similarities(texts: pd.DataFrame, encode: Callable[[list[str]], np.ndarray], *, most: float) -> pd.DataFrame:
    """Cosine similarity of every injection with its stem, most similar first; above `most` it is a warning."""
    injections = _injections(texts)
    stems = encode(texts.loc[texts["field"] == "stem", "text"].tolist())
    values = cosine_similarity(encode(injections["text"].tolist()), np.tile(stems, (len(INJECTIONS), 1)))
    rows = injections.assign(what="similarity", value=values).sort_values("value", ascending=False, kind="stable")
    messages = [
        f"{text!r} is close to its stem {stem!r} (similarity {value:.2f}); is it irrelevant?"
        for text, stem, value in zip(rows["text"], rows["stem"], rows["value"], strict=True)
    ]
    return rows.assign(verdict=np.where(rows["value"] > most, "warning", ""), message=messages)


# -- tables ----------------------------------------------------------------------------------------------------------


def _length_table(report: DatasetReport) -> Table:
    rows = []
    for field in ("stem", *INJECTIONS, "gap"):
        tokens = report.measured("tokens", field)["value"].to_numpy()
        ends = (number(end, decimals=0) for end in (tokens.min(), tokens.max()))
        rows.append((field, number(tokens.mean(), decimals=1), *ends))
    gaps = report.measured("tokens", "gap")
    widest = gaps["sample"].to_numpy()[gaps["value"].to_numpy().argmax()]
    return Table(
        title=f"{report.name}: {len(gaps)} samples, lengths in tokens of {report.tokenizer}",
        header=("text", "mean", "min", "max"),
        rows=rows,
        notes=[f"gap: longest minus shortest injection of one sample; widest in {widest}"],
    )


def _class_table(report: DatasetReport) -> Table:
    rows = []
    for condition in INJECTIONS:
        found = report.measured("class", condition)["found"].to_numpy()
        agrees = percent((found == condition).mean(), decimals=0)
        rows.append((condition, *(str((found == label).sum()) for label in LABELS), agrees))
    others = report.disagreements()
    shown = [
        f"line {row['line']}, {row['field']}: found {row['found']}, P = {row['value']:.2f}: {row['text']}"
        for row in others.head(_DISAGREEMENTS_SHOWN).to_dict("records")
    ]
    left_out = len(others) - len(shown)
    return Table(
        title=f"Class of the injections by the estimator {report.estimator!r}",
        header=("written as", *LABELS, "agrees"),
        rows=rows,
        notes=[
            "The estimator is not a human judge: a disagreement asks for a look, it is not an error.",
            *shown,
            *([f"and {left_out} more"] if left_out else []),
        ],
    )


def _similarity_table(report: DatasetReport) -> Table:
    rows = []
    for condition in INJECTIONS:
        values = report.measured("similarity", condition)["value"].to_numpy()
        rows.append((condition, number(values.mean()), number(values.max())))
    closest = report.measured("similarity").head(_PAIRS_SHOWN)
    return Table(
        title=f"Cosine similarity of injection and stem by the encoder {report.encoder!r}",
        header=("condition", "mean", "max"),
        rows=rows,
        notes=[
            f"{row['value']:.2f}  line {row['line']}, {row['field']}: {row['text']} / {row['stem']}"
            for row in closest.to_dict("records")
        ],
    )
