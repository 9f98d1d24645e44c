"""What a sweep is: a study, settings that all cells share, and a grid of settings in which they differ.

    study: bench                  bench, diagnose, mitigate, train-lora, study emotion-circuits, study persona-leakage
    base: {dataset: hexl}         settings of the study
    grid:                         setting -> values; a cell for each combination
      model: [A, B]
      temperature: [0.7, 1.0]     a setting inside a group, by its option's name or as decoding.temperature

A cell is a run of its own in ``cells/<key>``; its key is a hash of all settings that decide it, so that a longer grid
takes in what a shorter one made. What the settings name (models, data sets, adapters) is not in it: a run says itself
what it was made from, and who changes such a file gives it another name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.store import content_hash, json_text
from leakmech.core.validation import shown
from leakmech.core.yaml_files import read_yaml
from leakmech.runs.options import Option, laid_over, options_of
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


@dataclass(frozen=True)
class Cell:
    """One combination: what differs, all settings as a file has them, and the key that names its folder."""

    key: str
    differs: Mapping[str, Any]
    values: Mapping[str, Any]

    @property
    def name(self) -> str:
        """What differs, for people."""
        return ", ".join(f"{axis}={text_of(value)}" for axis, value in self.differs.items()) or self.key


@dataclass(frozen=True)
class Sweep:
    """A study and its cells."""

    study: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class _Named:
    """A setting by the name that the file gives it: a field as a whole, or an option for a field of a group."""

    name: str
    path: tuple[str, ...]
    option: Option | None


def read_sweep(file: str | Path) -> Sweep:
    """Read a sweep; every cell's settings are checked.

    A file of settings of a study that falls apart (behaviours and sources of persona leakage) is one, too.

    Raises
    ------
    ConfigError
        A key, study or setting is unknown (the nearest valid one is named), an axis is empty, a setting is given twice,
        or the settings of a cell are wrong: the message names the cell.
    """
    values = read_yaml(Path(file))
    where = str(file)
    if (own := _study_of(values)) is not None:
        return _own_grid(own, values, where)
    for key in values:
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {shown(key)}{nearest(key, _KEYS)}; a sweep has study, base, grid")
    study = values.get("study", "bench")
    if not isinstance(study, str) or study not in SETTINGS:
        raise ConfigError(f"{where}: study {shown(study)}: no such study{nearest(str(study), SETTINGS)}")
    return sweep_of(study, _mapping(values, "base", where), _mapping(values, "grid", where), where=where)


def _study_of(values: Mapping[str, Any]) -> str | None:
    """The study whose own settings a file has, if that study can be taken apart and no other has them."""
    if not values or any(key in _KEYS for key in values):
        return None
    fitting = [study for study in SETTINGS if all(key in settings_of(study).model_fields for key in values)]
    return fitting[0] if len(fitting) == 1 and settings_of(fitting[0]).axes else None


def _own_grid(study: str, values: Mapping[str, Any], where: str) -> Sweep:
    """The cells into which a study's own settings fall apart: one for each value of its axes."""
    several = {axis: values[axis] for axis in settings_of(study).axes if isinstance(values.get(axis), list)}
    base = {name: value for name, value in values.items() if name not in several}
    return sweep_of(study, base, {axis: [[one] for one in own] for axis, own in several.items()}, where=where)


def sweep_of(study: str, base: Mapping[str, Any], grid: Mapping[str, Any], *, where: str = "sweep") -> Sweep:
    """The cells of a grid over a base; see :func:`read_sweep`."""
    settings = settings_of(study)
    known = _known_names(settings)
    shared = [(_named(settings, known, name, where), value) for name, value in base.items()]
    axes = [(_named(settings, known, name, where), values) for name, values in grid.items()]
    for axis, values in axes:
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{where}: grid: {axis.name}: give a list of one value or more, found {shown(values)}")
    _refuse_twice(shared, [axis for axis, _ in axes], where)
    size = 1
    for _, values in axes:
        size *= len(values)
    if size > _MOST_CELLS:
        raise ConfigError(f"{where}: {size:,} cells are more than {_MOST_CELLS:,}; make the grid smaller")
    seen: dict[str, Cell] = {}
    for chosen in product(*(values for _, values in axes)):
        cell = _cell(settings, [*shared, *zip((axis for axis, _ in axes), chosen, strict=True)], list(grid), where)
        if cell.key in seen:
            raise ConfigError(f"{where}: two cells are the same: {seen[cell.key].name} and {cell.name}")
        seen[cell.key] = cell
    return Sweep(study, tuple(grid), tuple(seen.values()))


def _cell(settings: type[Settings], given: Sequence[tuple[_Named, Any]], axes: Sequence[str], where: str) -> Cell:
    whole = {own.name: value for own, value in given if own.option is None}
    inner = {own.option: value for own, value in given if own.option is not None}
    differs = {own.name: value for own, value in given if own.name in axes}
    told = ", ".join(f"{axis}={text_of(value)}" for axis, value in differs.items())
    try:
        values = laid_over(settings, whole, inner)
        config: Any = settings.parse(values, where=f"{where}, cell {told}" if told else where)
        # dtype and device decide last digits: they are part of the key, which they are not of a run's identity.
        place = {name: getattr(config, name) for name in ("dtype", "device")}
        key = content_hash(settings.command, json_text(config.identity()), json_text(place))[:12]
    except ValueError as error:  # a number that JSON does not have
        raise ConfigError(f"{where}, cell {told}: {error}") from error
    return Cell(key, differs, values)


def settings_of(study: str) -> type[Settings]:
    """The settings class of a study, by its command."""
    module, _, name = SETTINGS[study].partition(":")
    return getattr(import_module(module), name)


def _known_names(settings: type[Settings]) -> dict[str, Option]:
    """Options for fields of groups, by their own name and as ``group.field``."""
    inner = [option for option in options_of(settings) if len(option.path) > 1]
    own = {option.names[0].removeprefix("--").replace("-", "_"): option for option in inner}
    return own | {".".join(option.path): option for option in inner}


def _named(settings: type[Settings], known: Mapping[str, Option], name: str, where: str) -> _Named:
    if name in settings.model_fields:
        return _Named(name, (name,), None)
    option = known.get(name) or known.get(name.replace("-", "_"))
    if option is None:
        raise ConfigError(f"{where}: unknown setting {shown(name)}{nearest(name, [*settings.model_fields, *known])}")
    return _Named(name, option.path, option)


def _refuse_twice(shared: Sequence[tuple[_Named, Any]], axes: Sequence[_Named], where: str) -> None:
    """Refuse a setting that is given in two ways: twice, or by itself and within its group."""
    given: dict[tuple[str, ...], str] = {}
    for own, value in [*shared, *((axis, None) for axis in axes)]:
        inside = [(own.name, str(field)) for field in value] if own.option is None and isinstance(value, dict) else []
        for path in [own.path, *inside]:
            if path in given:
                raise ConfigError(f"{where}: {given[path]} and {own.name} give the same setting; keep one")
            given[path] = own.name
    for whole in axes:
        inner = next((own for own in axes if len(own.path) > 1 and own.path[:1] == whole.path), None)
        if inner is not None:
            raise ConfigError(f"{where}: {whole.name} and {inner.name} give the same setting; keep one")


def _mapping(values: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    own = values.get(key)
    if own is None:
        return {}
    if not isinstance(own, dict):
        raise ConfigError(f"{where}: {key}: give a mapping of settings, found {shown(own)}")
    return own


def text_of(value: Any) -> str:
    """A value of an axis, in a line."""
    if isinstance(value, list):
        return "+".join(map(text_of, value))
    return "none" if value is None else str(value)
