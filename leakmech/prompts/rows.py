"""Lines of the data files that are no samples: what a field must hold, with errors that name file, line and field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

from leakmech.core.errors import DatasetError, nearest
from leakmech.core.rows import user_rows


class _WithId(Protocol):
    @property
    def id(self) -> str: ...


Item = TypeVar("Item", bound=_WithId)


def read_items(path: Path, parse: Callable[[dict[str, Any], str], Item]) -> tuple[Item, ...]:
    """What `parse` makes of every line of a JSONL file; it gets the line's fields and ``file:line`` for its messages.

    Raises
    ------
    DatasetError
        The file cannot be read or is empty, an id occurs twice, or `parse` refuses a line.
    """
    items: list[Item] = []
    seen: dict[str, int] = {}
    for number, row in user_rows(path):
        item = parse(row, f"{path}:{number}")
        if item.id in seen:
            raise DatasetError(f"{path}:{number}: field 'id': {item.id!r} is already used in line {seen[item.id]}")
        seen[item.id] = number
        items.append(item)
    if not items:
        raise DatasetError(f"{path}: is empty")
    return tuple(items)


def check_fields(row: dict[str, Any], fields: Iterable[str], where: str) -> None:
    """Refuse a line that has other fields than `fields`, so that a typo cannot pass silently."""
    expected = tuple(fields)
    for field in row:
        if field not in expected:
            raise DatasetError(f"{where}: unknown field {field!r}{nearest(str(field), expected)}")
    for field in expected:
        if field not in row:
            raise DatasetError(f"{where}: field {field!r} is missing")


def text_field(row: dict[str, Any], field: str, where: str) -> str:
    """The non-empty text in a field."""
    return checked_text(row[field], field, where)


def checked_text(value: object, field: str, where: str) -> str:
    """`value` without the white space around it, if it is a non-empty text."""
    if not isinstance(value, str) or not value.strip():
        raise DatasetError(f"{where}: field {field!r} must be a non-empty text, found {value!r}")
    return value.strip()
