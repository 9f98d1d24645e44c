"""How a value stands in a table, on a page or in a figure: one formatter for all of them.

Texts for the terminal and for markdown have the keyboard's minus, which other programs read as a number; pages and
figures print a minus sign in its place (:func:`typeset`). A value that is missing is a dash everywhere.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

DASH = "–"
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])|(?<=\de)-(?=\d)")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite number, and not a truth value."""
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, *, decimals: int = 2, signed: bool = False) -> str:
    """A number with `decimals` decimals; what rounds to 0 has no minus."""
    return DASH if _is_missing(value) else f"{value:{'+' if signed else ''}z.{decimals}f}"


signed = partial(number, signed=True)
"""A difference: a number that always has a sign."""


def alike(values: Iterable[Any], *, digits: int = 3) -> Callable[[Any], str]:
    """A formatter for the numbers of a column: all have the decimals with which the largest has `digits` digits."""
    largest = max((abs(value) for value in values if is_number(value) and value), default=1.0)
    return partial(number, decimals=max(0, digits - 1 - math.floor(math.log10(largest))))


def significant(value: float, *, digits: int = 3, signed: bool = False, zeros: bool = False) -> str:
    """A number of unknown size with `digits` digits; whole numbers are not cut to powers of ten.

    `zeros` keeps the last digits if they are zero, so that the numbers of a column are equally precise.
    """
    style = ",.0f" if 10**digits - 0.5 <= abs(value) < 1e6 else f"{'#' if zeros else ''}.{digits}g"
    return f"{value:{'+' if signed else ''}{style}}".rstrip(".")


def percent(share: Any, *, decimals: int = 1) -> str:
    """A share in percent."""
    return DASH if _is_missing(share) else f"{share:.{decimals}%}".replace("%", " %")


def p_value(p: Any) -> str:
    """A p value with two digits, and with one if it is below 0.001."""
    if _is_missing(p):
        return DASH
    if p >= 1e-3:
        return f"{p:.2g}"
    return f"{p:.0e}".replace("e-0", "e-") if p > 0 else "< 1e-300"


def cell(value: Any) -> str:
    """A value of any kind, numbers with three digits."""
    if _is_missing(value):
        return DASH
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return significant(float(value), zeros=True)
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def with_interval(value: Any, low: Any, high: Any, show: Callable[[Any], str] = number) -> str:
    """A value and, if both its ends are known, its interval."""
    if any(map(_is_missing, (value, low, high))):
        return show(value)
    return f"{show(value)} [{show(low)}, {show(high)}]"


def estimate(values: Mapping[str, Any], name: str, show: Callable[[Any], str] = number) -> str:
    """``values[name]`` with the interval ``<name>_ci``, or ``<name>_low`` and ``<name>_high``, if there is one."""
    low, high = values.get(f"{name}_ci") or (values.get(f"{name}_low"), values.get(f"{name}_high"))
    return with_interval(values.get(name), low, high, show)


def short(name: str) -> str:
    """The last part of a path that is none of a name such as ``owner/model``."""
    path = Path(name)
    return path.name if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) > 2 else name


def size(n_parameters: int | None) -> str:
    """A number of parameters as it is usually written: 135M, 7.6B."""
    if n_parameters is None:
        return DASH
    for unit, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if n_parameters >= 0.9995 * unit:
            return f"{n_parameters / unit:.3g}{letter}"
    return str(n_parameters)


def typeset(text: str) -> str:
    """`text` with a minus sign before its numbers; hyphens inside words stay."""
    return _MINUS.sub("−", text)


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))
