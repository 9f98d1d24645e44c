"""The page of a list of sections: chapters, escaping, and what a content security policy lets run."""

from __future__ import annotations

import re

from markupsafe import Markup

from leakmech.reports.page import Code, Definitions, Details, Facts, Headline, Paragraph, Shown, page
from leakmech.reports.tables import Table

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}}"


def test_chapters_are_listed_and_linked():
    html = page(
        "Title", [Headline("Found"), Paragraph("a", heading="What -- it is?"), Code("b"), Code("c", heading="D")]
    )
    links = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a>', html)
    assert links == [("what-it-is", "What -- it is?"), ("d", "D")]
    assert html.index("Found") < html.index("<nav") < html.index('<h2 id="what-it-is">') < html.index("<pre>b</pre>")
    assert "<nav" not in page("Title", [Headline("Found")])


def test_every_text_of_every_section_is_escaped():
    rows = [(HOSTILE, HOSTILE)]
    table = Table(HOSTILE, (HOSTILE, HOSTILE), rows, [HOSTILE])
    sections = [Headline(HOSTILE, HOSTILE), Facts(rows), Definitions(rows), Paragraph(HOSTILE, heading=HOSTILE)]
    html = page(HOSTILE, [*sections, Code(HOSTILE), Shown(table), Details.of({HOSTILE: [HOSTILE]}, heading=HOSTILE)])
    assert "<script" not in html
    assert "<img" not in html
    assert "49" not in html
    assert html.count("&lt;/script&gt;&lt;img") == 22
    assert page("t", [Paragraph(Markup("<em>{}</em>").format("<b>"))]).count("<em>&lt;b&gt;</em>") == 1


def test_a_page_without_a_sample_browser_runs_no_script_and_no_page_shows_images():
    html = page("t", [Code("x")])
    assert "script-src &#39;none&#39;" in html
    assert "img-src" not in html


def test_a_table_opens_by_its_title_and_is_open_where_that_is_said():
    table = Table("Title", ("a",), [("x",)])
    assert '<details class="folded">\n<summary class="table-title" id="table-1">Title</summary>' in page(
        "t", [Shown(table)]
    )
    assert '<details class="folded" open>' in page("t", [Shown(table, is_open=True)])


def test_a_number_on_a_page_has_a_minus_sign_and_a_name_keeps_its_hyphen():
    html = page("t", [Shown(Table("t", ("run", "value"), [("run-1", "-0.5 [-1.0, 3e-4]"), ("b", "x-1")]))])
    assert '<th scope="row">run-1</th><td>−0.5 [−1.0, 3e−4]</td>' in html
    assert "<td>x-1</td>" in html
