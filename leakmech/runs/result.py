"""What a finished run found, whatever it was about."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import pandas as pd

from leakmech.core.errors import LeakmechWarning, RunDirectoryError, UsageError, nearest
from leakmech.core.shown import cut
from leakmech.core.store import read_json
from leakmech.core.tables import read_table
from leakmech.runs.directory import RunDirectory, RunRecord


class Printable(Protocol):
    """A table that can be printed; :class:`leakmech.reports.tables.Table` is one."""

    def to_markdown(self) -> str: ...
    def to_html(self) -> str: ...
    def to_latex(self) -> str: ...
    def to_rich(self) -> Any: ...


class Readable:
    """What has tables, and shows them as markdown, LaTeX and in notebooks."""

    def tables(self) -> Sequence[Printable]:
        """The main numbers for reading."""
        raise NotImplementedError

    def to_markdown(self) -> str:
        """The main tables as markdown."""
        return "\n\n".join(table.to_markdown() for table in self.tables()) + "\n"

    def to_latex(self) -> str:
        """The main tables for a paper, in the style of booktabs."""
        return "\n\n".join(table.to_latex() for table in self.tables()) + "\n"

    def _repr_html_(self) -> str:
        """The main tables, for notebooks."""
        return "\n".join(table.to_html() for table in self.tables())


Drawing = Callable[..., Any]
"""Draws a figure: takes `path`, `title` and `width`, see :mod:`leakmech.reports.figures`; returns the figure."""


@dataclass(frozen=True)
class Result(Readable):
    """A finished run.

    Attributes
    ----------
    path
        The run directory.
    summary
        The content of ``summary.json``: the main numbers.
    """

    path: Path
    summary: Mapping[str, Any]
    kind: ClassVar[str | None] = None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The result of the finished run in `path`.

        Raises
        ------
        RunDirectoryError
            There is no run, it is not finished, or it is of another kind.
        """
        files, record = RunDirectory(Path(path)), RunRecord.read(path)
        if not files.is_complete():
            raise RunDirectoryError(f"{path}: is not finished; continue it with: {record.how_to_continue()}")
        summary = read_json(files.summary_file)
        try:
            files.refuse_damaged(files.summary_file)
        except RunDirectoryError as damage:  # it can be read, and may have been edited on purpose
            warnings.warn(str(damage), LeakmechWarning, stacklevel=2)
        found = cls(files.path, summary)
        return found if cls.kind is None else found.of_kind(cls.kind)

    def of_kind(self, kind: str) -> Self:
        """This result, which is refused with a RunDirectoryError if it is not one of a run of that kind."""
        if self.record.kind != kind:
            raise RunDirectoryError(f"{self.path}: is a run of kind {self.record.kind!r}; this needs one of {kind!r}")
        return self

    @cached_property
    def record(self) -> RunRecord:
        """How the run was made."""
        return RunRecord.read(self.path)

    @property
    def files(self) -> RunDirectory:
        """Where its files lie."""
        return RunDirectory(self.path)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per generation, if the run has any; see :mod:`leakmech.scoring.records`."""
        return self.files.scores()

    def table(self, name: str) -> pd.DataFrame:
        """The table ``tables/<name>.csv``.

        Raises
        ------
        RunDirectoryError
            There is no such table (the nearest name is said), or it is damaged.
        """
        names = sorted(file.stem for file in (self.path / "tables").glob("*.csv"))
        if name not in names:
            raise RunDirectoryError(f"{self.path}: has no table {name!r}{nearest(name, names)}")
        file = self.path / "tables" / f"{name}.csv"
        self.files.refuse_damaged(file)
        return read_table(file)

    def __repr__(self) -> str:
        known = [str(self.summary[name]) for name in ("model", "dataset") if name in self.summary]
        about = f", {' on '.join(known)}" if known else ""
        if compared := self.summary.get("runs"):
            about = f", {len(compared)} runs: {cut(', '.join(map(str, compared)))}"
        return f"{type(self).__name__}({str(self.path)!r}{about})"

    @property
    def headline(self) -> str:
        """What was found, in words, with intervals; empty where a kind of run has no such sentence."""
        return ""

    def _repr_html_(self) -> str:
        """The headline and the main tables, for notebooks."""
        told = f"<p><b>{escape(self.headline)}</b></p>\n" if self.headline else ""
        return told + super()._repr_html_()

    def to_frame(self) -> pd.DataFrame:
        """The main numbers as a data frame."""
        raise NotImplementedError

    def report(self) -> Path:
        """Write the page of results and return its path; it depends on the run only."""
        raise NotImplementedError

    def figures(self) -> Mapping[str, Drawing]:
        """What can be drawn, by name; the main figure comes first."""
        return {}

    def plot(
        self,
        path: str | Path | None = None,
        *,
        figure: str | None = None,
        title: str | None = None,
        width: Any = None,
    ) -> Any:
        """Draw a figure; a notebook shows it.

        Parameters
        ----------
        path
            Where to save it as PNG, PDF and CSV; its suffix is ignored. None: it is not saved.
        figure
            A name of :meth:`figures`; None: the main one.
        title
            In place of the figure's own; an empty one leaves title and subtitle out.
        width
            ``column`` (3.25 inches), ``page`` (6.75) or inches.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        UsageError
            There is no such figure, or this run has nothing to draw.
        """
        drawings = self.figures()
        if not drawings:
            raise UsageError(f"{self.path}: has no figure; .report() writes its page, .to_frame() gives its numbers")
        name = next(iter(drawings)) if figure is None else figure
        if name not in drawings:
            raise UsageError(f"{self.path}: has no figure {name!r}{nearest(name, drawings)}")
        return drawings[name](path, title=title, width=width)
