"""``leakmech sweep --dry-run``: the cells, what is done of them, and time, memory and disk of those that are left.

The study counts what a cell has its model read and draw; the model's shape comes from its configuration, and how fast
this machine computes from a matrix product: no model is loaded. Where cells are done, what they took corrects the
estimates of the others: all are multiplied by seconds (bytes) found over seconds (bytes) expected.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from leakmech.core.errors import LeakmechError
from leakmech.core.store import json_text
from leakmech.reports.tables import Table
from leakmech.studies.sweep.result import SWEEP_FILE, Places, read_record
from leakmech.studies.sweep.run import Workers
from leakmech.studies.sweep.spec import Cell, Sweep, read_sweep, settings_of, text_of

_WORK = {
    "bench": "leakmech.studies.benchmark.cost:work_of",
    "diagnose": "leakmech.studies.diagnosis.run:work_of",
    "mitigate": "leakmech.studies.mitigation.cost:work_of",
    "study emotion-circuits": "leakmech.studies.emotion_circuits.run:work_of",
    "study persona-leakage": "leakmech.studies.persona_leakage.cost:work_of",
}
"""What says how much a cell of a study does; training has no count."""
_GIB = 2**30


@dataclass(frozen=True)
class Cost:
    """Seconds of one worker, bytes of its memory, and bytes on disk."""

    seconds: float
    memory: float
    disk: float


def sweep_plan(
    config: str | Path,
    out: str | Path | None = None,
    *,
    workers: int | None = None,
    threads: int | None = None,
    devices: Sequence[str] = (),
) -> Table:
    """The cells of a sweep, what is done of them, and what the others cost; nothing is written and no model loaded.

    `workers`, `threads` and `devices` are those of :func:`leakmech.studies.sweep.run.sweep`.
    """
    found, places = read_sweep(config), None if out is None else Places(Path(out))
    asked = Workers.of(workers, threads, devices)
    states = {cell.key: places.state(cell.key) if places else "to do" for cell in found.cells}
    done = [cell for cell in found.cells if states[cell.key] == "done"]
    left = [cell for cell in found.cells if states[cell.key] != "done"]
    costs, untold = _costs(found, _threads(places, asked)) if left else ({}, Counter())
    measured = {cell.key: _measured(places, cell) for cell in done if places is not None}
    scale = _scale(costs, measured)
    corrected = {key: Cost(own.seconds * scale[0], own.memory, own.disk * scale[1]) for key, own in costs.items()}
    rows = [
        (*(text_of(cell.differs[axis]) for axis in found.axes), states[cell.key], _minutes(cell, measured, corrected),
         cell.key)
        for cell in found.cells
    ]  # fmt: skip
    notes = [f"{len(states)} cells of `leakmech {found.study}`, {len(done)} done, {len(left)} left"]
    if left:
        known = [corrected[cell.key] for cell in left if cell.key in corrected]
        notes += _notes(known, measured, scale, asked, places) if known else _without(left, measured)
        notes += [f"no estimate for {n} cells: {told}" for told, n in untold.items()]
    return Table("Cells of the sweep", (*found.axes, "state", "minutes", "cell"), rows, notes)


def _threads(places: Places | None, asked: Workers) -> int:
    """Of a worker: those of the sweep that is there, or what a new one takes."""
    known = places is not None and (places.root / SWEEP_FILE).exists()
    return read_record(places.root)["threads"] if known and places else asked.threads_each()


# -- what cells cost ---------------------------------------------------------------------------------------------------


def _costs(found: Sweep, threads: int) -> tuple[dict[str, Cost], Counter[str]]:
    """The expected cost of every cell, by key; and why others have none, with how many they are."""
    if found.study not in _WORK:
        return {}, Counter({f"`leakmech {found.study}` counts no work beforehand": len(found.cells)})
    module, _, name = _WORK[found.study].partition(":")
    work_of, settings = getattr(import_module(module), name), settings_of(found.study)
    alike: dict[str, Cost | str] = {}
    costs, untold = {}, Counter[str]()
    for cell in found.cells:
        config: Any = settings.parse(dict(cell.values), where=cell.name)
        # A seed changes no cost.
        key = json_text({**config.identity(), "seed": 0, "place": [config.dtype, config.device]})
        if key not in alike:
            alike[key] = _cost(work_of, config, threads)
        own = alike[key]
        if isinstance(own, Cost):
            costs[cell.key] = own
        else:
            untold[own] += 1
    return costs, untold


def _cost(work_of: Callable[[Any, Any], Any], config: Any, threads: int) -> Cost | str:
    """The expected cost of a cell, or why it is not known."""
    from leakmech.models.cost import expected, found_shape, machine_rate  # here: it needs torch, a sweep does not
    from leakmech.models.device import resolve_device, resolve_dtype

    shape = found_shape(config.model)
    if shape is None:
        return f"the shape of {config.model} is not known here"
    try:
        device = resolve_device(config.device)
        dtype = resolve_dtype(config.dtype, device=device)
        work = work_of(config, shape)
    except LeakmechError as error:
        return str(error)
    cost = expected(work, shape, rate=machine_rate(device, dtype, threads), size=dtype.itemsize)
    return Cost(cost.seconds, cost.memory, work.disk)


def _measured(places: Places, cell: Cell) -> Cost:
    """What a finished cell took; its memory is not known."""
    files = (file for file in places.run(cell.key).rglob("*") if file.is_file())
    return Cost(places.seconds(cell.key) or 0.0, 0.0, sum(file.stat().st_size for file in files))


def _scale(costs: Mapping[str, Cost], measured: Mapping[str, Cost]) -> tuple[float, float]:
    """Found over expected, over the finished cells: seconds, and bytes on disk."""
    both = [(measured[key], costs[key]) for key in measured if key in costs and measured[key].seconds]
    if not both:
        return 1.0, 1.0
    return (
        sum(own.seconds for own, _ in both) / sum(own.seconds for _, own in both),
        sum(own.disk for own, _ in both) / sum(own.disk for _, own in both),
    )


# -- what is told ------------------------------------------------------------------------------------------------------


def _minutes(cell: Cell, measured: Mapping[str, Cost], costs: Mapping[str, Cost]) -> str:
    """What a cell took, or is expected to take."""
    if cell.key in measured:
        return f"{measured[cell.key].seconds / 60:.1f}"
    return f"~{costs[cell.key].seconds / 60:.1f}" if cell.key in costs else ""


def _notes(
    left: Sequence[Cost],
    measured: Mapping[str, Cost],
    scale: tuple[float, float],
    asked: Workers,
    places: Places | None,
) -> list[str]:
    """Sums over the cells that are left and have an estimate."""
    seconds, disk = sum(own.seconds for own in left), sum(own.disk for own in left)
    longest, memory = max(own.seconds for own in left), max(own.memory for own in left)
    several = f", {max(seconds / asked.n, longest) / 60:.0f} with {asked.n}" if asked.n > 1 else ""
    corrected = scale != (1.0, 1.0)
    basis = (
        f"by formula, corrected by the {len(measured)} that are done (they took {scale[0]:.2g} times as long)"
        if corrected
        else "by formula and the speed of a matrix product here; expect a factor of three"
    )
    free = shutil.disk_usage(_existing(places.root if places else Path())).free
    return [
        f"time: about {seconds / 60:.0f} minutes of one worker{several}, {basis}",
        f"memory: about {memory / _GIB:.1f} GiB a worker at most (of its GPU, where it has one), by formula",
        f"disk: about {disk / _GIB:.2g} GiB; {free / _GIB:.0f} GiB are free" + ("" if free > disk else ": too few"),
    ]


def _without(left: Sequence[Cell], measured: Mapping[str, Cost]) -> list[str]:
    """What finished cells alone say."""
    known = [own.seconds for own in measured.values() if own.seconds]
    if not known:
        return []
    minutes = len(left) * sum(known) / len(known) / 60
    disk = len(left) * sum(own.disk for own in measured.values()) / len(measured) / _GIB
    return [f"about {minutes:.0f} minutes of one worker and {disk:.2g} GiB of disk, by the {len(known)} that are done"]


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    return next(own for own in (folder.absolute(), *folder.absolute().parents) if own.is_dir())
