"""How to repeat a run: the command line with what identifies it and every option that differs from its default."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leakmech.runs.options import Option, options_of
from leakmech.runs.settings import Settings

_ALWAYS_SAID = ("model", "dataset", "generations", "seed")
_NOT_STORED = object()


def reproduction(
    settings: type[Settings], config: Mapping[str, Any], *, arguments: Sequence[str] = (), place: Mapping[str, Any]
) -> str:
    """The command that makes a run once more, from the settings that it stored.

    `arguments` stand before the options; `place` says where it ran, as far as that decides its numbers (``dtype``).
    """
    words = [word for option, value in _said(options_of(settings), {**config, **place}) for word in option.words(value)]
    return shlex.join(["leakmech", *settings.command.split(), *arguments, *words])


def _said(options: Sequence[Option], config: Mapping[str, Any]) -> Iterator[tuple[Option, Any]]:
    """Options and their values: what identifies a run first, then what is not as by default."""
    first = [option for name in _ALWAYS_SAID for option in options if option.path == (name,)]
    for option in [*first, *(option for option in options if option not in first)]:
        value = _stored(option, config)
        if value is not _NOT_STORED and (option in first or _is_said(option, value, options, config)):
            yield option, value


def _stored(option: Option, config: Mapping[str, Any]) -> Any:
    """The value of an option in stored settings; a run that is older than a setting had its default."""
    name, *inner = option.path
    value = config.get(name, _NOT_STORED)
    if not inner or value is _NOT_STORED:
        return value
    return _NOT_STORED if value is None else value.get(inner[0], _NOT_STORED)


def _is_said(option: Option, value: Any, options: Sequence[Option], config: Mapping[str, Any]) -> bool:
    if option.role == "preset":
        return False  # what it stood for is stored, so that its fields are said
    if option.role == "group":
        return value is not None and not any(_differs(inner, config) for inner in options if _is_in(inner, option))
    has_preset = any(one.role == "preset" and _is_in(option, one) for one in options)
    return has_preset or _differs(option, config)


def _differs(option: Option, config: Mapping[str, Any]) -> bool:
    value = _stored(option, config)
    return value is not _NOT_STORED and value != option.default


def _is_in(option: Option, group: Option) -> bool:
    return len(option.path) > 1 and option.path[0] == group.path[0]
