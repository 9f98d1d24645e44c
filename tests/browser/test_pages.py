"""Pages in a real browser: nothing is asked for, nothing complained of, nothing wider than the window; filters work."""

from __future__ import annotations

import json

import pytest
from browser.conftest import KINDS
from finished_run import HOSTILE

pytestmark = pytest.mark.browser

MAX_BYTES = 1_000_000
OVER = "[document.documentElement.scrollWidth, innerWidth]"
OPEN_SAMPLES = "[...document.querySelectorAll('#sample-list > details[open] .id')].map((own) => own.textContent)"


def choose(page, name, value):
    """Set a control of the sample browser as a reader does."""
    page.run(
        f"(() => {{ const own = document.getElementById('sample-{name}'); own.value = {json.dumps(value)};"
        "own.dispatchEvent(new Event(own.type === 'search' ? 'input' : 'change')); })()"
    )


def listed(page):
    """The ids of the samples that are listed."""
    return page.run("[...document.querySelectorAll('#sample-list .id')].map((own) => own.textContent)")


def answers(page):
    """Opens everything; remark and text of every answer that is shown, by condition."""
    page.run("document.querySelectorAll('#sample-list > details').forEach((own) => { own.open = true; })")
    page.settle()
    return page.run(
        "[...document.querySelectorAll('.condition')].map((own) => [own.querySelector('h4').textContent,"
        "[...own.querySelectorAll('.generations .text')].map((text) => text.textContent)])"
    )


# -- every page ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("name", KINDS)
def test_a_page_asks_for_nothing_complains_of_nothing_and_is_as_wide_as_the_window(browser, pages, name, width):
    with browser.open(pages[name], width=width) as page:
        assert page.requests == [pages[name].as_uri()]
        scroll, inner = page.run(OVER)
        assert scroll <= inner
        page.run("document.querySelectorAll('details').forEach((own) => { own.open = true; })")
        page.settle()
        scroll, inner = page.run(OVER)
        assert scroll <= inner, "with everything open"
        assert page.complaints == []
        assert pages[name].stat().st_size < MAX_BYTES


@pytest.mark.parametrize("name", ["bench", "diagnose", "mitigate"])
def test_a_page_begins_with_its_headline_and_its_charts_stand_before_its_tables(browser, pages, name):
    with browser.open(pages[name]) as page:
        order = page.run("[...document.querySelectorAll('.headline, .facts, figure, table')].map((own) => own.tagName)")
        assert order[:2] == ["P", "DL"]
        assert page.run("document.querySelector('.headline').textContent.trim().length") > 20
        if "FIGURE" in order:
            assert order.index("FIGURE") < order.index("TABLE")
        assert page.run("[...document.querySelectorAll('table')].every((own) => own.closest('details'))")


@pytest.mark.parametrize("name", ["bench", "diagnose"])
def test_charts_follow_light_and_dark_and_say_in_words_what_they_show(browser, pages, name):
    colors = "[...document.querySelectorAll('svg text, svg circle, svg path')].map((own) => getComputedStyle(own).fill)"
    with browser.open(pages[name]) as page:
        light = page.run(colors)
        page.prefer("dark")
        page.settle()
        dark = page.run(colors)
        charts = "[...document.querySelectorAll('svg[role=img]')]"
        assert page.run(f"{charts}.length") >= 1
        assert page.run(f"{charts}.every((own) => own.getAttribute('aria-label') && own.querySelector('title'))")
    assert len(light) == len(dark) > 10
    filled = [pair for pair in zip(light, dark, strict=True) if pair[0] != "none"]
    assert all(first != second for first, second in filled)


def test_what_is_drawn_of_a_diagnosis_lies_inside_of_its_drawing(browser, pages):
    outside = """[...document.querySelectorAll('svg.chart')].flatMap((own) => {
      const frame = own.getBoundingClientRect();
      return [...own.querySelectorAll('text, circle, rect')].filter((part) => {
        const box = part.getBoundingClientRect();
        return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1;
      }).map((part) => part.textContent || part.tagName);
    })"""
    for width in (400, 1400):
        with browser.open(pages["diagnose"], width=width) as page:
            assert page.run(outside) == []


@pytest.mark.parametrize("name", ["bench", "diagnose"])
def test_on_paper_everything_is_open(browser, pages, name):
    shown = "[...document.querySelectorAll('table')].map((own) => own.checkVisibility())"
    with browser.open(pages[name]) as page:
        assert not all(page.run(shown))
        page.send("Emulation.setEmulatedMedia", media="print")
        page.run("window.dispatchEvent(new Event('beforeprint'))")
        page.settle()
        assert all(page.run(shown))
        drawn = page.run("document.querySelectorAll('#sample-list > details .condition').length")
        assert drawn == 4 * page.run("document.querySelectorAll('#sample-list > details').length")
        assert page.print().startswith(b"%PDF")


# -- sample browser --------------------------------------------------------------------------------------------------


def test_hostile_texts_are_texts_in_a_browser_too(browser, told_topic):
    with browser.open(told_topic) as page:
        choose(page, "search", "onerror")
        assert listed(page) == [HOSTILE.strip()]
        assert any(HOSTILE.split("\u2028")[0] in text for _, texts in answers(page) for text in texts)
        assert page.run("document.querySelectorAll('main img, main script').length") == 0
        assert page.complaints == []


def test_filters_leave_the_answers_that_are_as_is_asked(browser, told_topic):
    with browser.open(told_topic) as page:
        everything = answers(page)
        assert {name for name, _ in everything} == {"control", "neutral", "positive", "negative"}
        choose(page, "condition", "negative")
        assert {name for name, _ in answers(page)} == {"negative"}
        choose(page, "valence", "positive")
        assert listed(page) == ["s2"]  # the one that answers the other way round
        assert page.run("document.getElementById('sample-count').textContent") == "1 of 8 samples match, with 3 answers"
        choose(page, "condition", "")
        choose(page, "valence", "")
        choose(page, "echo", "yes")
        found = [text for _, texts in answers(page) for text in texts]
        assert found
        assert all("echo" in text for text in found)
        choose(page, "echo", "no")
        assert not any("(after an echo" in text for _, texts in answers(page) for text in texts)
        choose(page, "echo", "")
        choose(page, "topic", "yes")
        found = answers(page)
        assert {name for name, _ in found} == {"neutral", "positive", "negative"}
        assert all("about the injection" in text for _, texts in found for text in texts)
        page.run("document.getElementById('sample-reset').click()")
        assert len(listed(page)) == 8
        assert answers(page) == everything


def test_a_run_whose_topic_is_not_told_has_no_filter_for_it(browser, pages):
    with browser.open(pages["bench"]) as page:
        assert page.run("document.getElementById('sample-topic-label').checkVisibility()") is False


def test_the_full_prompt_is_there(browser, told_topic):
    with browser.open(told_topic, hash="#sample=s1") as page:
        prompts = page.run("[...document.querySelectorAll('.prompt .full')].map((own) => own.textContent)")
        assert len(prompts) == 4
        assert prompts[2].startswith("<|im_start|>")
        assert "My 1 friends laughed happily. The garden behind house 1 looks" in prompts[2]


@pytest.mark.parametrize("sample", ["s5", HOSTILE.strip()])
def test_a_permalink_opens_its_sample_whatever_was_filtered(browser, told_topic, sample):
    with browser.open(told_topic) as page:
        page.run(f"location.hash = '#sample=' + encodeURIComponent({json.dumps(sample)})")
        page.settle()
        assert sample in page.run(OPEN_SAMPLES)
        link = page.run("document.activeElement.parentElement.querySelector('.permalink').getAttribute('href')")
        choose(page, "search", "nothing has this")
        assert listed(page) == []
    with browser.open(told_topic, hash=link) as page:
        assert page.run(OPEN_SAMPLES) == [sample]
        top = page.run("document.querySelector('#sample-list > details[open]').getBoundingClientRect().top")
        assert -1 < top < 900
        page.run("location.hash = '#sample=none-of-these'")
        page.settle()
        assert "no sample none-of-these" in page.run("document.getElementById('sample-count').textContent")
        assert page.complaints == []
