"""Files that are whole or absent: atomic writes, append-only shards, hashes.

Every file that counts is written to a temporary file in the same folder, flushed to disk and renamed. Shards that
grow are JSON lines; the end of a shard may be torn by a kill, and a torn last line is dropped when it is read.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import warnings
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakmech.core.errors import LeakmechError, LeakmechWarning, RunDirectoryError, StorageError

if TYPE_CHECKING:
    import pandas as pd


CHECKSUM = "crc32"
"""Last entry of a line of a shard; lines that older versions wrote have none."""
_CHECKED = re.compile(rb', ("crc32": "[0-9a-f]{8}")}\n')
_BLOCK = 2**20
_CHECKED_LENGTH = len(', "crc32": "01234567"}\n')
_TEMPORARY = re.compile(r"\..*\.(?P<host>[0-9a-f]{8})-(?P<pid>[0-9]{1,9})\.tmp", re.DOTALL)

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
    temporary = path.with_name(_temporary_name(path.name))
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                with contextlib.suppress(PermissionError):  # some file systems have no modes
                    os.fchmod(written.fileno(), 0o666 & ~_umask())  # safetensors writes for the owner only
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, to be renamed to it; what is left of it, also by killed processes, goes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp"))
    suffix = _temporary_name(folder.name).removeprefix(f".{folder.name}")
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=suffix, dir=folder.parent))
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def give_modes(folder: Path) -> None:
    """Give `folder` and all in it the mode that the umask gives; some libraries write for the owner only."""
    for file in (folder, *folder.rglob("*")):
        file.chmod((0o777 if file.is_dir() else 0o666) & ~_umask())


def sweep(found: Iterable[Path]) -> None:
    """Remove the temporary files and folders among `found` whose process, one of this machine, is dead."""
    for left in list(found):
        owner = _TEMPORARY.fullmatch(left.name)
        if owner is None or owner["host"] != _host() or _lives(int(owner["pid"])):
            continue
        with contextlib.suppress(OSError):
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()


def _temporary_name(name: str) -> str:
    return f".{name}.{_host()}-{os.getpid()}.tmp"


def _host() -> str:
    """This machine, in few letters: its process ids say nothing on another one that shares the folder."""
    return content_hash(socket.gethostname())[:8]


def _umask() -> int:
    """The mode bits that new files of this process do not have."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _lives(pid: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is somebody else's
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(utf8(text))


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically. NaN is refused: a missing number is ``null``."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What :func:`write_json` writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]], *, checksums: bool = False) -> None:
    """Write one JSON object in each line, atomically and one after the other; with `checksums` as a shard has them."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.writelines(map(_checked_line if checksums else _json_line, rows))


def utf8(text: str) -> bytes:
    """`text` in UTF-8, with U+FFFD for the halves of surrogate pairs, which it cannot hold."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udfff]", "\ufffd", text).encode()


def _json_line(row: Mapping[str, Any]) -> bytes:
    return utf8(json.dumps(row, ensure_ascii=False) + "\n")


def _checked_line(row: Mapping[str, Any]) -> bytes:
    """A line that ends with a checksum of itself; one without entries has nothing to check."""
    line = _json_line(row)
    return line[:-2] + b", " + _checksum_entry(line) + b"}\n" if row else line


def _checksum_entry(line: bytes) -> bytes:
    return f'"{CHECKSUM}": "{zlib.crc32(line):08x}"'.encode()


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
    data = b"".join(map(_checked_line, rows))
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


def read_jsonl_shard(path: Path, *, on_damage: Callable[[str], None] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of an append-only shard; a last line without its newline is torn and dropped.

    A damaged line is passed over and told to `on_damage`; RunDirectoryError if nobody wants to hear it.
    """
    return (row for _, row in _shard_rows(path, on_damage))


def mended_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a shard that goes on, none where there is no file; damaged lines are named and taken out of the file."""
    damaged: list[str] = []
    rows = list(read_jsonl_shard(path, on_damage=damaged.append)) if path.exists() else []
    if damaged:
        told = f"{damaged[0]}; lines taken out: {len(damaged)}; the other {len(rows)} stay"
        warnings.warn(told, LeakmechWarning, stacklevel=2)
        write_jsonl(path, rows, checksums=True)
    return rows


class ShardIndex:
    """Where the rows of shards stand, by one of their fields, so that few of them need be in memory."""

    def __init__(self, shards: Iterable[Path], field: str) -> None:
        self._shards = list(shards)
        self._values: dict[str, int] = {}
        owners, numbers, offsets = array("I"), array("H"), array("Q")  # of each row: its value, its shard, its place
        for number, shard in enumerate(self._shards):
            for offset, row in _shard_rows(shard):
                owners.append(self._values.setdefault(row[field], len(self._values)))
                numbers.append(number)
                offsets.append(offset)
        order = sorted(range(len(owners)), key=owners.__getitem__)
        self._owners, self._numbers, self._offsets = (
            array(column.typecode, map(column.__getitem__, order)) for column in (owners, numbers, offsets)
        )

    def rows(self, value: str) -> list[dict[str, Any]]:
        """The rows whose field has this value, in their order."""
        found = []
        owner = self._values.get(value, len(self._values))
        for place in range(bisect_left(self._owners, owner), bisect_right(self._owners, owner)):
            with self._shards[self._numbers[place]].open("rb") as file:
                file.seek(self._offsets[place])
                found.append(checked_row(file.readline()))
        return found


def _shard_rows(path: Path, on_damage: Callable[[str], None] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(place in bytes, row) of every complete row of a shard."""
    place = 0
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                row = checked_row(line)
            except ValueError as error:
                told = f"{path}:{number}: damaged line ({error})"
                if on_damage is None:
                    raise RunDirectoryError(f"{told}; delete this line and summary.json, and continue") from error
                on_damage(told)
            else:
                yield place, row
            place += len(line)


def checked_row(line: bytes) -> dict[str, Any]:
    """The object of a line without its checksum; ValueError says what is wrong with the line."""
    row = parsed_json(line)
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found {type(row).__name__}")
    if CHECKSUM in row:
        found = _CHECKED.fullmatch(line[-_CHECKED_LENGTH:])
        if found is None or found[1] != _checksum_entry(line[:-_CHECKED_LENGTH] + b"}\n"):
            raise ValueError("it was changed after it was written")
        del row[CHECKSUM]
    return row


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


def is_occupied(folder: Path) -> bool:
    """Whether a folder holds anything but hidden files, which are temporary ones."""
    return folder.is_dir() and any(not file.name.startswith(".") for file in folder.iterdir())


def slug(name: str | Path) -> str:
    """A file name for a model, a data set or anything else that has a name: the last part of a path, made safe."""
    last = Path(name).name.removeprefix("embedded:")
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in last).strip(".") or "-"


def content_hash(*parts: bytes | str) -> str:
    """A short (16 hex digits) BLAKE2 hash of texts or bytes."""
    return hash_of_parts(parts)


def file_hash(path: Path) -> str:
    """:func:`content_hash` of the bytes of a file, which is read in blocks."""
    digest = hashlib.blake2b(digest_size=8)
    with Path(path).open("rb") as file:
        digest.update(os.fstat(file.fileno()).st_size.to_bytes(8, "little"))
        for block in iter(lambda: file.read(_BLOCK), b""):
            digest.update(block)
    return digest.hexdigest()


def files_stamp(files: Iterable[Path]) -> str:
    """Hash of names, sizes and times of change: says less than the contents, and reads nothing."""
    return content_hash(*(f"{file}\x1f{(own := file.stat()).st_size}\x1f{own.st_mtime_ns}" for file in files))


def hash_of_parts(parts: Iterable[bytes | str]) -> str:
    """:func:`content_hash` of texts or bytes as they come."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = utf8(part) if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
