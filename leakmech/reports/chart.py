"""Points with intervals, drawn in the page itself: on a fixed axis from 0 to 1, so that reports compare by eye, and
differences on an axis about 0 as wide as they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from leakmech.reports.cells import typeset
from leakmech.reports.page import Section

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW_HEIGHT = 548, 124, 400, 22, 30


@dataclass(frozen=True)
class ChartRow:
    """A value in [0, 1] with its interval; None if there is none. `text` says the same in numbers."""

    label: str
    text: str
    value: float | None
    interval: Sequence[float] | None
    is_total: bool = False
    is_baseline: bool = False

    @property
    def x(self) -> float | None:
        """Place of the value, in the drawing's units."""
        return None if self.value is None else _x(self.value)

    @property
    def low(self) -> float | None:
        """Place of the interval's lower end."""
        return None if self.interval is None else _x(self.interval[0])

    @property
    def high(self) -> float | None:
        """Place of the interval's upper end."""
        return None if self.interval is None else _x(self.interval[1])


@dataclass(frozen=True)
class Tick:
    """A mark of the axis."""

    x: float
    label: str
    is_null: bool


@dataclass(frozen=True)
class IntervalChart(Section):
    """Rows of points with intervals on an axis called `quantity`, and a line at `null`, where there is no effect."""

    kind = "chart"
    rows: Sequence[ChartRow]
    quantity: str
    caption: str
    null_label: str
    null: float = 0.5
    width: int = field(default=_WIDTH, init=False)
    left: int = field(default=_LEFT, init=False)
    right: int = field(default=_RIGHT, init=False)
    top: int = field(default=_TOP, init=False)

    @property
    def description(self) -> str:
        """What is seen, for readers that cannot see it."""
        rows = "; ".join(f"{row.label}: {row.text}" for row in self.rows)
        return f"{self.quantity}, with 95 % intervals; {self.null_label}: {self.null:g}. {rows}"

    @property
    def ticks(self) -> list[Tick]:
        """Marks of the axis."""
        return [Tick(_x(value), f"{value:g}", value == self.null) for value in (0, 0.25, 0.5, 0.75, 1)]

    @property
    def ys(self) -> list[float]:
        """Places of the rows."""
        return [_TOP + _ROW_HEIGHT * (index + 0.5) for index in range(len(self.rows))]

    @property
    def bottom(self) -> int:
        """Place of the axis."""
        return _TOP + _ROW_HEIGHT * len(self.rows)

    @property
    def null_x(self) -> float:
        """Place of the line at no effect."""
        return _x(self.null)


def _x(value: float) -> float:
    return round(_LEFT + (_RIGHT - _LEFT) * value, 2)


@dataclass(frozen=True)
class ForestRow:
    """A difference with its interval; None if there is none. `text` says the same in numbers, `link` is its page."""

    label: str
    text: str
    value: float
    interval: Sequence[float] | None
    link: str = ""
    is_shown: bool = False


@dataclass(frozen=True)
class Forest(Section):
    """Rows of differences on an axis about 0, each with its label and its numbers beside it, or above it on a phone.

    Places are in percent of the axis, which ends at the same distance on both sides.
    """

    kind = "forest"
    rows: Sequence[ForestRow]
    caption: str
    margin: float | None = None

    @property
    def end(self) -> float:
        """Where the axis ends: the first of 1, 2, 2.5 or 5 times a power of ten that holds all intervals."""
        reached = [abs(value) for row in self.rows for value in (row.value, *(row.interval or ()))]
        most = max([*reached, self.margin or 0.0, 1e-6])
        power = 10.0 ** math.floor(math.log10(most))
        return next(own * power for own in (1, 2, 2.5, 5, 10) if own * power >= most * (1 - 1e-9))

    @property
    def ticks(self) -> list[str]:
        """What is written at the ends and in the middle of the axis."""
        return [typeset(f"-{self.end:.6g}"), "0", f"+{self.end:.6g}"]

    @property
    def band(self) -> tuple[float, float] | None:
        """Beginning and width of the margin of equivalence."""
        if self.margin is None:
            return None
        return self.place(-self.margin), round(2 * self.margin / (2 * self.end) * 100, 3)

    def place(self, value: float) -> float:
        """Where a value is."""
        return round(50 + 50 * value / self.end, 3)
