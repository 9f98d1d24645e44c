"""Answered sheets read back, checked, and turned into a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from leakmech.core.errors import DatasetError
from leakmech.core.store import write_json, write_text
from leakmech.reports.tables import Table
from leakmech.scoring.statistics import DRAWS
from leakmech.studies.annotation.judgements import agreement_frame, annotation_report
from leakmech.studies.annotation.report import annotation_tables, write_report
from leakmech.studies.annotation.sheets import Key, guard, read_sheets


@dataclass(frozen=True)
class AnnotationResult:
    """What :func:`import_annotation` found.

    Attributes
    ----------
    path
        The folder of the export.
    report
        The content of ``agreement.json``.
    pairs
        One row per item: texts, ratings (test more positive than control, -2..2), majority, estimator.
    """

    path: Path
    report: Mapping[str, Any]
    pairs: pd.DataFrame

    def tables(self) -> list[Table]:
        """The report for reading."""
        return annotation_tables(self.report)

    def to_markdown(self) -> str:
        """The tables as markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables()) + "\n"


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
        Of the bootstrap over samples.

    Raises
    ------
    DatasetError
        `folder` is no export, a sheet does not belong to it or has impossible answers (the message names file, line
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
    write_text(folder / "tables" / "pairs.csv", guarded.to_csv(index=False))
    write_text(folder / "tables" / "agreement.csv", agreement_frame(report).to_csv(index=False))
    write_json(folder / "agreement.json", report)
    write_report(folder)
    return AnnotationResult(folder, report, pairs)


def _read_key(path: Path) -> Key:
    try:
        return Key.from_json(json.loads(path.read_text(encoding="utf-8")), path=path)
    except OSError as error:
        raise DatasetError(
            f"{path}: cannot be read ({error.strerror}); name the folder that `leakmech annotate export` wrote"
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path}: is damaged ({error}); export again, or restore it from a copy") from error
