"""How values show themselves: in one line, and as a table in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from html import escape
from importlib import import_module
from typing import Any

_MOST = 160


def one_line(value: Any) -> str:
    """``Name(field=…)`` with what differs from the defaults of a dataclass, arrays as shapes, long texts cut."""
    told = {f.name: getattr(value, f.name) for f in fields(value) if not _is_default(f, getattr(value, f.name))}
    shown = ", ".join(f"{name}={_short(own)}" for name, own in told.items())
    return cut(f"{type(value).__name__}({shown})")


def _is_default(field: Any, own: Any) -> bool:
    if field.default_factory is not MISSING:
        return isinstance(own, Mapping) and not own
    return own is field.default


def cut(text: str) -> str:
    """The first 160 characters."""
    text = " ".join(text.split())
    return text if len(text) <= _MOST else f"{text[: _MOST - 1]}…"


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape is not None:
        return f"<{' x '.join(map(str, shape))}>"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_short(own)}" for key, own in value.items()) + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(map(_short, value)) + ("," if len(value) == 1 else "") + ")"
    return str(value) if is_dataclass(value) and "__str__" in vars(type(value)) else repr(value)


def table_html(
    title: str, header: Sequence[object], rows: Iterable[Sequence[object]], notes: Iterable[str] = ()
) -> str:
    """A table for a notebook; every text is escaped."""
    lines = [f"<table><caption>{escape(title)}</caption>"]
    for tag, row in [("th", header), *(("td", row) for row in rows)]:
        lines.append("<tr>" + "".join(f"<{tag}>{escape(str(cell))}</{tag}>" for cell in row) + "</tr>")
    return "\n".join([*lines, "</table>", *(f"<p>{escape(note)}</p>" for note in notes)])


def figure_named(module: str, name: str) -> Callable[..., Any]:
    """The function of :mod:`leakmech.reports.figures` that draws what a value of a lower room holds.

    It is found by its name when it is asked for: figures know no other room, and no room below needs them.
    """
    return getattr(import_module(f"leakmech.reports.figures.{module}"), name)
