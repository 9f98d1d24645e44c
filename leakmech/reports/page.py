"""The frame of a self-contained HTML page about what a run found: a headline, facts, tables, figures, everything else.

A page needs no network and nothing beside it. Figures are embedded as they were drawn; names of models and data sets,
and every text of a table, are escaped by the template, and a content security policy lets nothing run.

HTML pages that need no network and nothing beside them: style and script are inside, and nothing else may run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

from leakmech.core.errors import FigureError
from leakmech.reports.figures.frames import words
from leakmech.reports.tables import Table

_CSS_PIXELS = 96  # an inch on a page
_FACTS = (
    "model", "dataset", "fit", "diagnosis", "relevant", "n_samples", "generations", "prompt_form", "seed", "dtype",
    "device", "backend", "date",
)  # fmt: skip


@dataclass(frozen=True)
class ShownTable:
    """A table with its name as an anchor; its title is the heading, its first note stands in the title's place.

    ``texts`` says that its cells hold sentences, which wrap.
    """

    id: str
    table: Table
    texts: bool = False

    @property
    def shown(self) -> Table:
        return Table(self.table.notes[0], self.table.header, self.table.rows, self.table.notes[1:])


@dataclass(frozen=True)
class EmbeddedFigure:
    """An image that the page holds, with its size in CSS pixels and its title for readers that cannot see it."""

    source: str
    description: str
    caption: str
    files: str
    width: int
    height: int


def findings_page(
    summary: Mapping[str, Any],
    *,
    kind: str,
    heading: str,
    headline: str = "",
    numbers: Table | None = None,
    tables: Sequence[ShownTable] = (),
    figures: Sequence[EmbeddedFigure] = (),
) -> str:
    """The page as HTML.

    Parameters
    ----------
    summary
        What ``summary.json`` of the run holds; all of it is listed at the end.
    kind, heading, headline
        For the browser's tab, the head of the page, and the sentence under it.
    numbers
        The main table.
    tables, figures
        In the order of the page.
    """
    return render_page(
        "findings",
        styles=["report"],
        images=True,
        kind=kind,
        title=f"{summary.get('model', 'unknown model')} on {summary.get('dataset', 'unknown data')}",
        heading=heading,
        headline=headline,
        facts=[(words(name), _fact(summary[name])) for name in _FACTS if summary.get(name) is not None],
        numbers=numbers,
        tables=tables,
        figures=figures,
        details=list(_flat(summary)),
    )


# -- parts ------------------------------------------------------------------------------------------------------------


def embedded_figure(path: Path, caption: str = "") -> EmbeddedFigure:
    """A PNG file; the PDF and the CSV beside it are named.

    Raises
    ------
    FigureError
        It is missing or no PNG image.
    """
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
            image.load()
            title = str(getattr(image, "text", {}).get("Title", ""))
            scale = _CSS_PIXELS / float(image.info.get("dpi", (200, 200))[0])
            width, height = (round(scale * side) for side in image.size)
    except FileNotFoundError as problem:
        raise FigureError(f"{path}: no such figure; draw it before the page is made") from problem
    except (UnidentifiedImageError, OSError, SyntaxError) as problem:
        raise FigureError(f"{path}: no PNG image ({problem}); draw it again") from problem
    beside = [file.name for suffix in (".pdf", ".csv") if (file := path.with_suffix(suffix)).exists()]
    files = f"For print and as data: {', '.join(beside)}." if beside else ""
    return EmbeddedFigure(embedded_png(data), title or words(path.stem), caption, files, width, height)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def cell(value: Any) -> str:
    """A value as a reader reads it: three significant digits, a dash where there is none."""
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:#.3g}".rstrip(".").replace("-", "−")
    return str(value)


def _fact(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else cell(value)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested mappings, with its path; lists of plain values stay one."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        for index, part in enumerate(value):
            yield from _flat(part, f"{name}[{index}]")
    elif isinstance(value, list | tuple):
        yield name, _fact(value)
    else:
        yield name, "–" if value is None else str(value)


# -- self contained ----------------------------------------------------------------------------------------------------


def render_page(name: str, *, styles: Sequence[str] = (), images: bool = False, **values: Any) -> str:
    """The page of the template ``<name>.html.j2`` with ``<name>.css`` and, if there is one, ``<name>.js`` inside.

    Values are escaped where the template inserts them. The template also gets ``style``, ``script`` and a
    ``content_security_policy`` that allows these two and nothing else.

    Parameters
    ----------
    name
        Of the template.
    styles
        Names of style sheets of other pages that come first.
    images
        Whether the page may show images that are embedded in it (:func:`embedded_png`).
    """
    style = "\n".join(_asset(f"{sheet}.css") for sheet in (*styles, name))
    script = _asset(f"{name}.js") if f"{name}.js" in _environment().list_templates(extensions=["js"]) else ""
    scripts, pictures = _source_hash(script) if script else "'none'", "img-src data:; " if images else ""
    policy = (
        f"default-src 'none'; style-src {_source_hash(style)}; script-src {scripts}; {pictures}"
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(f"{name}.html.j2")
        .render(content_security_policy=policy, style=Markup(style), script=Markup(script), **values)
    )


def embedded_png(data: bytes) -> str:
    """A PNG image as an address that holds it whole."""
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("leakmech.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _asset(name: str) -> str:
    """The text of a file beside the template."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
