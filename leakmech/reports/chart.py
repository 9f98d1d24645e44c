"""Points with intervals, drawn in the page itself: on a fixed axis from 0 to 1, so that reports compare by eye, and
differences on an axis about 0 as wide as they need.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from leakmech.reports.cells import typeset
from leakmech.reports.page import Section

_LEAST_APART = 12.0  # percent of the axis between two of its texts
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
    """A value with its interval; None if there is none. `text` says the same in numbers, `link` is its page.

    `band` is what is held against it, as the range of random sets, `mark` the value where it was measured. What is not
    `is_shown` is hollow.
    """

    label: str
    text: str
    value: float
    interval: Sequence[float] | None
    link: str = ""
    is_shown: bool = False
    band: tuple[float, float] | None = None
    mark: float | None = None


@dataclass(frozen=True)
class Forest(Section):
    """Rows of values on an axis, each with its label and its numbers beside it, or above it on a phone.

    Places are in percent of the axis. It is about 0 and ends at the same distance on both sides; one that is not
    `is_centred` begins at 0, or at a tick below if values are, and has a dashed line at 0.
    """

    kind = "forest"
    rows: Sequence[ForestRow]
    caption: str
    margin: float | None = None
    is_centred: bool = True

    @property
    def end(self) -> float:
        """Where the axis ends: the first round number that holds all values."""
        return _round_up(max((abs(value) if self.is_centred else value for value in self._values()), default=0.0))

    @property
    def begin(self) -> float:
        """Where the axis begins."""
        lowest = min(self._values(), default=0.0)
        return -self.end if self.is_centred else -_round_up(-lowest) if lowest < 0 else 0.0

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and texts of the ends of the axis, and of 0."""
        zero = self.place(0.0)
        ends = [value for value in (self.begin, self.end) if value and abs(self.place(value) - zero) > _LEAST_APART]
        return sorted([(zero, "0"), *((self.place(value), typeset(f"{value:+.6g}")) for value in ends)])

    def span(self, ends: Sequence[float]) -> tuple[float, float]:
        """Beginning and width of a band."""
        low, high = (self.place(value) for value in ends)
        return low, round(high - low, 3)

    @property
    def band(self) -> tuple[float, float] | None:
        """Beginning and width of the margin of equivalence."""
        return None if self.margin is None else self.span((-self.margin, self.margin))

    def place(self, value: float) -> float:
        """Where a value is."""
        return round(100 * (value - self.begin) / (self.end - self.begin), 3)

    def _values(self) -> list[float]:
        rows = [value for row in self.rows for value in _places(row)]
        return [*rows, self.margin or 0.0]


def _places(row: ForestRow) -> list[float]:
    """All values that a row shows."""
    return [row.value, *(row.interval or ()), *(row.band or ()), *(() if row.mark is None else (row.mark,))]


def _round_up(most: float) -> float:
    """The first round number that is not below `most`."""
    most = max(most, 1e-6)
    power = 10.0 ** math.floor(math.log10(most))
    return next(own * power for own in (1, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10) if own * power >= most * (1 - 1e-9))
