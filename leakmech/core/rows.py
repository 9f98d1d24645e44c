"""Rows of files that users write: JSON lines, CSV, TSV and parquet, read in one way by every command.

A row is (number, fields). The number is that of the line on which the row begins, also after cells with line breaks;
a parquet file has no lines, so there it is that of the row. What programs leave in such files is understood:

* a byte order mark, UTF-16 with its mark, and line ends of any system;
* cells divided by commas, semicolons, tabs or bars, and a first line ``sep=;`` that says which;
* rows and columns without any content, cells after the last column that are empty, and an index without a name;
* half of a surrogate pair, which is read as U+FFFD; NaN, which is missing as null is.

What would be read wrongly is refused with its line: content outside every column, two columns of one name, cells that
are not closed.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from leakmech.core.errors import DatasetError
from leakmech.core.validation import checked

TABLES = (".csv", ".tsv")
PARQUET = ".parquet"
_DELIMITERS = ",;\t|"
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
_LONGEST_CELL = 2**31 - 1  # the library's own limit of 131,072 characters is one for spreadsheets
_BATCH_ROWS = 4096

Row = tuple[int, dict[str, Any]]


def user_rows(path: Path, *, columns: Sequence[str] | None = None, with_empty: bool = False) -> Iterator[Row]:
    """Yield (number, fields) of every row; the name of the file says its kind, and other names are JSON lines.

    The cells of a table are texts; those that a short line lacks are None. `columns` are those that are read of a
    parquet file (all for None). Rows without content are passed over, unless `with_empty` asks for those that are
    there as rows; lines without any character never are.
    """
    path = Path(path)
    read = _parquet_rows(path, columns) if path.suffix.lower() == PARQUET else _text_rows(path)
    try:
        for number, row in read:
            if with_empty or any(map(_has_content, row.values())):
                yield number, row
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or str(error).splitlines()[0]})") from error


def fields_of_first_row(path: Path) -> frozenset[str]:
    """The names of the fields of a file's first row, by which its form is known; none where there is no such row."""
    try:
        return frozenset(next(iter(user_rows(path)))[1]) if Path(path).is_file() else frozenset()
    except (DatasetError, StopIteration):
        return frozenset()


def _has_content(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else value is not None


def number_of_rows(path: Path) -> int | None:
    """How many rows a file has at most; None where only reading tells (a cell may hold line breaks)."""
    if path.suffix.lower() in TABLES:
        return None
    if path.suffix.lower() == PARQUET:
        return _parquet(path).metadata.num_rows
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


def _text_rows(path: Path) -> Iterator[Row]:
    encoding = _encoding(path)
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield from _table_rows(path, file) if path.suffix.lower() in TABLES else _json_rows(path, file)
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}{_undecodable(path, encoding)}: is not UTF-8; save the file as UTF-8") from error


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _undecodable(path: Path, encoding: str) -> str:
    """``:`` and the line that cannot be decoded, where lines can be told apart without decoding."""
    if encoding == "utf-16":
        return ""
    with path.open("rb") as file:
        return next((f":{number}" for number, line in enumerate(file, start=1) if not _is_utf8(line)), "")


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


# -- tables ------------------------------------------------------------------------------------------------------------


def _table_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    first, skipped = _first_line(file)
    separator = _SEPARATOR_LINE.fullmatch(first)
    if separator:
        first, more = _first_line(file)
        skipped += 1 + more
    delimiter = separator[1] if separator else _delimiter(first, is_tsv=path.suffix.lower() == ".tsv")
    csv.field_size_limit(_LONGEST_CELL)
    reader = csv.reader(chain([first], file), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    line = skipped + 1
    try:
        for cells in reader:
            if names is not None and cells:
                yield line, _fields(cells, names, f"{path}:{line}")
            elif cells and any(map(str.strip, cells)):
                names = _names(cells, f"{path}:{line}")
            line = skipped + reader.line_num + 1
    except csv.Error as error:
        raise DatasetError(f"{path}:{line}: is not valid CSV ({error})") from error


def _first_line(file: IO[str]) -> tuple[str, int]:
    """The next line that is not empty, and how many empty ones were before it."""
    for skipped, line in enumerate(file):
        if line.strip():
            return line, skipped
    return "", 0


def _delimiter(header: str, *, is_tsv: bool) -> str:
    """What divides the cells of a header: what it has most of outside of quotes; in a .tsv a tab if it has any."""
    bare = re.sub(r'"[^"]*"?', "", header)
    return "\t" if is_tsv and "\t" in bare else max(_DELIMITERS, key=bare.count)


def _names(header: Sequence[str], where: str) -> list[str]:
    names = [cell.strip() for cell in header]
    twice = next((name for i, name in enumerate(names) if name and name in names[:i]), None)
    if twice is not None:
        raise DatasetError(f"{where}: has two columns {twice!r}; rename or delete one")
    return names


def _fields(cells: Sequence[str], names: Sequence[str], where: str) -> dict[str, Any]:
    """The cells of a row by their columns; a first column without a name is the index that pandas writes."""
    if any(map(str.strip, cells[len(names) :])):
        raise DatasetError(f"{where}: has more cells than the header has columns")
    nameless = (i for i, name in enumerate(names) if i and not name and cells[i : i + 1] and cells[i].strip())
    if (column := next(nameless, None)) is not None:
        raise DatasetError(f"{where}: has a cell in column {column + 1}, which has no name in the header")
    padded = [*cells, *[None] * (len(names) - len(cells))]
    return {name: cell for name, cell in zip(names, padded, strict=False) if name}


# -- JSON lines --------------------------------------------------------------------------------------------------------


def _json_rows(path: Path, file: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, parse_constant=_constant)
        except ValueError as error:
            raise DatasetError(f"{path}:{number}: is not valid JSON ({error})") from error
        except RecursionError as error:
            raise DatasetError(f"{path}:{number}: is not valid JSON for a row (nested too deeply)") from error
        if not isinstance(row, dict):
            raise DatasetError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
        yield number, _whole_characters(row) if "\\u" in line else row


def _constant(name: str) -> float | None:
    """What Python's programs write for numbers that JSON does not have; NaN is how pandas writes a gap."""
    return None if name == "NaN" else float(name)


def _whole_characters(value: Any) -> Any:
    """`value` with U+FFFD in place of every half of a surrogate pair, which no encoding can hold."""
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, list):
        return [_whole_characters(item) for item in value]
    if isinstance(value, dict):
        return {_whole_characters(key): _whole_characters(item) for key, item in value.items()}
    return value


# -- parquet -----------------------------------------------------------------------------------------------------------


def _parquet(path: Path) -> Any:
    """The opened file; DatasetError where it is none."""
    import pyarrow as pa  # here, since it takes long to import
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        _ = file.schema_arrow.names  # read when it is asked for
        return file
    except (pa.ArrowException, EOFError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is not a parquet file ({str(error).splitlines()[0]})") from error


def _parquet_rows(path: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa

    file, number = _parquet(path), 0
    try:
        names = [name for name in file.schema_arrow.names if not name.startswith("__index_level_")]
        wanted = names if columns is None else [name for name in names if name in columns]
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield number, {name: None if value != value else value for name, value in row.items()}
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is damaged after row {number} ({str(error).splitlines()[0]})") from error


def parquet_columns(path: Path) -> list[str]:
    """The columns of a parquet file."""
    return list(_parquet(path).schema_arrow.names)


# -- rows --------------------------------------------------------------------------------------------------------------


class _WithId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_WithId)


def as_id(value: Any) -> Any:
    """An id as a text: programs that read 7 in a table write it as a number, and beside a gap as 7.0."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str):
        return value.strip()
    return str(value) if type(value) is int else value


def numbered_items(path: Path, kind: type[Item]) -> dict[int, Item]:
    """A `kind` for every row of a file, by the number of the row; an empty cell is a field that is not there."""
    items: dict[int, Item] = {}
    seen: dict[str, int] = {}
    in_cells = Path(path).suffix.lower() in (*TABLES, PARQUET)
    for number, row in user_rows(path):
        values = {key: value for key, value in row.items() if not (in_cells and value in ("", None))}
        if "id" in values:
            values["id"] = as_id(values["id"])
        item = checked(kind, values, where=f"{path}:{number}")
        if item.id in seen:
            raise DatasetError(f"{path}:{number}: field 'id': {item.id!r} is already used in line {seen[item.id]}")
        seen[item.id] = number
        items[number] = item
    if not items:
        raise DatasetError(f"{path}: is empty; expected one {kind.__name__} in each line")
    return items


def read_items(path: Path, kind: type[Item]) -> tuple[Item, ...]:
    """A `kind` for every row of a file, in its order."""
    return tuple(numbered_items(path, kind).values())
