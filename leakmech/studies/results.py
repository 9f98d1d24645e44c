"""Finished runs of every kind, by their directory."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.runs.directory import RunRecord

if TYPE_CHECKING:
    from leakmech.runs.result import Result

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
        ``PersonaLeakage`` or ``AnnotationResult``: with ``.path``, ``.summary``, ``.table(name)``, ``.to_markdown()``
        and ``.report()``; or a ``SweepResult``, which has no report.

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


def compare_results(runs: Sequence[str | Path], **settings: Any) -> Any:
    """Compare finished benchmarks, or finished studies of one kind; the first run says which.

    Returns
    -------
    Comparison, StudyComparison or LeakageComparison
        Each has ``.to_table()`` and ``.save(folder)``.
    """
    home = _COMPARED.get(RunRecord.read(runs[0]).command) if runs else None
    if home is not None:
        if other := sorted(settings.keys() - {"seed", "draws"}):
            raise UsageError(f"compare: {other[0]} is for benchmarks; studies take seed and draws")
        return _found(home)(runs, **settings)
    return _found(("benchmark.comparison", "compare"))(runs, **settings)
