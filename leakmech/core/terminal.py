"""What reaches a terminal: values are printed letter by letter, and none of them can steer it.

Names of files, models and samples, and all that a model says, come from elsewhere. Square brackets in them are no
markup; characters that steer a terminal or turn the direction of a line are shown in Python's notation (``\\x1b``);
what the encoding of the output lacks becomes its nearest ASCII character, or a question mark.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

_TURNING = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of text."""
_NEAREST = {
    "\u2010": "-", "\u2011": "-", "\u2013": "-", "\u2014": "-", "\u2212": "-", "\u2500": "-", "\u2501": "-",
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00d7": "x", "\u00b7": ".",
    "\u2022": "*", "\u2264": "<=", "\u2265": ">=", "\u2192": "->", "\u00a0": " ",
    "\u2588": "#", "\u2502": "|",
}  # fmt: skip
_ERRORS = "leakmech.nearest"


def steers(character: str) -> bool:
    """Whether a character acts on the terminal, or on how the rest of a line is laid out, or cannot be encoded."""
    return character in _TURNING or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def literal(text: str, *, keep: str = "\n\t") -> str:
    """`text` with all that steers in Python's notation, but for the characters of `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if c not in keep and steers(c) else c for c in text)


class Terminal(Console):
    """A console that reads no markup, and on which texts of others cannot act."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    @property
    def encoding(self) -> str:
        """That of the stream; rich takes UTF-8 for granted, and frames of tables would not be plain ASCII."""
        return str(getattr(self.file, "encoding", None) or "utf-8").lower()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print texts without breaking their lines, so that a path stays one, and anything else in its own layout."""
        if all(isinstance(one, str) for one in objects):
            options.setdefault("soft_wrap", True)
        super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(literal(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=literal(segment.text))


def complain(text: str) -> None:
    """Print one line on standard error."""
    say(literal(text, keep=""))


def say(text: str) -> None:
    """Print a text on standard error; while a bar is drawn it stands above the bar."""
    # The bar catches what goes to sys.stderr itself, and a rich console would go past it.
    print(literal(text), file=sys.stderr, flush=True)  # noqa: T201


def tolerate_encodings() -> None:
    """Let standard output and errors take any text, whatever their encoding."""
    codecs.register_error(_ERRORS, _nearest)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=_ERRORS)


def _nearest(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_NEAREST.get(character, "?") for character in lacking), error.end
