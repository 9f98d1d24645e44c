"""Files that are whole or absent: atomic writes, append-only shards, hashes.

Every file that counts is written to a temporary file in the same folder, flushed to disk and renamed. Shards that
grow are JSON lines; the end of a shard may be torn by a kill, and a torn last line is dropped when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakmech.core.errors import LeakmechError, RunDirectoryError, StorageError

if TYPE_CHECKING:
    import pandas as pd


_OS_ERROR = re.compile(r"(?:I/O error: )?([^:()]+) \(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) tell what the system refused; their errors are no OSError."""


@contextmanager
def storage_errors(path: Path, *, lost: str = "; nothing was lost") -> Iterator[None]:
    """Say of whatever is raised because the file system refuses that `path` cannot be written."""
    try:
        yield
    except LeakmechError:
        raise
    except Exception as error:
        refused = _refusal(error)
        if refused is None:
            raise
        raise StorageError(f"{path}: cannot be written ({refused}){lost}") from error


def _refusal(error: Exception) -> str | None:
    """What the file system said; None if an error is about something else."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    told = _OS_ERROR.search(str(error))
    return told[1].strip() if told else None


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(utf8(text))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: a missing number is ``null``."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object in each line, atomically and one after the other."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(map(_json_line, rows))


def utf8(text: str) -> bytes:
    """`text` in UTF-8, with U+FFFD for the halves of surrogate pairs, which it cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


def _json_line(row: Mapping[str, Any]) -> bytes:
    return utf8(json.dumps(row, ensure_ascii=False) + "\n")


def write_parquet(path: Path, *frames: pd.DataFrame) -> None:
    """Write a data frame as parquet, atomically; several stand below each other."""
    write_parquet_parts(path, frames)


def write_parquet_parts(path: Path, frames: Iterable[pd.DataFrame]) -> None:
    """Write data frames of the same columns below each other as parquet, atomically, as they come."""
    import pyarrow as pa  # here, since it takes long to import
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        writer = None
        try:
            for frame in frames:
                table = pa.Table.from_pandas(frame, schema=writer and writer.schema, preserve_index=False)
                writer = writer or pq.ParquetWriter(temporary, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()


def append_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append rows to a shard and flush them to disk; a torn last line from an earlier kill is closed first."""
    path = Path(path)
    data = b"".join(map(_json_line, rows))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    _drop_torn_line(file)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _drop_torn_line(file: Any) -> None:
    """Cut an opened shard back to its last complete line."""
    file.seek(0)
    end = file.read().rfind(b"\n") + 1
    file.truncate(end)
    file.seek(end)


def read_jsonl_shard(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of an append-only shard; a last line without its newline is torn and dropped."""
    return (row for _, row in _shard_rows(path))


class ShardIndex:
    """Where the rows of shards stand, by one of their fields, so that few of them need be in memory."""

    def __init__(self, shards: Iterable[Path], field: str) -> None:
        self._shards = list(shards)
        self._places: dict[str, tuple[array[int], array[int]]] = {}
        for number, shard in enumerate(self._shards):
            for offset, row in _shard_rows(shard):
                numbers, offsets = self._places.setdefault(row[field], (array("H"), array("Q")))
                numbers.append(number)
                offsets.append(offset)

    def rows(self, value: str) -> list[dict[str, Any]]:
        """The rows whose field has this value, in their order."""
        found = []
        for number, offset in zip(*self._places.get(value, ((), ())), strict=True):
            with self._shards[number].open("rb") as file:
                file.seek(offset)
                found.append(parsed_json(file.readline()))
        return found


def _shard_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place in bytes, row) of every complete row of a shard."""
    place = 0
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = parsed_json(line)
            except ValueError as error:
                raise RunDirectoryError(
                    f"{path}:{number}: damaged line ({error}); delete the file to redo it"
                ) from error
            yield place, row
            place += len(line)


def parsed_json(text: str | bytes) -> Any:
    """The value of a JSON text; ValueError also where it nests too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that must exist and hold an object."""
    try:
        value = parsed_json(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{path}: not found; is {Path(path).parent} a finished leakmech run?") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path}: damaged ({error})") from error
    except OSError as error:
        raise RunDirectoryError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not isinstance(value, dict):
        raise RunDirectoryError(f"{path}: damaged (expected an object, found {type(value).__name__})")
    return value


def slug(name: str | Path) -> str:
    """A file name for a model, a data set or anything else that has a name: the last part of a path, made safe."""
    last = Path(name).name.removeprefix("embedded:")
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in last).strip(".") or "-"


def content_hash(*parts: bytes | str) -> str:
    """A short (16 hex digits) BLAKE2 hash of texts or bytes."""
    return hash_of_parts(parts)


def hash_of_parts(parts: Iterable[bytes | str]) -> str:
    """:func:`content_hash` of texts or bytes as they come."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = utf8(part) if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
