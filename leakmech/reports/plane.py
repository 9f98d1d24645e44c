"""Points and curves in a plane, drawn in the page itself: it follows light and dark, and needs no image.

Places are computed here, in units of the drawing; the template only writes them down. Named points carry a number, by
which the list under the drawing names them, so that names never hide points, on a phone neither. Points without a name
are one path, so that thousands of them take a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from leakmech.reports.cells import typeset
from leakmech.reports.page import Section

_WIDTH, _HEIGHT = 640, 410
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 624, 40, 352
_STEPS = (1, 2, 2.5, 5, 10)
_TICKS = 5
_NOTHING = 1e-9
"""What is smaller counts as 0 on an axis that is not logarithmic."""
_NUMBER_PLACES = ((11, 4), (-11, 4), (0, -10), (0, 18), (13, -8), (-13, -8), (13, 16), (-13, 16))
_NUMBER_SIZE = 13.0
_MOST_KNOTS = 12

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A point; `name` is what it is, empty for one of many. `series` is its colour, `text` its numbers in words."""

    x: float
    y: float
    name: str = ""
    text: str = ""
    series: int = 0
    x_interval: Interval | None = None
    y_interval: Interval | None = None
    is_hollow: bool = False


@dataclass(frozen=True)
class Curve:
    """A line through points; a `is_soft` one is thin and grey, as of a baseline."""

    name: str
    points: Sequence[tuple[float, float]]
    series: int = 0
    is_soft: bool = False


@dataclass(frozen=True)
class Band:
    """An area between two curves, as of what chance reaches: (x, low, high)."""

    name: str
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Scale:
    """An axis: its label, its ends, the place of its ends in the drawing, and lines that are drawn stronger."""

    label: str
    low: float
    high: float
    begin: float = 0.0
    end: float = 1.0
    nulls: Sequence[float] = ()
    is_log: bool = False

    @classmethod
    def over(
        cls,
        label: str,
        values: Iterable[float],
        ends: tuple[float, float],
        *,
        nulls: Sequence[float] = (),
        is_log: bool = False,
    ) -> Scale:
        """The scale that holds all `values` and `nulls`, with ends at ticks."""
        held = [value for value in (*values, *nulls) if math.isfinite(value) and (value > 0 or not is_log)] or [1.0]
        low, high = min(held), max(held)
        if is_log:
            low, high = (low, high) if high > low else (low / 2, 2 * high)
            return cls(label, low, high, *ends, nulls=nulls, is_log=True)
        step = _step(next(size for size in (high - low, abs(high), 1.0) if size > _NOTHING))
        low, high = step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9)
        return cls(label, low, high if high > low else low + step, *ends, nulls=nulls)

    def place(self, value: float) -> float:
        """Where a value is in the drawing; at the end of the axis if it lies beyond."""
        low, high = self.low, self.high
        if self.is_log:
            low, high, value = (math.log(max(part, 1e-12)) for part in (low, high, value))
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return round(self.begin + (self.end - self.begin) * share, 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Place and text of each mark of the axis."""
        return [(self.place(value), typeset(f"{value:.6g}")) for value in self._values()]

    @property
    def lines(self) -> list[float]:
        """Places of the stronger lines."""
        return [self.place(value) for value in self.nulls]

    def _values(self) -> list[float]:
        if self.is_log:
            powers = range(math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9) + 1)
            every = -(-len(powers) // _TICKS)
            return [10.0**power for power in powers][::every] or [self.low, self.high]
        step = _step(self.high - self.low)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(index * step, 12) for index in range(first, last + 1)]


def _step(span: float) -> float:
    """The distance of ticks: 1, 2, 2.5 or 5 times a power of ten, for at most six of them."""
    power = 10.0 ** math.floor(math.log10(span / _TICKS))
    return next(own * power for own in _STEPS if own * power * _TICKS >= span * (1 - 1e-9))


@dataclass(frozen=True)
class Plane(Section):
    """Marks, curves and bands over two axes; `legend` names the series of marks that carry a meaning by colour."""

    kind = "plane"
    x: str
    y: str
    caption: str
    marks: Sequence[Mark] = ()
    curves: Sequence[Curve] = ()
    bands: Sequence[Band] = ()
    legend: Sequence[tuple[str, int]] = ()
    x_nulls: Sequence[float] = ()
    y_nulls: Sequence[float] = ()
    is_log: bool = False
    width: int = field(default=_WIDTH, init=False)
    height: int = field(default=_HEIGHT, init=False)
    left: int = field(default=_LEFT, init=False)
    right: int = field(default=_RIGHT, init=False)
    top: int = field(default=_TOP, init=False)
    bottom: int = field(default=_BOTTOM, init=False)

    @property
    def across(self) -> Scale:
        """The horizontal axis."""
        ends = [end for mark in self.marks for end in mark.x_interval or ()]
        points = [point[0] for own in (*self.curves, *self.bands) for point in own.points]
        values = [*(mark.x for mark in self.marks), *ends, *points]
        return Scale.over(self.x, values, (_LEFT, _RIGHT), nulls=self.x_nulls, is_log=self.is_log)

    @property
    def up(self) -> Scale:
        """The vertical axis."""
        ends = [end for mark in self.marks for end in mark.y_interval or ()]
        points = [value for own in (*self.curves, *self.bands) for point in own.points for value in point[1:]]
        return Scale.over(
            self.y, [*(mark.y for mark in self.marks), *ends, *points], (_BOTTOM, _TOP), nulls=self.y_nulls
        )

    @property
    def named(self) -> list[Mark]:
        """The marks with a name, in the order of their numbers."""
        return [mark for mark in self.marks if mark.name]

    @property
    def description(self) -> str:
        """What is seen, for readers that cannot see it."""
        curves = ", ".join(own.name for own in (*self.curves, *self.bands))
        said = "; ".join(f"{mark.name}: {mark.text}" for mark in self.named[:12])
        return ". ".join(filter(None, (f"{self.y} against {self.x}", curves and f"Curves: {curves}", said)))

    @property
    def dots(self) -> list[tuple[int, str]]:
        """Path of the marks without a name, by series; hollow ones are :attr:`rings`."""
        across, up = self.across, self.up
        paths: dict[int, list[str]] = {}
        for mark in self.marks:
            if not mark.name and not mark.is_hollow:
                paths.setdefault(mark.series, []).append(f"M{across.place(mark.x):g} {up.place(mark.y):g}h0")
        return [(series, "".join(path)) for series, path in sorted(paths.items())]

    @property
    def rings(self) -> list[tuple[float, float, int]]:
        """Place and series of the hollow marks without a name."""
        rings = [mark for mark in self.marks if mark.is_hollow and not mark.name]
        return [(self.across.place(mark.x), self.up.place(mark.y), mark.series) for mark in rings]

    def line(self, curve: Curve) -> str:
        """The path of a curve."""
        return f"M{'L'.join(self._points(curve))}" if curve.points else ""

    def knots(self, curve: Curve) -> str:
        """The path of the points of a curve that has only a few, as one that joins levels or strengths."""
        if curve.is_soft or len(curve.points) > _MOST_KNOTS:
            return ""
        return "".join(f"M{point}h0" for point in self._points(curve))

    def _points(self, curve: Curve) -> list[str]:
        across, up = self.across, self.up
        return [f"{across.place(x):g} {up.place(y):g}" for x, y in curve.points]

    def area(self, band: Band) -> str:
        """The path of a band, there along its upper edge and back along its lower one."""
        across, up = self.across, self.up
        there = [f"{across.place(x):g} {up.place(high):g}" for x, _, high in band.points]
        back = [f"{across.place(x):g} {up.place(low):g}" for x, low, _ in reversed(band.points)]
        return f"M{'L'.join([*there, *back])}z"

    @property
    def placed(self) -> Iterator[tuple[Mark, float, float, float, float]]:
        """The named marks with their place and that of their number, which hides as little as possible."""
        across, up = self.across, self.up
        points = [(across.place(mark.x), up.place(mark.y)) for mark in self.marks]
        numbers: list[tuple[float, float]] = []
        for mark in self.named:
            x, y = across.place(mark.x), up.place(mark.y)
            found = min(
                ((x + right, y + down) for right, down in _NUMBER_PLACES),
                key=lambda place: (_near(place, numbers), _near((place[0], place[1] - 4), points)),
            )
            numbers.append(found)
            yield mark, x, y, *found


def _near(place: tuple[float, float], others: Sequence[tuple[float, float]]) -> int:
    """How many of the others a number at that place would hide."""
    return sum(math.dist(place, other) < _NUMBER_SIZE for other in others)
