"""Things by name: built-in ones, those that a user adds, and those that installed packages bring.

All are registered in one way, a name can be taken once, and the error for an unknown name says the nearest one. A
package registers under an entry-point group; what it registers is imported on first use.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from leakmech.core.errors import ConfigError, LeakmechError, nearest

Value = TypeVar("Value")


class Registry(Mapping[str, Value]):
    """A mapping of names that can be added to.

    Messages begin with `what` (``estimator``), or with `unknown` and its ``{name}`` for a name that is not there.
    Installed packages register under the entry-point group `group`.
    """

    def __init__(
        self,
        what: str,
        entries: Mapping[str, Value],
        *,
        error: type[LeakmechError] = ConfigError,
        unknown: str | None = None,
        group: str | None = None,
    ) -> None:
        self._what = what
        self._error = error
        self._unknown = unknown or f"{what} {{name}}: no such name"
        self._group = group
        self._own: dict[str, Value] = {}
        for name, value in entries.items():
            self.add(name, value)

    @classmethod
    def named(
        cls, what: str, *values: Any, error: type[LeakmechError] = ConfigError, unknown: str | None = None
    ) -> Registry[Any]:
        """A registry of values under the names that they have (``value.name``)."""
        registry: Registry[Any] = cls(what, {}, error=error, unknown=unknown)
        for value in values:
            registry.add(value.name, value)
        return registry

    def add(self, name: str, value: Value, *, replace: bool = False) -> None:
        """Register `value`; with `replace`, also in place of what was registered under that name."""
        if name in self._own and not replace:
            raise self._error(f"{self._what} {name!r}: the name is taken")
        self._own[name] = value

    def find(self, name: str) -> Value:
        """What is registered under `name`, else an error with the nearest name."""
        if name not in self:
            raise self.missing(name)
        return self[name]

    def missing(self, name: str, *, valid: Iterable[str] | None = None, hint: str = "") -> LeakmechError:
        """The error for a name that is not there; `valid` are the names to choose from, by default all."""
        names = self if valid is None else valid
        return self._error(f"{self._unknown.format(name=repr(name))}{nearest(name, names)}{hint}")

    def place(self, name: str) -> str:
        """A name with its owner, for messages: ``estimator 'acme' of package acme-sentiment``."""
        plugin = self._plugins().get(name)
        return f"{self._what} {name!r}" + (f" of package {_package(plugin)}" if plugin else "")

    def __getitem__(self, name: str) -> Value:
        plugin = self._plugins().get(name)
        if plugin is None:
            return self._own[name]
        try:
            return plugin.load()
        except (ImportError, AttributeError) as problem:
            raise self._error(f"{self.place(name)}: {plugin.value} cannot be imported ({problem})") from problem

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._plugins()

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._plugins()

    def __len__(self) -> int:
        return len(self._own) + len(self._plugins())

    def _plugins(self) -> dict[str, EntryPoint]:
        """What installed packages register, by name; a taken name is an error, even if another name was asked for."""
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self._group) if self._group else ():
            other = "leakmech itself" if entry.name in self._own else None
            if entry.name in found:
                other = _package(found[entry.name])
            if other:
                raise self._error(
                    f"{self._what} {entry.name!r} of package {_package(entry)}: the name is taken by {other}; "
                    "uninstall the package or rename its entry point"
                )
            found[entry.name] = entry
        return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value
