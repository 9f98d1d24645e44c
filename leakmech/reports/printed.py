"""Tables where space is short: on a terminal and in a paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from leakmech.core.terminal import literal

_LONGEST_NUMBER = 30
"""A cell with spaces that is longer holds a sentence, and may be folded."""
_LEAST_TEXT = 16
"""Columns that a folded sentence has at least."""
_FEWEST, _WHOLE = 2, 100_000
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "<": "$<$", ">": "$>$", "\n": " ",
}  # fmt: skip


@dataclass(frozen=True)
class FittedTable:
    """The first columns of a table that fit into the width at which it is printed; the others are named under it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        count, whole = len(self.header), options.update(max_width=_WHOLE)  # else it is measured as it is squeezed
        while count > _FEWEST and Measurement.get(console, whole, self._first(count)).minimum > options.max_width:
            count -= 1
        yield self._first(count)
        if left_out := self.header[count:]:
            names = ", ".join(name.partition(" [")[0] for name in left_out)
            yield literal_text(f"left out, for want of width: {names}", style="table.caption")

    def _first(self, count: int) -> RichTable:
        """The table of the first columns; the width of a number is kept, headings fold at their spaces."""
        table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        for place, name in enumerate(self.header[:count]):
            cells = [row[place] for row in self.rows]
            longest = max(map(len, cells), default=0)
            text = longest > _LONGEST_NUMBER and any(" " in one for one in cells)
            least = _LEAST_TEXT if text else max(longest, *map(len, name.split() or [""]))
            table.add_column(
                literal_text(name), justify="left" if place == 0 or text else "right", overflow="fold", min_width=least
            )
        for row in self.rows:
            table.add_row(*map(literal_text, row[:count]))
        return table


def literal_text(text: str, style: str = "") -> Text:
    """Text in which square brackets are not markup, and nothing steers the terminal."""
    return Text(literal(text), style=style, no_wrap=False, overflow="fold")


def latex(title: str, header: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> str:
    """A floating table; it needs the package booktabs."""
    lines = [" & ".join(map(escaped, row)) + r" \\" for row in (header, *rows)]
    below = [rf"\par\smallskip\footnotesize {escaped(note)}" for note in notes]
    return "\n".join(
        [
            r"\begin{table}", r"\centering", rf"\caption{{{escaped(title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:],
            r"\bottomrule", r"\end{tabular}", *below, r"\end{table}",
        ]
    )  # fmt: skip


def escaped(text: str) -> str:
    """`text` with the characters that mean something to LaTeX written out."""
    return "".join(_LATEX.get(character, character) for character in text)
