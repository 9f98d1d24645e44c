"""One self-contained HTML page from a list of sections: every report is made here, and all look alike.

A page needs no network and nothing beside it: style, script and charts are inside. Every text is escaped where the
template inserts it, data of the sample browser is JSON that the script inserts as text, and a content security policy
lets nothing else run. A section with a heading begins a chapter; those after it without one belong to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from leakmech.core.errors import UsageError
from leakmech.core.store import write_text
from leakmech.core.tables import read_table
from leakmech.reports.cells import DASH, cell, typeset
from leakmech.reports.figures.frames import words
from leakmech.reports.frame_tables import frame_table
from leakmech.reports.tables import Table
from leakmech.runs.directory import SCRIPT, RunRecord
from leakmech.runs.reproduce import reproduction
from leakmech.runs.settings import Settings

_GENERATOR = b'<meta name="generator" content="leakmech">'
_SAME = (
    "With the same weights, packages and hardware this gives the same numbers; other hardware or another dtype changes "
    "rounding and with it some generations."
)
_OF_SCRIPT = (
    "A script made this run with a model that it had loaded itself. With a name of that model after --model, and with "
    "the same packages and hardware, this gives the same numbers."
)
_FACTS = (
    "model", "dataset", "fit", "diagnosis", "relevant", "n_samples", "generations", "prompt_form", "seed", "dtype",
    "device", "backend", "date",
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A part of a page. Its texts are escaped, unless they are :class:`markupsafe.Markup`."""

    heading: str = field(default="", kw_only=True)
    kind: ClassVar[str]

    @property
    def anchor(self) -> str:
        """The name by which the heading is linked."""
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


@dataclass(frozen=True)
class Headline(Section):
    """What was found, in a sentence, and what follows from it."""

    kind = "headline"
    text: str
    below: str = ""


@dataclass(frozen=True)
class Facts(Section):
    """Names and values side by side."""

    kind = "facts"
    rows: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Self:
        """What was measured on what, as far as the summary says."""
        return cls([(words(name), cell(summary[name])) for name in _FACTS if summary.get(name) is not None])


@dataclass(frozen=True)
class Definitions(Section):
    """Terms and what they mean."""

    kind = "definitions"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Paragraph(Section):
    """A text; `style` is ``caution``, ``soft small`` or nothing."""

    kind = "paragraph"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Code(Section):
    """A command or a file, letter by letter."""

    kind = "code"
    text: str


@dataclass(frozen=True)
class Shown(Section):
    """A table behind its title, which opens it; what is printed is open.

    The row whose first cell is `total` is set in bold; `style` is ``texts`` if all cells hold sentences, ``meaning`` if
    those of the last column do; an `is_open` one is open from the beginning, for it is what its chapter is about.
    """

    kind = "table"
    table: Table
    total: str = ""
    style: str = ""
    is_open: bool = False


@dataclass(frozen=True)
class Details(Section):
    """Names and values that a reader opens who wants to know everything."""

    kind = "details"
    rows: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, values: Mapping[str, Any], *, heading: str) -> Self:
        """Every value of nested mappings, with its path."""
        return cls(list(_flat(values)), heading=heading)


def headed(heading: str, found: Sequence[Section]) -> list[Section]:
    """The sections under one heading, which the first of them carries; nothing for none."""
    return [replace(found[0], heading=heading), *found[1:]] if found else []


def figures_beside(run: Path) -> list[Section]:
    """Where the figures for papers lie that show what the charts of the page do; nothing where there are none."""
    if not any((run / "figures").glob("*.pdf")):
        return []
    text = "The same as figures for papers, with the data of each: figures/*.pdf, figures/*.png and figures/*.csv."
    return [Paragraph(text, "soft small")]


def stored_tables(run: Path, headings: Mapping[str, str]) -> list[Section]:
    """The tables of a run that are there, by name, in the order of `headings`."""
    files = {name: run / "tables" / f"{name}.csv" for name in headings}
    return [
        Shown(frame_table(read_table(file), f"tables/{name}.csv"), heading=headings[name])
        for name, file in files.items()
        if file.exists()
    ]


def reproduce(settings: type[Settings], record: RunRecord, *, arguments: Sequence[str] = ()) -> list[Section]:
    """How to make the run of a command once more, from what ``run.json`` holds."""
    dtype = record.fingerprint.get("dtype")
    place = {"dtype": dtype} if dtype else {}
    command = reproduction(settings, record.config, arguments=arguments, place=place)
    return [Paragraph(_OF_SCRIPT if record.fact(SCRIPT) else _SAME, heading="Reproduce"), Code(command)]


def how_it_was_made(run: Path, summary: Mapping[str, Any], settings: type[Settings]) -> list[Section]:
    """The end of a page: the command that repeats the run if one made it, and everything that is known."""
    record = RunRecord.find(run)
    return [
        *(reproduce(settings, record) if record and record.command == settings.command else []),
        *([Details.of(record.values, heading="Everything in run.json")] if record else []),
        Details.of(summary, heading="Everything in summary.json"),
    ]


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value of nested mappings, with its path; lists of plain values stay one."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(part, Mapping | list | tuple) for part in value):
        for index, part in enumerate(value):
            yield from _flat(part, f"{name}[{index}]")
    elif isinstance(value, list | tuple):
        yield name, cell(value)
    else:
        yield name, DASH if value is None else str(value)


# -- the page --------------------------------------------------------------------------------------------------------


def page(title: str, sections: Sequence[Section]) -> str:
    """The page as HTML; at most one section is a sample browser."""
    kinds = {section.kind for section in sections}
    chapters = [section for section in sections if section.heading]
    return render(
        "page",
        script="page.js" if "samples" in kinds else None,
        title=title,
        sections=sections,
        chapters=chapters,
    )


def write_page(run: Path, title: str, sections: Sequence[Section], *, name: str = "report.html") -> Path:
    """Write the page of a run, ``report.html``, and return its path."""
    path = run / name
    write_text(path, page(title, sections))
    return path


def refuse_foreign_page(path: Path, *, way_out: str) -> None:
    """UsageError, with the way out, for a file that :func:`write_page` did not write and so must not write again."""
    if not path.exists():
        return
    with path.open("rb") as file:
        if _GENERATOR not in file.read(300):
            raise UsageError(f"{path}: is not a page of leakmech; {way_out}")


def link_to(page: str | Path | None, base: Path | None) -> str | None:
    """The address of a file of this machine as seen from a page in the folder `base`; None where there is no file."""
    if page is None or base is None or not Path(page).is_file():
        return None
    relative = os.path.relpath(Path(page).resolve(), base.resolve())
    return quote(relative.replace(os.sep, "/"))


def linked(text: str, page: str | Path | None, base: Path | None) -> str:
    """`text` as a link to a file, for the first cell of a row, or as it is where there is nothing to link to."""
    address = link_to(page, base)
    return text if address is None else Markup('<a href="{}">{}</a>').format(address, text)


def render(template: str, *, styles: Sequence[str] = (), script: str | None = None, **values: Any) -> str:
    """The page of ``<template>.html.j2`` with style sheets and script inside, and a policy that allows nothing else.

    The template also gets `values`.
    """
    style = "\n".join(map(_asset, ("page.css", *styles)))
    code = _asset(script) if script else ""
    scripts = _source_hash(code) if code else "'none'"
    policy = (
        f"default-src 'none'; style-src {_source_hash(style)}; script-src {scripts}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(content_security_policy=policy, style=Markup(style), script=Markup(code), **values)
    )


def embedded_json(value: Any) -> Markup:
    """`value` as JSON that may stand inside a script element: nothing in it can end the element or open another.

    What is not ASCII is escaped, U+2028 and U+2029 with it.
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("leakmech.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["typeset"] = typeset
    return environment


def _asset(name: str) -> str:
    """The text of a file beside the template."""
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _source_hash(text: str) -> str:
    """What a content security policy calls an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
