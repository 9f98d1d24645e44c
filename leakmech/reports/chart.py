"""Points with intervals on a fixed axis from 0 to 1, drawn in the page itself, so that reports compare by eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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
