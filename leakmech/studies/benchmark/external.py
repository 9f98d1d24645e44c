"""Generations that another program made: an API model, a paper's released outputs, another leakmech run.

A file (:mod:`leakmech.core.rows`) has one generation a row with the columns ``sample, condition, generation, text``;
others are ignored. A text that is null is missing; an empty one, or an empty cell, is an empty answer. Generations of a
prompt are numbered from 0 or from 1. Each of a sample's four prompts has K of them; control may have 2 K, and its
second K are then the noise floor, as in a run of leakmech itself.
"""

from __future__ import annotations

import json
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leakmech.core.errors import DatasetError, nearest
from leakmech.core.rows import as_id
from leakmech.core.store import hash_of_parts
from leakmech.datasets.samples import CONDITIONS, INJECTIONS, PromptSet

FIELDS = ("sample", "condition", "generation", "text")
Key = tuple[str, str, int]

_MOST_MISSING = 100  # times as many as there are
_WHOLE = re.compile(r"(\d{1,9})(?:\.0*)?")  # pandas writes whole numbers beside a gap as 0.0


@dataclass(frozen=True)
class ExternalGenerations:
    """Generations as a run keeps them."""

    texts: Mapping[Key, str | None]
    """Text by (sample, condition, generation), generations counted from 0; None for one that is not there."""
    samples: PromptSet
    """The samples that have generations."""
    generations: int
    """K."""
    n_missing: int
    """How many of `texts` are None."""
    n_silent_samples: int
    """Samples of the data set that have no generations at all, and are not among `samples`."""

    @property
    def content_hash(self) -> str:
        """Hash of all texts and of the prompts that they complete."""
        return hash_of_parts(json.dumps([*key, text]) for key, text in self.texts.items())


def read_generations(
    rows: Iterable[tuple[int, Mapping[str, Any]]],
    samples: PromptSet,
    *,
    name: str | Path,
    known: Iterable[str] = (),
    columns: Mapping[str, str] | None = None,
    allow_missing: bool = False,
) -> ExternalGenerations:
    """Check the generations of (line number, fields) and put them in order; `name` says in messages where they stand.

    `columns` says what the file calls a field; samples in `known` may stand in it and are left out if not wanted.
    `allow_missing` accepts missing generations (or null texts) and samples that are not there.
    """
    found: dict[Key, str | None] = {}
    lines = array("Q")  # of every key of `found`, in its order
    wanted = {sample.id for sample in samples}
    every = {sample: sample for sample in (*wanted, *known)}
    for line, row in _fields(rows, name, columns or {}):
        key, text = _parse(row, f"{name}:{line}", every)
        if key in found:
            raise DatasetError(
                f"{name}:{line}: generation {key[2]} of sample {key[0]!r}, condition {key[1]}, is there twice; "
                f"first in line {lines[list(found).index(key)]}"
            )
        found[key] = text if key[0] in wanted else None
        lines.append(line)
    if len(every) > len(wanted):
        found = {key: text for key, text in found.items() if key[0] in wanted}
    if not found:
        raise DatasetError(f"{name}: holds no generations of these samples")
    return _complete(_from_zero(found), name, samples, allow_missing=allow_missing)


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Read ``["text=completion"]`` as ``{"text": "completion"}``."""
    columns = {}
    for pair in pairs:
        field, equals, name = pair.partition("=")
        if not equals or not name:
            raise DatasetError(f"column {pair!r}: write it as field=name, e.g. text=completion")
        if field not in FIELDS:
            raise DatasetError(f"column {pair!r}: unknown field {field!r}{nearest(field, FIELDS)}")
        columns[field] = name
    return columns


def _fields(
    rows: Iterable[tuple[int, Mapping[str, Any]]], name: str | Path, columns: Mapping[str, str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, value of every field), under the names that the file gives them."""
    for line, row in rows:
        for field in FIELDS:
            column = columns.get(field, field)
            if column not in row:
                raise DatasetError(
                    f"{name}:{line}: has no column {column!r} for the field {field!r}; found "
                    f"{', '.join(map(str, row))} (name it with --column {field}=…)"
                )
        yield line, {field: row[columns.get(field, field)] for field in FIELDS}


def _parse(row: Mapping[str, Any], where: str, known: Mapping[str, str]) -> tuple[Key, str | None]:
    """Key and text of a row; texts of keys are those of `known` and of the conditions, not one more for each row."""
    sample, condition, generation, text = (row[field] for field in FIELDS)
    sample, condition = as_id(sample), as_id(condition)
    if not isinstance(sample, str) or sample not in known:
        hint = nearest(str(sample), known)
        hint = hint if "did you mean" in hint else "; is it the right --dataset?"
        raise DatasetError(f"{where}: the data set has no sample {sample!r}{hint}")
    if condition not in CONDITIONS:
        raise DatasetError(f"{where}: unknown condition {condition!r}{nearest(str(condition), CONDITIONS)}")
    number = _WHOLE.fullmatch(str(generation).strip())
    if number is None:
        raise DatasetError(f"{where}: field 'generation' must be a whole number from 0, found {generation!r}")
    if text is not None and not isinstance(text, str):
        raise DatasetError(f"{where}: field 'text' must be a text, found {text!r}")
    return (known[sample], CONDITIONS[CONDITIONS.index(condition)], int(number[1])), text


def _from_zero(texts: dict[Key, str | None]) -> dict[Key, str | None]:
    """The same with generations counted from 0 if the file counts from 1 throughout."""
    if min(generation for _, _, generation in texts) != 1:
        return texts
    return {(sample, condition, generation - 1): text for (sample, condition, generation), text in texts.items()}


def _complete(
    texts: Mapping[Key, str | None], name: str | Path, samples: PromptSet, *, allow_missing: bool
) -> ExternalGenerations:
    """Every generation that should be there, in the order of the samples."""
    present = {sample for sample, _, _ in texts}
    kept = tuple(sample for sample in samples if sample.id in present)
    silent = len(samples) - len(kept)
    k = 1 + max((i for _, condition, i in texts if condition in INJECTIONS), default=-1)
    n_control = 1 + max((i for _, condition, i in texts if condition == "control"), default=-1)
    if k == 0 or n_control == 0:
        raise DatasetError(f"{name}: holds no generations of {'control' if k else 'prompts with an injection'}")
    if n_control > k and n_control != 2 * k:
        raise DatasetError(
            f"{name}: control has generations up to number {n_control - 1} and the others up to {k - 1}; expected as "
            f"many, or twice as many (the second {k} are then the noise floor)"
        )
    expected = len(kept) * (3 * k + max(k, n_control))
    if expected > _MOST_MISSING * len(texts):  # one wrong number would make a table that fits into no memory
        raise DatasetError(
            f"{name}: {expected - len(texts)} generations are missing: it holds {len(texts)}, and one of them has the "
            f"number {max(k, n_control) - 1}"
        )
    numbers = dict.fromkeys(INJECTIONS, k) | {"control": max(k, n_control)}
    complete = {
        (sample.id, condition, i): texts.get((sample.id, condition, i))
        for sample in kept
        for condition in CONDITIONS
        for i in range(numbers[condition])
    }
    missing = [key for key, text in complete.items() if text is None]
    if (missing or silent) and not allow_missing:
        what = (
            f"{len(missing)} generations are missing" if missing else f"{silent} of {len(samples)} samples are missing"
        )
        first = missing[0] if missing else (next(s.id for s in samples if s.id not in present), "control", 0)
        raise DatasetError(
            f"{name}: {what}, the first: sample {first[0]!r}, {first[1]}, generation {first[2]}; with --allow-missing "
            "they count as not scored"
        )
    return ExternalGenerations(complete, replace(samples, samples=kept), k, len(missing), silent)
