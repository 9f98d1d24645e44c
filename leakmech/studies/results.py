"""Finished runs of every kind, by their directory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.core.progress import Progress, Shown, no_progress, shown_progress
from leakmech.runs.directory import RunRecord

if TYPE_CHECKING:
    from leakmech.runs.result import Result
    from leakmech.studies.leaderboard.result import Leaderboard

_RESULTS = {
    "bench": ("benchmark.result", "BenchResult"),
    "diagnose": ("diagnosis.result", "Diagnosis"),
    "mitigate": ("mitigation.result", "MitigationComparison"),
    "train": ("lora.result", "LoraResult"),
    "study emotion-circuits": ("emotion_circuits.result", "EmotionCircuits"),
    "study persona-leakage": ("persona_leakage.result", "PersonaLeakage"),
}
"""Where the result of each kind of run is, of studies by their command; it is imported when it is asked for."""

_COMPARED = {
    "study emotion-circuits": ("emotion_circuits.comparison", "compare_studies"),
    "study persona-leakage": ("persona_leakage.comparison", "compare_leakage"),
}
"""What compares studies, by their command."""

_FOLDERS = {
    "comparison.json": ("benchmark.comparison", "Comparison"),
    "leaderboard.json": ("leaderboard.result", "Leaderboard"),
    "key.json": ("annotation.importing", "AnnotationResult"),
    "sweep.json": ("sweep.result", "SweepResult"),
}
"""What is made in one go has no record of a run: by the file that says what it is."""


def load_result(path: str | Path) -> Result:
    """The result of a finished run of any kind.

    Parameters
    ----------
    path
        The directory of a run, of a saved comparison, or of annotations.

    Returns
    -------
    Result
        A ``BenchResult``, ``Comparison``, ``Diagnosis``, ``MitigationComparison``, ``LoraResult``, ``EmotionCircuits``,
        ``PersonaLeakage``, ``Leaderboard``, ``SweepResult`` or ``AnnotationResult``: with ``.path``, ``.summary``,
        ``.table(name)``, ``.to_markdown()`` and ``.report()``.

    Raises
    ------
    RunDirectoryError
        `path` is not a run, the run is not finished (the message says how to go on), or a newer leakmech made it.
    """
    for file, home in _FOLDERS.items():
        if (Path(path) / file).exists():
            return _found(home).load(path)
    record = RunRecord.read(path)
    kind = record.command if record.kind == "study" else record.kind
    if kind not in _RESULTS:
        raise RunDirectoryError(f"{path}: is a run of kind {kind!r}, which this leakmech does not know")
    return _found(_RESULTS[kind]).load(path)


def _found(home: tuple[str, str]) -> Any:
    module, name = home
    return getattr(import_module(f"leakmech.studies.{module}"), name)


def compare(
    runs: str | Path | Result | Sequence[str | Path | Result],
    *,
    export: str | Path | None = None,
    progress: Shown = None,
    **settings: Any,
) -> Any:
    """Compare finished benchmarks, the cells of a sweep, results of files, or finished studies of one kind.

    Parameters
    ----------
    runs
        Run directories or results, the first of them the baseline; or sweeps, files of results, or both with runs.
    export
        A file for the results of all runs, for others to compare theirs with; makes a table over many of runs, too.
    progress
        A function that draws progress, True or False; None draws it in a notebook only.
    **settings
        Fields of :class:`leakmech.studies.benchmark.settings.CompareConfig`, e.g. ``margin=0.05, baseline="model=a",
        statistic="contrast"``; studies take ``seed`` and ``draws``. Set ``margin`` and ``statistic`` before looking at
        the runs.

    Returns
    -------
    Comparison
        Of runs over the same samples.
    Leaderboard
        Where there is a sweep or a file, or results are exported: one table a data set, missing cells named.
    StudyComparison or LeakageComparison
        Of studies, or of the cells of a sweep of studies. All have ``.to_table()`` and ``.save(folder)``.

    Raises
    ------
    UsageError
        There are too few runs, an unknown baseline, or a number out of range.
    RunDirectoryError
        A run is not finished or damaged, a file does not hold results, or named runs cannot be compared: other
        samples, cleaning policies or estimators.
    """
    progress = shown_progress(progress)
    given = list(runs) if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    if export is None and not any(map(_is_many, given)):
        return compare_results(given, **settings)
    cells = [own for own in given if _is_sweep(own)]
    studies = [own for own in map(_opened, cells) if own.summary["study"] in _COMPARED]
    if studies and len(given) == len(studies):
        return compare_results([run for own in studies for run in own.finished], **settings)
    return index(given, export=export, progress=progress, **settings)


def index(
    runs: Sequence[str | Path | Result],
    *,
    export: str | Path | None = None,
    progress: Progress = no_progress,
    **settings: Any,
) -> Leaderboard:
    """One table over runs, sweeps and files of results; see :func:`compare`."""
    from leakmech.studies.leaderboard.run import leaderboard, sources_of

    sources, left_out, cleaning = [], [], settings.get("cleaning")
    for own in runs:
        swept = _opened(own) if _is_sweep(own) else None
        found, others = sources_of([own], cleaning=cleaning) if swept is None else swept.sources(cleaning=cleaning)
        sources += found
        left_out += others
    return leaderboard(sources, left_out=left_out, export=export, progress=progress, **settings)


def report(runs: Sequence[str | Path], out: str | Path | None = None, *, progress: Progress = no_progress) -> Path:
    """Write the page of a run or sweep, or one page about several, and return its path.

    The page of one is ``report.html`` in its folder. That of several is ``index.html`` in the folder that they lie in;
    or `out`, which then also has the table and forest plots as files, and the page as ``report.html``.

    Raises
    ------
    UsageError
        Runs lie in several folders and there is no `out`, or a file that leakmech did not write is in the way.
    """
    if missing := next((run for run in runs if not Path(run).exists()), None):
        raise RunDirectoryError(f"{missing}: is not a leakmech run (no such folder or file)")
    if len(runs) == 1 and out is None and Path(runs[0]).is_dir():
        return load_result(runs[0]).report()
    folders = sorted({Path(run).resolve().parent for run in runs})
    if out is None and len(folders) > 1:
        raise UsageError("report: the runs lie in several folders; say with --out where the page goes")
    found = index(runs, progress=progress)
    return found.write_index(folders[0], name="index.html") if out is None else found.save(out) / "report.html"


def _place(own: str | Path | Result) -> Path:
    return Path(own) if isinstance(own, str | Path) else own.path


def _is_sweep(own: str | Path | Result) -> bool:
    return (_place(own) / "sweep.json").exists()


def _is_many(own: str | Path | Result) -> bool:
    return _is_sweep(own) or _place(own).is_file()


def _opened(own: str | Path | Result) -> Any:
    return load_result(own) if isinstance(own, str | Path) else own


def compare_results(runs: Sequence[str | Path | Result], **settings: Any) -> Any:
    """Compare finished benchmarks, or finished studies of one kind; the first run says which.

    Returns
    -------
    Comparison, StudyComparison or LeakageComparison
        Each has ``.to_table()`` and ``.save(folder)``.
    """
    first = runs[0] if runs else None
    record = None if first is None else RunRecord.read(_place(first))
    home = _COMPARED.get(record.command) if record else None
    if home is not None:
        if other := sorted(settings.keys() - {"seed", "draws"}):
            raise UsageError(f"compare: {other[0]} is for benchmarks; studies take seed and draws")
        return _found(home)(list(map(_place, runs)), **settings)
    return _found(("benchmark.comparison", "compare"))(runs, **settings)
