"""Configurations: validated values, read from YAML or given as keywords, with errors a reader can act on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from leakmech.core.errors import ConfigError, nearest
from leakmech.generation.sampler import Decoding

DEFAULT_MODEL = "embedded:smollm2-135m-instruct"


class Settings(BaseModel):
    """Settings of a command that makes a run.

    The fields in `place` say where and how fast a run computes; they may differ when a run is continued.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    command: ClassVar[str]
    kind: ClassVar[str] = "bench"
    place: ClassVar[Collection[str]] = ("device", "dtype", "batch_size", "trust_remote_code")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, where: str = "configuration") -> Self:
        """Validate `values`.

        Raises
        ------
        ConfigError
            A key is unknown (the nearest valid one is named) or a value is out of range.
        """
        _refuse_unknown(values, cls.model_fields, where)
        for name, known in cls._groups().items():
            if isinstance(values.get(name), Mapping):
                _refuse_unknown(values[name], known, where, prefix=f"{name}.")
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{where}: {field}: {first['msg']}, found {first['input']!r}") from error

    def identity(self) -> dict[str, Any]:
        """The settings that decide results, JSON-ready."""
        return self.model_dump(mode="json", exclude=set(self.place))

    @classmethod
    def _groups(cls) -> dict[str, Collection[str]]:
        """Settings that are groups of settings, and the names of these."""
        found: dict[str, Collection[str]] = {}
        for name, field in cls.model_fields.items():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    found[name] = kind.model_fields
                elif kind is Decoding:
                    found[name] = Decoding.__dataclass_fields__
        return found


def _refuse_unknown(values: Mapping[str, Any], known: Collection[str], where: str, *, prefix: str = "") -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: unknown key {prefix + str(key)!r}{nearest(str(key), known)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises
    ------
    ConfigError
        It is missing, no valid YAML, or no mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, found {type(values).__name__}")
    return values
