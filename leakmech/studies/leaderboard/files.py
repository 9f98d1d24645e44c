"""Result files: what others contribute without sending a run.

A file holds one result a line (JSON, with a checksum of the line): the facts of an entry, its main numbers with
intervals, and the sums of each sample, from which all numbers are computed again when the file is read. Files come from
strangers: they are bounded in size, every field is checked, texts stay texts, and no path in them is followed. Whether
a result is true nothing here can know; what its numbers say of its own samples is checked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import numpy as np
from pydantic import Field

from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.core.store import atomic_path, checked_row, write_jsonl
from leakmech.core.validation import CLOSED, checked, shown, whole
from leakmech.scoring.statistics import UnitRatio
from leakmech.studies.leaderboard.entry import KEPT, Facts, Line, Source, Sums

FORMAT = "leakmech-result"
FORMAT_VERSION = 1
_BEGINNING = f'{{"format": "{FORMAT}"'.encode()
MOST_BYTES = 128 * 2**20
_LONGEST_LINE = 16 * 2**20
MOST_RESULTS = 10_000
_RANGES = {"auc_el": (0, 1), "mu_el": (0, 1), "topic_free": (0, 1), "contrast": (-1, 1), "topic_free_contrast": (-1, 1),
           "valence_shift": (-2, 2), "topic_free_valence_shift": (-2, 2)}  # fmt: skip
"""Between which values the statistics of a single sample lie."""
_ROUNDING = 1e-6
_LARGEST = 1e9
_SUMS = ("numerator", "denominator")


@dataclass(frozen=True)
class _Head:
    """How a line begins."""

    __pydantic_config__ = CLOSED

    format: str
    format_version: Annotated[int, whole(1, 10**6)]
    samples: Line
    numbers: Annotated[Mapping[str, Any], Field(max_length=len(KEPT))]
    sums: Annotated[Mapping[str, Any], Field(max_length=len(KEPT), min_length=1)]


def write_results(path: Path, results: Iterable[tuple[Facts, Sums, Mapping[str, Any]]]) -> None:
    """Write results, one a line as they come: facts, sums, and ``{statistic: {value, low, high}}``.

    Raises
    ------
    UsageError
        The file would be larger than one that is read.
    """
    with atomic_path(path) as temporary:
        write_jsonl(temporary, (_line(*result) for result in results), checksums=True)
        if temporary.stat().st_size > MOST_BYTES:
            raise UsageError(
                f"{path}: would be larger than {MOST_BYTES // 2**20} MiB, which nobody reads; export parts"
            )


def _line(facts: Facts, sums: Sums, numbers: Mapping[str, Any]) -> dict[str, Any]:
    listed = {
        name: {part: list(map(_brief, getattr(ratio, part).tolist())) for part in _SUMS}
        for name, ratio in sums.ratios.items()
    }
    own = {"samples": sums.samples, "numbers": dict(numbers), "sums": listed}
    return {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(facts), **own}


def _brief(value: float) -> float | int:
    return int(value) if value.is_integer() else value


def refuse_occupied(path: Path) -> None:
    """UsageError for a file of results that is a folder, or a file that holds something else."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file, such as {path / 'results.jsonl'}")
    if path.exists() and not is_result_file(path):
        raise UsageError(f"{path}: holds something other than results; choose another --export")


def is_result_file(path: Path) -> bool:
    """Whether a file begins as one of results does."""
    try:
        with path.open("rb") as file:
            return file.read(len(_BEGINNING)) == _BEGINNING
    except OSError:
        return False


def read_results(path: str | Path) -> list[Source]:
    """The results of a file.

    Raises
    ------
    RunDirectoryError
        The file is not one of results, is too large, of a newer leakmech, or damaged; the message names the line.
    """
    path = Path(path)
    size = path.stat().st_size if path.is_file() else None
    if size is None:
        raise RunDirectoryError(f"{path}: is neither a run, a sweep, nor a file of results")
    if size > MOST_BYTES:
        raise RunDirectoryError(f"{path}: is larger than {MOST_BYTES // 2**20} MiB; files of results are small")
    found = []
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}:{number}"
        if number > MOST_RESULTS:
            raise RunDirectoryError(f"{path}: holds more than {MOST_RESULTS:,} results")
        try:
            row = checked_row(line)
        except ValueError as error:
            raise RunDirectoryError(f"{where}: is damaged, or no file of results ({error})") from error
        found.append(_source(row, str(path), where))
    if not found:
        raise RunDirectoryError(f"{path}: is empty")
    return found


def _lines(path: Path) -> Iterator[bytes]:
    """Whole lines, none of them longer than a result can be."""
    try:
        with path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                if not line.endswith(b"\n"):
                    raise RunDirectoryError(f"{path}: is cut off, or no file of results (a line has no end)")
                yield line
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror or error})") from error


def _source(row: Mapping[str, Any], given: str, where: str) -> Source:
    if row.get("format") != FORMAT:
        raise RunDirectoryError(f"{where}: is not a result that `leakmech compare … --export` wrote")
    version = row.get("format_version")
    if version != FORMAT_VERSION:
        raise RunDirectoryError(
            f"{where}: has format {shown(version)}, this leakmech reads {FORMAT_VERSION}; update it"
        )
    names = _Head.__dataclass_fields__.keys()
    head = checked(_Head, {k: v for k, v in row.items() if k in names}, where=where, error=RunDirectoryError)
    own = {key: value for key, value in row.items() if key not in names}
    facts = checked(Facts, own, where=where, error=RunDirectoryError)
    ratios = {name: _ratio(name, value, facts, where) for name, value in head.sums.items()}
    for name, number in head.numbers.items():
        _refuse_other(name, number, ratios, where)
    sums = Sums(head.samples, ratios)
    return Source(facts, given, lambda _: sums)


def _ratio(name: str, values: Any, facts: Facts, where: str) -> UnitRatio:
    """The sums of one statistic, if they are such as samples can have."""
    if name not in KEPT:
        raise RunDirectoryError(f"{where}: sums of {shown(name)}, which is no statistic; those are {', '.join(KEPT)}")
    if not isinstance(values, dict) or values.keys() != set(_SUMS):
        raise RunDirectoryError(f"{where}: {name}: sums have {' and '.join(_SUMS)}, found {shown(values)}")
    numerator, denominator = (_array(values[part], facts.n_samples, f"{where}: {name}: {part}") for part in _SUMS)
    low, high = _RANGES[name]
    possible = (denominator >= 0) & (denominator <= 2 * facts.generations)
    possible &= (numerator >= low * denominator - _ROUNDING) & (numerator <= high * denominator + _ROUNDING)
    if not possible.all():
        place = int(np.flatnonzero(~possible)[0])
        raise RunDirectoryError(f"{where}: {name}: sample {place + 1} has a value that cannot be")
    return UnitRatio(numerator, denominator)


def _array(values: Any, n: int, where: str) -> np.ndarray:
    if not isinstance(values, list) or len(values) != n:
        raise RunDirectoryError(f"{where}: expected a list of {n} numbers, one a sample, found {shown(values)}")
    if not all(map(_is_number, values)):
        raise RunDirectoryError(f"{where}: holds something that is not a number, or far too large a one")
    return np.array(values, dtype=np.float64)


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and abs(value) < _LARGEST  # neither is NaN


def _refuse_other(name: str, number: Any, ratios: Mapping[str, UnitRatio], where: str) -> None:
    """Refuse a number that is not that of the samples."""
    value = number.get("value") if isinstance(number, dict) else None
    told = float(value) if _is_number(value) else math.nan
    found = ratios[name].value if name in ratios else math.nan
    if not (math.isnan(told) and math.isnan(found)) and not abs(told - found) <= _ROUNDING:
        raise RunDirectoryError(f"{where}: says {shown(value)} of {shown(name)}; its samples give {found:.6g}")


def results_of(found: Iterable[tuple[Source, Mapping[str, Any]]]) -> Iterator[tuple[Facts, Sums, Mapping[str, Any]]]:
    """What :func:`write_results` takes, from sources and their numbers."""
    return ((source.facts, source.sums(KEPT), numbers) for source, numbers in found)
