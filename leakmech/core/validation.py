"""Values that users write, checked by pydantic; the first thing that is wrong becomes one line in our words.

A row of a file or a group of settings is a pydantic model or a frozen dataclass whose annotations say what its fields
hold. :func:`checked` makes one of a mapping. A class that refuses unknown names says so (:data:`CLOSED`).
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from dataclasses import field, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic_core import ErrorDetails

from leakmech.core.errors import DatasetError, LeakmechError, nearest

CLOSED = ConfigDict(extra="forbid")
"""For ``model_config`` of a model or ``__pydantic_config__`` of a dataclass: unknown names are refused."""
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
"""A text that is not empty, without the white space around it."""


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit, and not only punctuation, emojis and white space."""
    return any(map(str.isalnum, text))


_MOST_DIGITS = 18
_LONGEST = 300


class _Brief(reprlib.Repr):
    """Python's notation of a value, cut where it grows long."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 12, 12, 12
        self.maxstring, self.maxlong, self.maxother = 200, 60, 200


def shown(value: Any) -> str:
    """`value` for a message, in bounded space and time whatever it holds."""
    try:
        text = _Brief().repr(value)
    except ValueError:  # an integer of more digits than Python writes
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def whole_number(text: str) -> int | None:
    """The whole number from 0 that `text` is; None if it is none, or has more digits than anything that is counted.

    Python itself reads no number of more than 4,300 digits.
    """
    return int(text) if text.isdecimal() and len(text) <= _MOST_DIGITS else None


def _with_words(text: str) -> str:
    if not has_words(text):
        raise ValueError(f"must have words, found {shown(text)}")
    return text


Words = Annotated[Text, AfterValidator(_with_words)]
"""A :data:`Text` with a letter or a digit in it."""

Noun = Literal["field", "key"]
T = TypeVar("T")


def whole(least: int = 0, most: int | None = None) -> BeforeValidator:
    """For ``Annotated``: a whole number in a range; true and false are refused."""

    def check(value: Any) -> int:
        if type(value) is not int or value < least or (most is not None and value > most):
            limit = "" if most is None else f" to {most}"
            raise ValueError(f"must be a whole number from {least}{limit}, found {shown(value)}")
        return value

    return BeforeValidator(check)


def described(default: T, description: str) -> T:
    """A field of a dataclass with a default and a description, which becomes the help of an option."""
    made: Any = field(default=default, metadata={"description": description})
    return made


def checked(
    kind: type[T],
    values: Mapping[str, Any],
    *,
    where: str,
    error: type[LeakmechError] = DatasetError,
    noun: Noun = "field",
) -> T:
    """A `kind` with these values, or an `error` that says which field is wrong, where, and what is allowed."""
    try:
        return _adapter(kind).validate_python(values)
    except ValidationError as problem:
        raise error(f"{where}: {_first(problem, kind, noun)}") from problem


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _first(problem: ValidationError, kind: Any, noun: Noun) -> str:
    """The first problem: unknown names before missing ones (a typo is both), then in the order of the fields."""
    order = {"extra_forbidden": 0, "unexpected_keyword_argument": 0, "missing": 1}
    found = min(problem.errors(), key=lambda detail: order.get(detail["type"], 2))
    path, known = _place(kind, found["loc"])
    if found["type"] not in order:
        return _wrong(found, ".".join(path), noun)
    own = ".".join(path if path and path[-1] == found["loc"][-1] else [*path, str(found["loc"][-1])])
    if found["type"] == "missing":
        return f"{_named(own, noun)} is missing"
    last = str(found["loc"][-1])
    groups = [name for name, inside in _hints(kind).items() if last in _hints(inside)] if own == last else []
    hint = f"; it is a {noun} of {groups[0]!r} ({groups[0]}.{last})" if len(groups) == 1 else nearest(last, known)
    return f"unknown {noun} {shown(own)}{hint}"


def _wrong(found: ErrorDetails, name: str, noun: Noun) -> str:
    if found["type"] == "value_error":
        return f"{_named(name, noun)} {found.get('ctx', {})['error']}"  # our own words, which begin with a verb
    if found["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", str(found.get("ctx", {})["expected"]))
        given = shown(found["input"])
        return f"{_named(name, noun)}: unknown {given}{nearest(given, valid)}"
    rule = found["msg"].replace("Input should", "must", 1)
    if found["type"] in ("string_type", "string_too_short"):
        rule = f"must be a {'non-empty ' * (noun == 'field')}text"
    return f"{_named(name, noun)}{' ' if rule.startswith('must ') else ': '}{rule}, found {shown(found['input'])}"


def _named(name: str, noun: Noun) -> str:
    return f"field {name!r}" if noun == "field" else name


def _place(kind: Any, location: tuple[int | str, ...]) -> tuple[list[str], list[str]]:
    """The names that lead to a value, and the names of the group that holds it; places in lists are left out."""
    path: list[str] = []
    known = here = _hints(kind)
    annotation = kind
    for part in location:
        if part in here:
            path.append(str(part))
            known, annotation = here, here[str(part)]
            here = _hints(annotation)
            known = here or known
        elif isinstance(part, str) and get_origin(annotation) in (dict, Mapping):
            path.append(part)
    return path, list(known)


def _hints(kind: Any) -> dict[str, Any]:
    """Names and annotations of the fields of a model or dataclass, or of the one inside an annotation."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        return {field.name: hints[field.name] for field in fields(kind)}
    return next((found for part in get_args(kind) if (found := _hints(part))), {})
