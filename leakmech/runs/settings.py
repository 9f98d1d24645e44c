"""Configurations: validated values, read from YAML or given as keywords, with errors a reader can act on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict

from leakmech.core.errors import ConfigError
from leakmech.core.validation import checked

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
        return checked(cls, dict(values), where=where, error=ConfigError, noun="key")

    def identity(self) -> dict[str, Any]:
        """The settings that decide results, JSON-ready."""
        return self.model_dump(mode="json", exclude=set(self.place))


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
