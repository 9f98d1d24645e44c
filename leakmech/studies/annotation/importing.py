"""Answered sheets read back, checked, and turned into a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import pandas as pd

from leakmech.core.errors import DatasetError, RunDirectoryError
from leakmech.core.store import parsed_json, read_json, write_json
from leakmech.core.tables import write_table
from leakmech.reports.tables import Table
from leakmech.runs.result import Result
from leakmech.scoring.statistics import DRAWS
from leakmech.studies.annotation.judgements import agreement_frame, annotation_report
from leakmech.studies.annotation.report import annotation_tables, write_report
from leakmech.studies.annotation.sheets import Key, guard, read_sheets, unguard

_TEXTS = ("item", "sample", "condition", "stem", "control", "test")
AGREEMENT_FILE = "agreement.json"


@dataclass(frozen=True, repr=False)
class AnnotationResult(Result):
    """What :func:`import_annotation` found.

    Attributes
    ----------
    path
        The folder of the export.
    summary
        The content of ``agreement.json``.
    """

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what was imported into the folder `path` last."""
        file = Path(path) / AGREEMENT_FILE
        if not file.exists():
            raise RunDirectoryError(f"{path}: is not finished; continue it with: leakmech annotate import {path}")
        return cls(Path(path), read_json(file))

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """One row per item: texts, ratings (test more positive than control, -2..2), majority, estimator."""
        cells = pd.read_csv(self.path / "tables" / "pairs.csv", dtype=str, keep_default_na=False)
        frame = cells[list(_TEXTS)].map(unguard)
        for name in cells.columns.difference(_TEXTS, sort=False):
            values = cells[name]
            is_flag = bool(values.isin(["True", "False"]).all())
            frame[name] = values == "True" if is_flag else pd.to_numeric(values.replace("", None))
        return pd.DataFrame({name: frame[name] for name in cells.columns})

    def to_frame(self) -> pd.DataFrame:
        """One row per item, as :attr:`pairs`."""
        return self.pairs.copy()

    def tables(self) -> list[Table]:
        """Agreement among people and with the estimator."""
        return annotation_tables(self.summary)

    def report(self) -> Path:
        """Write ``report.html`` and return its path."""
        return write_report(self.path)


def import_annotation(
    folder: str | Path, *, sheets: Sequence[str | Path] | None = None, seed: int = 0, draws: int = DRAWS
) -> AnnotationResult:
    """Read answered sheets, and report how far people agree with each other and the estimator with them.

    Writes ``agreement.json``, ``tables/agreement.csv``, ``tables/pairs.csv`` and ``report.html`` into `folder`,
    and nothing when a sheet is refused. Missing answers are allowed and counted.

    Parameters
    ----------
    folder
        A folder that :func:`leakmech.export_annotation` wrote.
    sheets
        The CSV files; by default all of ``folder/sheets``.
    seed, draws
        Seed and number of resamples of the bootstrap over samples.

    Returns
    -------
    AnnotationResult
        ``.summary`` (what ``agreement.json`` holds), ``.pairs`` (data frame, one row per item), ``.to_markdown()``.

    Raises
    ------
    DatasetError
        `folder` is not an export, a sheet does not belong to it or has impossible answers (the message names file, line
        and column), or no sheet has an answer.
    """
    folder = Path(folder)
    key = _read_key(folder / "key.json")
    paths = sorted((folder / "sheets").glob("*.csv")) if sheets is None else [Path(sheet) for sheet in sheets]
    if not paths:
        raise DatasetError(f"{folder / 'sheets'}: has no CSV file; put the answered sheets there, or name them")
    ratings = read_sheets(paths, key)
    if not any(ratings.values()):
        raise DatasetError(f"{paths[0]}: column answer: is empty in every row, as in all sheets; nothing to report")
    report, pairs = annotation_report(key, ratings, seed=seed, draws=draws)
    guarded = pairs.map(lambda cell: guard(cell) if isinstance(cell, str) else cell)
    write_table(folder / "tables" / "pairs.csv", guarded)
    write_table(folder / "tables" / "agreement.csv", agreement_frame(report))
    write_json(folder / AGREEMENT_FILE, report)
    write_report(folder)
    return AnnotationResult(folder, report)


def _read_key(path: Path) -> Key:
    try:
        return Key.from_json(parsed_json(path.read_text(encoding="utf-8")), path=path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); name the folder that `leakmech annotate export` wrote"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path}: is damaged ({error}); export again, or restore it from a copy") from error
