"""One run: opened or refused, continued where it stopped, interrupted with a message, finished.

1. :meth:`Run.check`, before anything is loaded: does the directory hold a run with other settings, or is it in use?
2. :meth:`Run.open`, once hashes are known: ``run.json`` is written, or holds this very run; nobody else may open it.
3. :meth:`Run.part` and :meth:`Run.cell`, inside :meth:`Run.interruptible`: each is made once, whatever happens.
4. :meth:`Run.finish`: ``summary.json`` is written last, and says that the run is complete.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd

from leakmech.core.errors import LeakmechWarning, RunDirectoryError
from leakmech.core.provenance import environment
from leakmech.core.store import atomic_path, is_occupied, sweep, write_json
from leakmech.core.tables import read_table, write_table
from leakmech.core.validation import shown
from leakmech.runs.directory import CHECKSUMS, FORMAT_VERSION, RUN_FILE, RunDirectory, RunRecord
from leakmech.runs.interrupt import interruptible
from leakmech.runs.lock import DirectoryLock, refuse_in_use
from leakmech.runs.result import Result
from leakmech.runs.sealed import read_sealed, write_sealed
from leakmech.runs.settings import Settings

Fragment = dict[str, Any]
"""A part of a summary, JSON-ready."""

R = TypeVar("R", bound=Result)

_SAMPLES = ("dataset", "fit", "tune", "tilt_from")
"""Settings that name files of samples or of texts, whose content is in the fingerprint."""


@dataclass(frozen=True)
class Run:
    """A run directory that this process has opened with `settings`; `record` is what ``run.json`` says."""

    path: Path
    settings: Settings
    record: RunRecord
    _lock: DirectoryLock | None
    _written: list[Path] = field(default_factory=list)
    """Files that parts wrote, in their order."""
    _known: dict[str, Fragment] = field(default_factory=dict)
    """Parts that this process has made or read."""

    # -- opening -----------------------------------------------------------------------------------------------------

    @staticmethod
    def check(path: str | Path, settings: Settings, *, lock: bool = True) -> None:
        """Raise RunDirectoryError, before anything is loaded, if :meth:`open` would refuse this directory."""
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise RunDirectoryError(f"{path}: is a file, not a run directory")
        record = RunRecord.find(path)
        if record is not None:
            _refuse_other_settings(record, settings)
        # Hidden files are temporary ones: a kill before run.json was in place leaves nothing else.
        elif is_occupied(path):
            raise RunDirectoryError(f"{path}: is not empty and holds no leakmech run; choose another --out")
        if lock and _writes(path, settings):
            refuse_in_use(path)

    @classmethod
    def open(
        cls,
        path: str | Path,
        settings: Settings,
        fingerprint: Mapping[str, str],
        *,
        lock: bool = True,
        **facts: Any,
    ) -> Run:
        """Begin the run in `path`, or open it to go on; until it is closed no other process can.

        `fingerprint` has the hashes of what settings do not say (weights, data sets, estimators); `facts` is what else
        ``run.json`` tells about a new run. `lock` is False for the other processes of a run that several make together.
        """
        path = Path(path)
        cls.check(path, settings, lock=False)
        _refuse_links(path)
        if lock and RunRecord.find(path) is not None:
            _unfinish_damaged(path)
        held = DirectoryLock.acquire(path, settings.command) if lock and _writes(path, settings) else None
        if held is not None:
            sweep(path.rglob(".*.tmp"))
            (path / CHECKSUMS).unlink(missing_ok=True)  # of files that are about to be written again
        try:
            return cls(path, settings, _begun(path, settings, fingerprint, facts), held)
        except BaseException:
            if held is not None:
                held.release()
            raise

    def close(self) -> None:
        """Let other processes have the directory."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- going on ----------------------------------------------------------------------------------------------------

    @property
    def files(self) -> RunDirectory:
        """Where its files lie."""
        return RunDirectory(self.path)

    @property
    def finished(self) -> bool:
        """Is everything done?"""
        return self.files.is_complete()

    def part(self, name: str, make: Callable[[], Fragment]) -> Fragment:
        """Return what `make` returns and keep it in ``stages/<name>.json``; what is there is not made again.

        Of tables and arrays that it saves, and of files that it tells to :meth:`wrote`, hashes are kept: where one is
        damaged or gone, the part is made again.
        """
        self._known[name] = self._made_once(self.path / "stages" / f"{name}.json", make)
        return self._known[name]

    def earlier(self, name: str) -> Fragment:
        """What a part returned that comes before; it is read, and its files are checked, once."""
        if name not in self._known:
            self.part(name, lambda: _absent(name))
        return self._known[name]

    def cell(self, key: str, make: Callable[[], Fragment]) -> Fragment:
        """Do the same for one of many alike; `key` is its folder in ``cells/`` and names all that decides it."""
        return self._made_once(self.files.cell(key) / "cell.json", make)

    def _made_once(self, path: Path, make: Callable[[], Fragment]) -> Fragment:
        if path.exists():
            try:
                return read_sealed(path)
            except RunDirectoryError as damage:
                warnings.warn(f"{damage}; it is made again", LeakmechWarning, stacklevel=3)
        before = len(self._written)
        value = make()
        return write_sealed(path, value, self._written[before:])

    def noted(self, name: str, make: Callable[[], Fragment]) -> Fragment:
        """Do the same for a decision, which is never made again: where its record is damaged, it is refused."""
        path = self.path / "stages" / f"{name}.json"
        return read_sealed(path) if path.exists() else write_sealed(path, make())

    def wrote(self, *files: Path) -> None:
        """Tell of files that belong to the part that is being made."""
        self._written.extend(files)

    def save_table(self, name: str, frames: pd.DataFrame | Sequence[pd.DataFrame]) -> None:
        """Write ``tables/<name>.csv``; several frames stand below each other."""
        frame = frames if isinstance(frames, pd.DataFrame) else pd.concat(list(frames), ignore_index=True)
        file = self.path / "tables" / f"{name}.csv"
        write_table(file, frame)
        self.wrote(file)

    def table(self, name: str) -> pd.DataFrame:
        """What :meth:`save_table` wrote."""
        return read_table(self.path / "tables" / f"{name}.csv")

    def save_arrays(self, name: str, **arrays: np.ndarray) -> None:
        """Keep arrays in ``stages/<name>.npz``."""
        path = self.path / "stages" / f"{name}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType] - names are our own
        self.wrote(path)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """What :meth:`save_arrays` kept."""
        with np.load(self.path / "stages" / f"{name}.npz", allow_pickle=False) as stored:
            return dict(stored)

    # -- ending ------------------------------------------------------------------------------------------------------

    def interruptible(self, saved: Callable[[], str]) -> AbstractContextManager[None]:
        """Let Ctrl-C and SIGTERM raise InterruptedRunError in this block: what is `saved`, and how to go on."""
        return interruptible(self.path, saved, self.record.how_to_continue())

    def finish(self, summary: Fragment, timing: Mapping[str, float] | None = None, *, result: type[R]) -> R:
        """Write ``summary.json``, which makes the run complete, and return it as a `result`."""
        whole: Fragment = {"kind": self.settings.kind, "format_version": FORMAT_VERSION, **summary}
        if timing is not None:
            whole["timing"] = {name: round(seconds, 4) for name, seconds in timing.items()}
        self.files.note_checksums(whole)
        write_json(self.files.summary_file, whole)
        return result(self.path, whole)


def _absent(name: str) -> Fragment:
    raise AssertionError(f"part {name!r} comes first")


def run_path(out: str | Path | None, name: str) -> Path:
    """The directory that was asked for, or one of that name in ``runs/``."""
    return Path(out) if out else Path("runs") / name


def _writes(path: Path, settings: Settings) -> bool:
    """A finished run is only read, which any number of processes may do at once."""
    return settings.grows is not None or not RunDirectory(path).is_complete()


def _refuse_links(path: Path) -> None:
    """Refuse a directory from which a link leads elsewhere: what is written there would not be the run's own."""
    own = path.resolve()
    for file in path.rglob("*"):
        if file.is_symlink() and not file.resolve().is_relative_to(own):
            raise RunDirectoryError(f"{file}: is a link out of the run; put what it names into its place")


def _unfinish_damaged(path: Path) -> None:
    """Let a complete run whose derived files are damaged be finished again, from what they were made of."""
    files = RunDirectory(path)
    wrong = files.damaged() if files.is_complete() else None
    if wrong is not None:
        refuse_in_use(path)
        warnings.warn(f"{wrong.partition('; ')[0]}; it is made again", LeakmechWarning, stacklevel=3)
        files.summary_file.unlink(missing_ok=True)


def _begun(path: Path, settings: Settings, fingerprint: Mapping[str, str], facts: Mapping[str, Any]) -> RunRecord:
    """The record of a run, written if it is new, and taking in what a growing run was given since."""
    file, identity = path / RUN_FILE, settings.identity()
    if not file.exists():
        head = {"format_version": FORMAT_VERSION, "kind": settings.kind, "command": settings.command}
        described = {"config": identity, "fingerprint": dict(fingerprint), **facts, "environment": environment()}
        write_json(file, head | described)
    record = RunRecord.read(path)
    before = record.fingerprint
    changed = [key for key in {**fingerprint, **before} if before.get(key) != fingerprint.get(key)]
    if changed:
        raise RunDirectoryError(
            f"{path}: holds a run with other {', '.join(changed)}; choose another --out to keep both"
        )
    if any(record.config.get(key) != identity.get(key) for key in settings.grows or ()):
        write_json(file, {**record.values, "config": identity})
        return RunRecord.read(path)
    return record


def _refuse_other_settings(record: RunRecord, settings: Settings) -> None:
    path = record.path
    if record.command != settings.command:
        raise RunDirectoryError(f"{path}: holds a run of `leakmech {record.command}`; choose another --out")
    if record.kind != settings.kind or record.fact("format_version") != FORMAT_VERSION:
        raise RunDirectoryError(f"{path}: holds a run of another kind or version; choose another --out")
    # A setting that is newer than the run had its default.
    defaults = type(settings).model_construct().model_dump(mode="json", warnings=False)
    before, wanted = defaults | record.config, defaults | settings.identity()
    wanted = {key: wanted[key] for key in wanted if key not in (*settings.place, *(settings.grows or ()))}
    changed = sorted(key for key in wanted if not _is_same(key, before.get(key), wanted[key]))
    if changed:
        key = changed[0]
        raise RunDirectoryError(
            f"{path}: holds a run with other settings ({', '.join(changed)}; {key} is "
            f"{shown(before.get(key))} there and {shown(wanted[key])} here); choose another --out"
        )


def _is_same(setting: str, one: Any, other: Any) -> bool:
    """Files of samples may lie elsewhere by now, or be named in another way: the fingerprint knows what they hold."""
    if setting in _SAMPLES and isinstance(one, str) and isinstance(other, str):
        return Path(one).name == Path(other).name
    return one == other
