"""Matplotlib's own font with the letters of figures alone, for files that embed it.

To embed a font matplotlib reads all of it, a quarter of a second a figure for one of 6,000 glyphs and 15 ms for one
of 700. The small one is made once and lies in matplotlib's cache.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.text import Text

from leakmech.core.store import atomic_path

_OWN, _SMALL = "DejaVu Sans", "DejaVu Sans of figures"
_LETTERS = frozenset(
    # Latin, Greek, punctuation and currency, arrows, operators, shapes
    chr(code)
    for first, last in ((0x20, 0x17F), (0x370, 0x3FF), (0x2010, 0x20BF), (0x2190, 0x22FF), (0x25A0, 0x25FF))
    for code in range(first, last + 1)
)
_LAYOUT = ["GSUB", "GPOS", "GDEF", "kern"]
"""Tables about pairs of letters: matplotlib's layout takes none of them from the file that it embeds."""
_POSTSCRIPT = 6
_NAMES = (1, 4, _POSTSCRIPT, 16)
"""Entries of a font's name table that say what it is called."""


def embedded_font(figure: Figure) -> dict[str, Any]:
    """Settings of matplotlib under which a figure that has been drawn once embeds the small font, if that will do."""
    texts = (text.get_text() for text in figure.findobj(Text) if isinstance(text, Text))
    will_do = all(_LETTERS.issuperset(line) for text in texts for line in text.split("\n"))
    return {"font.sans-serif": [_small_font()]} if will_do else {}


@cache
def _small_font() -> str:
    """Name of the small font, regular and bold, which matplotlib knows from now on."""
    for weight in ("normal", "bold"):
        whole = Path(findfont(FontProperties(family=_OWN, weight=weight)))
        small = Path(matplotlib.get_cachedir()) / f"leakmech-{matplotlib.__version__}-{whole.name}"
        if not small.exists():
            with atomic_path(small) as temporary:
                _reduce(whole, temporary)
        fontManager.addfont(small)
    return _SMALL


def _reduce(whole: Path, small: Path) -> None:
    options = Options(drop_tables=[*Options().drop_tables, *_LAYOUT, "FFTM"], glyph_names=True, notdef_outline=True)
    font, subsetter = TTFont(whole), Subsetter(options)
    subsetter.populate(unicodes=map(ord, _LETTERS))
    subsetter.subset(font)
    names = font["name"]
    for entry in list(names.names):
        if entry.nameID in _NAMES:
            name = _SMALL.replace(" ", "") if entry.nameID == _POSTSCRIPT else _SMALL
            names.setName(name, entry.nameID, entry.platformID, entry.platEncID, entry.langID)
    font.save(small)
