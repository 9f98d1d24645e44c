"""Tables of numbers as coloured cells, and the tokens of a prompt coloured by a number, drawn in the page itself.

Colour is one of two hues, positive and negative, the stronger the larger the value; it is cut to sixteen steps, and all
cells of one step are one path, so that a map of thousands of heads takes a few kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leakmech.reports.page import Section

_GAP, _HEIGHT = 1, 20
_LETTER = 7.2  # mean width of a letter of a row's name
_STEPS = 16
_WIDE, _SHORT = 500, 3
TOKEN_STEPS = 8
"""Steps of a token's colour; the style sheet has a class for each, ``p1`` to ``p8`` and ``n1`` to ``n8``."""


@dataclass(frozen=True)
class Grid(Section):
    """Cells by (row, column), each with a value; `marked` ones carry a text.

    `most` is the value of the full colour (0: the largest one), `cell` the width of a cell in the drawing's units.
    """

    kind = "grid"
    values: Mapping[tuple[int, int], float]
    rows: Sequence[str]
    columns: Sequence[str]
    across: str
    down: str
    caption: str
    said: str
    marked: Mapping[tuple[int, int], str]
    most: float = 0.0
    cell: int = 20

    @property
    def limit(self) -> float:
        """The value that has the full colour: given, or the largest."""
        return self.most or max((abs(value) for value in self.values.values()), default=0.0) or 1.0

    @property
    def left(self) -> int:
        """Where the cells begin, at the right of the rows' names."""
        return math.ceil(12 + _LETTER * max(map(len, self.rows), default=0))

    @property
    def top(self) -> int:
        """Where the cells begin, under what the rows are."""
        return 24

    @property
    def width(self) -> int:
        """Width of the drawing."""
        return max(self.left + self.cell * len(self.columns) + 8, 320)

    @property
    def is_wide(self) -> bool:
        """Whether a phone shows it so much smaller that its texts have to be larger, which only short names allow."""
        return self.width > _WIDE and max(map(len, self.rows), default=0) <= _SHORT

    @property
    def bottom(self) -> int:
        """Where the cells end."""
        return self.top + _HEIGHT * len(self.rows)

    @property
    def description(self) -> str:
        """What is seen, for readers that cannot see it."""
        return f"{self.said}; {self.down} by {self.across}"

    @property
    def paths(self) -> list[tuple[str, float, str]]:
        """Hue, opacity and path of the cells of each step."""
        found: dict[tuple[str, int], list[str]] = {}
        for (row, column), value in self.values.items():
            if not math.isfinite(value):
                continue
            step = min(math.ceil(_STEPS * abs(value) / self.limit), _STEPS)
            hue = "negative" if value < 0 else "positive"
            x, y = self.left + self.cell * column, self.top + _HEIGHT * row
            wide, high = self.cell - _GAP, _HEIGHT - _GAP
            found.setdefault((hue, step), []).append(f"M{x} {y}h{wide}v{high}h-{wide}z")
        return [(hue, round(step / _STEPS, 3), "".join(path)) for (hue, step), path in sorted(found.items())]

    @property
    def row_labels(self) -> list[tuple[float, str]]:
        """Height and name of each row."""
        return [(self.top + _HEIGHT * (place + 0.5) + 4, name) for place, name in enumerate(self.rows)]

    @property
    def column_labels(self) -> list[tuple[float, str]]:
        """Place and name of columns, of as many as there is room for."""
        longest = max(map(len, self.columns), default=1)
        every = max(1, math.ceil((longest * _LETTER + 8) / self.cell))
        middles = [(self.left + self.cell * (place + 0.5) - 0.5, name) for place, name in enumerate(self.columns)]
        return middles[::every]

    @property
    def marks(self) -> list[tuple[float, float, str, bool]]:
        """Place and text of marked cells, and whether their colour is a strong one."""
        return [
            (
                self.left + self.cell * (column + 0.5) - 0.5,
                self.top + _HEIGHT * (row + 0.5) + 3.5,
                text,
                abs(self.values[row, column]) > 0.5 * self.limit,
            )
            for (row, column), text in self.marked.items()
        ]


@dataclass(frozen=True)
class Token:
    """A token as it can be read, the number that colours it, and the part of the prompt that it belongs to."""

    text: str
    value: float
    part: str


@dataclass(frozen=True)
class Tokens(Section):
    """Prompts with their tokens coloured from `-limit` to `limit`; a colour is a step of the style sheet."""

    kind = "tokens"
    prompts: Sequence[tuple[str, Sequence[Token]]]
    limit: float
    caption: str

    def style(self, token: Token) -> str:
        """The class of a token's colour; empty where it is next to none."""
        step = min(round(TOKEN_STEPS * abs(token.value) / (self.limit or 1.0)), TOKEN_STEPS)
        return f"{'n' if token.value < 0 else 'p'}{step}" if step else ""
