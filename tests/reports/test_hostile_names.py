"""Names on a page are texts: none opens an element, ends a script or leaves an attribute."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pytest

from leakmech.reports.chart import Forest, ForestRow
from leakmech.reports.grid import Grid, Token, Tokens
from leakmech.reports.page import Code, Definitions, Facts, Headline, Paragraph, Shown, embedded_json, page
from leakmech.reports.plane import Curve, Mark, Plane
from leakmech.reports.tables import Table

NAME = "\"' onload=x></script><!--<script>alert(1)</script>]]></style><b>{{7*7}}\u2028"


class Elements(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.texts = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.texts += data


def _page(name: str) -> str:
    table = Table(name, [name], [[name]], [name])
    parts = [Headline(name, name), Facts([(name, name)]), Definitions([(name, name)]), Paragraph(name, heading=name)]
    drawn = [
        Plane(name, name, name, marks=[Mark(0.0, 0.0, name, name)], curves=[Curve(name, [(0, 0)])], legend=[(name, 1)]),
        Grid({(0, 0): 1.0}, [name], [name], name, name, name, name, {(0, 0): name}),
        Tokens([(name, [Token(name, 1.0, name)])], 1.0, name),
        Forest([ForestRow(name, name, 0.1, None)], name),
    ]
    return page(name, [*parts, Code(name), Shown(table), *drawn])


@pytest.mark.fault("X521", "hostile", "a name that closes tags, scripts, attributes in every part of a page", "a text")
def test_a_name_is_a_text_in_every_part_of_a_page():
    hostile, harmless = Elements(_page(NAME)), Elements(_page("x"))
    assert hostile.tags == harmless.tags
    assert hostile.attributes == harmless.attributes
    assert "{{7*7}}" in hostile.texts
    table = Table(NAME, [NAME], [[NAME]], [NAME]).to_html()
    assert Elements(table).tags == ["table", "caption", "tr", "th", "tr", "td", "p"]


@pytest.mark.fault("X522", "hostile", "the end of a script, a comment, U+2028 in the JSON of a page", "escaped")
def test_embedded_json_holds_nothing_that_html_or_a_script_reads():
    value = {NAME: [NAME, "<!--", "-->", "&lt;", "\u2029", "\ud83d"]}
    text = str(embedded_json(value))
    assert json.loads(text) == value
    assert text.isascii()
    assert not set("<>&") & set(text)
