"""Settings as options of a command: their names, help and defaults come from the fields of a settings class.

    setting                    option
    number, text, choice       --name VALUE
    yes or no                  --name/--no-name
    several values             --name A,B or, if they may be paths, --name A --name B
    numbers by name            --name KEY=NUMBER, repeated
    group of settings          an option for each of its fields; --group/--no-group, or --group PRESET

:class:`leakmech.runs.settings.Spelling` says when an option is called otherwise. The command line shows options and
reads them (:meth:`Option.read`), a report writes them (:meth:`Option.words`), and :func:`gathered` is the one place
where they are laid over a file and over what a run stored.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from leakmech.core.errors import ConfigError, nearest
from leakmech.core.validation import shown
from leakmech.core.yaml_files import read_yaml
from leakmech.runs.settings import Settings, Spelling

Kind = Literal["switch", "value", "several", "either", "repeated", "pairs"]
_REQUIRED = PydanticUndefined


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    path: tuple[str, ...]
    """The setting: its name, or those of a group and of a field in it."""
    names: tuple[str, ...]
    """``("--name",)``, or both names of a switch."""
    kind: Kind
    """How values are written."""
    shown: str
    """What stands for a value in ``--help``."""
    help: str
    default: Any = field(compare=False)
    heading: str = field(compare=False)
    role: Literal["field", "group", "preset"] = "field"
    """``group`` of a switch that turns a group on or off, ``preset`` of an option that names one."""
    nullable: bool = False
    """Is ``none`` no value, rather than a value of that name?"""

    @property
    def parameter(self) -> str:
        """The name as an identifier."""
        return "__".join(self.path)

    @property
    def required(self) -> bool:
        """Must the setting be given?"""
        return self.default is _REQUIRED and len(self.path) == 1

    @property
    def default_text(self) -> str:
        """The default as it is written; empty if there is none."""
        if self.default in (None, _REQUIRED) or self.role == "group":
            return ""
        if self.kind == "switch":
            return self._switched(self.default).removeprefix("--")
        if self.kind == "pairs":
            return ", ".join(f"{key}={value}" for key, value in self.default.items())
        return ",".join(map(str, self.default)) if isinstance(self.default, list) else str(self.default)

    def read(self, given: Any) -> Any:
        """The setting from what was given: a text, a list of texts, or true or false."""
        if self.role == "group":
            return {} if given else None
        if self.kind == "several" or (self.kind == "either" and "," in given):
            return [part.strip() for part in given.split(",") if part.strip()]
        if self.kind == "pairs":
            return dict(map(self._pair, given))
        return None if given == "none" and self.nullable else given

    def words(self, value: Any) -> list[str]:
        """The option as it is written for `value`; :meth:`read` understands it."""
        if self.kind == "switch":
            return [self._switched(value is not None if self.role == "group" else value)]
        if self.kind == "pairs":
            return [word for key, number in value.items() for word in (self.names[0], f"{key}={number}")]
        if self.kind == "repeated":
            return [word for one in value for word in (self.names[0], str(one))]
        if isinstance(value, list):  # a comma at the end says that one value is a list
            return [self.names[0], ",".join(map(str, value)) + "," * (self.kind == "either" and len(value) == 1)]
        return [self.names[0], "none" if value is None else str(value)]

    def _switched(self, on: bool) -> str:
        return self.names[0] if on else self.names[1]

    def _pair(self, text: str) -> tuple[str, str]:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{self.names[0]}: expected NAME=NUMBER, found {text!r}")
        return key.strip(), value.strip()


# -- from fields to options ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """A field of a settings class, a group or a dataclass, in one form."""

    name: str
    annotation: Any
    description: str
    default: Any
    spelling: Spelling


def options_of(settings: type[Settings]) -> list[Option]:
    """All options of a command, those of its own settings first."""
    found = [option for one in _fields(settings) for option in _options(one, _heading(settings, one.name))]
    return sorted(found, key=lambda option: option.heading != settings.title)


def _heading(settings: type[Settings], name: str) -> str:
    """The title of the class that first has the field."""
    owners = [one for one in settings.__mro__ if name in inspect.get_annotations(one)]
    owner: Any = owners[-1]
    return owner.title


def _fields(kind: Any, instance: Any = None) -> Iterator[_Field]:
    """The fields of a model or a dataclass, with the values of `instance` as defaults if there is one."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, info in kind.model_fields.items():
            default = getattr(instance, name) if instance is not None else info.get_default(call_default_factory=True)
            spelling = next((one for one in info.metadata if isinstance(one, Spelling)), Spelling())
            yield _Field(name, info.annotation, info.description or "", default, spelling)
        return
    hints = get_type_hints(kind)
    for one in fields(kind):
        default = one.default if instance is None else getattr(instance, one.name)
        yield _Field(one.name, hints[one.name], one.metadata["description"], default, Spelling())


def _options(one: _Field, heading: str) -> Iterator[Option]:
    """One option, or those of a group."""
    group = next((kind for kind in _alternatives(one.annotation) if _is_group(kind)), None)
    if group is None:
        yield _option(one, (one.name,), "", heading)
        return
    dashed = _dashed(one.name)
    if one.spelling.preset:
        yield Option(
            (one.name,), (f"--{dashed}",), "value", "NAME", one.description, None, heading, "preset", nullable=True
        )
    elif one.default is None:
        names = (f"--{dashed}", f"--no-{dashed}")
        yield Option((one.name,), names, "switch", "", one.description, None, heading, "group")
    prefix = f"{dashed}-" if one.spelling.prefix is None else one.spelling.prefix
    for inner in _fields(group, one.default):
        yield _option(inner, (one.name, inner.name), prefix, heading)


def _option(one: _Field, path: tuple[str, ...], prefix: str, heading: str) -> Option:
    names = tuple(one.spelling.names.split("/")) if one.spelling.names else (f"--{prefix}{_dashed(one.name)}",)
    kind, shown = _written(one)
    if kind == "switch" and len(names) == 1:
        names = (names[0], f"--no-{names[0].removeprefix('--')}")
    nullable = one.default is not None and type(None) in get_args(one.annotation)
    return Option(path, names, kind, shown, one.description, _plain(one.default), heading, nullable=nullable)


def _written(one: _Field) -> tuple[Kind, str]:
    """How values of a field are written, and what stands for one in ``--help``."""
    kinds = _alternatives(one.annotation)
    several = next((kind for kind in kinds if get_origin(kind) is tuple), None)
    if several is not None:
        shown = _shown(get_args(several)[0])
        if one.spelling.repeated:
            return "repeated", shown
        return "either" if str in kinds else "several", f"{shown},…"
    if any(get_origin(kind) is dict for kind in kinds):
        return "pairs", "NAME=NUMBER"
    if bool in kinds:
        return "switch", ""
    words = any(get_origin(kind) is Literal for kind in kinds)
    return "value", "|".join(map(_shown, kinds)) if words else _shown(kinds[-1])


def _shown(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "|".join(map(str, get_args(kind)))
    return {int: "N", float: "NUMBER"}.get(kind, "TEXT")


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union other than None, or the annotation itself."""
    if get_origin(annotation) is Annotated:
        return _alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [kind for part in get_args(annotation) if part is not type(None) for kind in _alternatives(part)]
    return [annotation]


def _is_group(kind: Any) -> bool:
    return isinstance(kind, type) and (issubclass(kind, BaseModel) or is_dataclass(kind))


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _plain(value: Any) -> Any:
    """A default as JSON has it."""
    return list(value) if isinstance(value, tuple) else value


# -- laying options over settings ------------------------------------------------------------------------------------


def gathered(
    settings: type[Settings], options: Mapping[Option, Any], *, out: Path | None = None, file: Path | None = None
) -> dict[str, Any]:
    """What a command is to do: what the run in `out` stored, over it the file, over it the options.

    Repeated options add to what a run may take in more of (``Settings.grows``). ConfigError says which key or option is
    wrong.
    """
    values = settings.stored(out) if out else {}
    if file is not None:
        values |= _known(settings, read_yaml(file), file)
    return laid_over(settings, values, options)


def laid_over(settings: type[Settings], values: Mapping[str, Any], options: Mapping[Option, Any]) -> dict[str, Any]:
    """Options over settings; an option for one field of a group leaves the group's other fields as they are."""
    values = dict(values)
    for option, value in sorted(options.items(), key=lambda item: len(item[0].path)):
        name, *inner = option.path
        if inner:
            group = values[name] if name in values else _default(settings, name)
            if group is None and _lacks_preset(settings, option, options):
                raise ConfigError(f"{option.names[0]}: of which rule? Name one with --{_dashed(name)}")
            values[name] = _begun(group) | {inner[0]: value}
        elif option.kind == "repeated" and name in (settings.grows or ()):
            values[name] = list(dict.fromkeys([*values.get(name, ()), *value]))
        else:
            values[name] = value
    return values


def _known(settings: type[Settings], values: dict[str, Any], file: Path) -> dict[str, Any]:
    for key in values:
        if key not in settings.model_fields:
            raise ConfigError(f"{file}: unknown key {shown(key)}{nearest(key, settings.model_fields)}")
    return values


def _default(settings: type[Settings], name: str) -> Any:
    return settings.model_fields[name].get_default(call_default_factory=True)


def _lacks_preset(settings: type[Settings], option: Option, options: Mapping[Option, Any]) -> bool:
    """Is a field set of a group that has presets, when neither one is named nor its first field?"""
    of_group = [one for one in options_of(settings) if one.path[0] == option.path[0]]
    return of_group[0].role == "preset" and of_group[1] not in options


def _begun(group: Any) -> dict[str, Any]:
    """The other fields of a group, one of which is set by an option."""
    if isinstance(group, str):
        return {"preset": group}
    if isinstance(group, BaseModel):
        return group.model_dump(mode="json")
    return dict(group or {}) if isinstance(group, Mapping | None) else asdict(group)
