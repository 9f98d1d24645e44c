"""What a sweep is: a study, settings that all cells share, and a grid of settings in which they differ.

    study: bench                  bench, diagnose, mitigate, train-lora, study emotion-circuits, study persona-leakage
    base: {dataset: hexl}         settings of the study
    grid:                         setting -> values; a cell for each combination
      model: [A, B]
      temperature: [0.7, 1.0]     a setting inside a group, by its option's name or as decoding.temperature

A cell is a run of its own in ``cells/<key>``; its key is made of what differs and of a hash of all settings that decide
it, so that a longer grid takes in what a shorter one made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.store import content_hash, json_text, slug
from leakmech.core.validation import shown
from leakmech.core.yaml_files import read_yaml
from leakmech.runs.options import options_of
from leakmech.runs.settings import Settings

SETTINGS = {
    "bench": "leakmech.studies.benchmark.settings:BenchConfig",
    "diagnose": "leakmech.studies.diagnosis.settings:DiagnoseConfig",
    "mitigate": "leakmech.studies.mitigation.settings:MitigateConfig",
    "train-lora": "leakmech.training.settings:LoraTrainingConfig",
    "study emotion-circuits": "leakmech.studies.emotion_circuits.settings:EmotionCircuitsConfig",
    "study persona-leakage": "leakmech.studies.persona_leakage.settings:PersonaLeakageConfig",
}
"""Settings of the studies that can be swept, by their command."""
_KEYS = ("study", "base", "grid")
_MOST_CELLS = 100_000
_LONGEST = 80


@dataclass(frozen=True)
class Cell:
    """One combination: what differs, all settings as a file has them, and the key that names its folder."""

    key: str
    differs: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What differs, for people."""
        return ", ".join(f"{axis}={_text(value)}" for axis, value in self.differs.items())


@dataclass(frozen=True)
class Sweep:
    """A study and its cells."""

    study: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]


def read_sweep(file: str | Path) -> Sweep:
    """Read a sweep; every cell's settings are checked.

    Raises
    ------
    ConfigError
        A key, study or setting is unknown (the nearest valid one is named), an axis is empty or names a setting of the
        base, or the settings of a cell are wrong: the message names the cell.
    """
    values = read_yaml(Path(file))
    where = str(file)
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {shown(key)}{nearest(key, _KEYS)}; a sweep has study, base, grid")
    study = values.get("study", "bench")
    if study not in SETTINGS:
        raise ConfigError(f"{where}: study {shown(study)}: no such study{nearest(str(study), SETTINGS)}")
    return sweep_of(study, _mapping(values, "base", where), _mapping(values, "grid", where), where=where)


def sweep_of(study: str, base: Mapping[str, Any], grid: Mapping[str, Any], *, where: str = "sweep") -> Sweep:
    """The cells of a grid over a base; see :func:`read_sweep`."""
    settings = _settings(study)
    paths = {axis: _path(settings, axis, where) for axis in grid}
    for axis, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: grid: {axis}: give a list of one value or more, found {shown(values)}")
    size = 1
    for values in grid.values():
        size *= len(values)
    if size > _MOST_CELLS:
        raise ConfigError(f"{where}: {size:,} cells are more than {_MOST_CELLS:,}; make the grid smaller")
    shared: dict[str, Any] = {}
    for name, value in base.items():
        _put(shared, _path(settings, name, where), value)
    if both := next((axis for axis, path in paths.items() if _has(shared, path)), None):
        raise ConfigError(f"{where}: {both} is in base and in grid; keep one")
    cells = [_cell(settings, shared, dict(zip(grid, chosen, strict=True)), paths, where)
             for chosen in product(*grid.values())]  # fmt: skip
    seen: dict[str, Cell] = {}
    for cell in cells:
        if cell.key in seen:
            raise ConfigError(f"{where}: two cells are the same: {seen[cell.key].name or 'all of it'}")
        seen[cell.key] = cell
    return Sweep(study, tuple(grid), tuple(cells))


def _cell(
    settings: type[Settings],
    shared: Mapping[str, Any],
    differs: Mapping[str, Any],
    paths: Mapping[str, Sequence[str]],
    where: str,
) -> Cell:
    values: dict[str, Any] = {name: dict(own) if isinstance(own, dict) else own for name, own in shared.items()}
    for axis, value in differs.items():
        _put(values, paths[axis], value)
    named = ", ".join(f"{axis}={_text(value)}" for axis, value in differs.items())
    config = settings.parse(values, where=f"{where}, cell {named}" if named else where)
    decided = content_hash(settings.command, json_text(config.identity()))[:8]
    head = slug("-".join(_text(value) for value in differs.values()))[:_LONGEST] or "cell"
    return Cell(f"{head}-{decided}", dict(differs), values)


def _settings(study: str) -> type[Settings]:
    module, _, name = SETTINGS[study].partition(":")
    return getattr(import_module(module), name)


def _path(settings: type[Settings], name: str, where: str) -> tuple[str, ...]:
    """The setting that is meant: a field, ``group.field``, or the name of its option."""
    if name in settings.model_fields:
        return (name,)
    options = {option.names[0].removeprefix("--").replace("-", "_"): option.path for option in options_of(settings)}
    dotted = {".".join(path): path for path in options.values() if len(path) > 1}
    known = {**options, **dotted}
    found = known.get(name) or known.get(name.replace("-", "_"))
    if found is None:
        raise ConfigError(f"{where}: unknown setting {shown(name)}{nearest(name, [*settings.model_fields, *known])}")
    return found


def _put(values: dict[str, Any], path: Sequence[str], value: Any) -> None:
    name, *inner = path
    if not inner:
        values[name] = value
        return
    group = values.get(name)
    values[name] = {**(group if isinstance(group, dict) else {}), inner[0]: value}


def _has(values: Mapping[str, Any], path: Sequence[str]) -> bool:
    name, *inner = path
    own = values.get(name)
    return name in values and (not inner or (isinstance(own, dict) and inner[0] in own))


def _mapping(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    own = values.get(key) or {}
    if not isinstance(own, dict):
        raise ConfigError(f"{where}: {key}: give a mapping of settings, found {shown(own)}")
    return own


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_text, value))
    return "none" if value is None else str(value)
