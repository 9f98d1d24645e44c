"""Which sentences may become injections, and why others are refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakmech.core.errors import ConfigError
from leakmech.datasets.filters import InjectionRules, has_personal_data, is_profane, tidy


@pytest.mark.parametrize(
    "sentence",
    [
        "The camera arrived on time and in perfect condition.",
        "I hate getting blood drawn!",
        "We lost at trivia again!",
        "My dad tells me my grandad is in the hospital.",
        "Last week the agency proposed new rules, and the city has accepted them.",
        "I've had the best day of the summer.",
    ],
)
def test_whole_statements_may_be_injections(sentence):
    assert InjectionRules().refusal(sentence) is None


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Good day.", "length"),
        ("The report was written by a clerk", "no full stop"),
        ("Was the report written by a clerk?", "no full stop"),
        ("The answer is at www.example.org for everyone.", "personal data"),
        ("My number is 555 123 4567 on most days.", "personal data"),
        ("I told @someone that the shop was closed.", "personal data"),
        ("The office was full of assholes on Monday.", "profanity"),
        ("The office was full of s**t on Monday.", "odd characters or slang"),
        ("The film was great lol and we left.", "odd characters or slang"),
        ("The verdict (in part) was not surprising.", "odd characters or slang"),
        ("THE VERDICT was not surprising at all.", "capitals"),
        ("The earthquake did its work in Oct.", "cut at an abbreviation"),
        ("But the film itself is unengaging.", "leans on another sentence"),
        ("It was a complete waste of money.", "leans on another sentence"),
        ("I love this phone very much.", "leans on another sentence"),
        ("You come away from his film delighted.", "leans on another sentence"),
        ("A subtle, humorous study of politics and power.", "no statement"),
        ("A film with a hero I loved.", "no statement"),
        ("A parody of every teen movie made last year.", "no statement"),
        ("Hope the review has helped in making a choice.", "no statement"),
        ("Really is a joy from start to finish.", "no statement"),
        ("A spunky, original take on a theme that will resonate.", "no statement"),
    ],
)
def test_what_is_no_injection_is_refused_for_a_named_reason(sentence, reason):
    assert InjectionRules().refusal(sentence) == reason


def test_filters_can_be_switched_off():
    assert InjectionRules(profanity=False).refusal("The office was full of assholes on Monday.") is None
    assert InjectionRules(personal_data=False).refusal("My number is 555 123 4567 on most days.") is None
    assert InjectionRules(standalone=False).refusal("It was a complete waste of money.") is None


@pytest.mark.parametrize("text", ["Ask a@b.example.", "See http://x", "Call +1 (555) 123-4567.", "Thanks @someone!"])
def test_addresses_numbers_and_handles_are_personal_data(text):
    assert has_personal_data(text)


@pytest.mark.parametrize("text", ["It cost $1,200.50 in 2011.", "He ran 26.2 miles.", "The year 2011 was dry."])
def test_plain_numbers_are_no_personal_data(text):
    assert not has_personal_data(text)


@pytest.mark.parametrize(
    "text", ["What the fuck.", "Bitches.", "They were pissed off.", "Oh sh*t.", "A bull-shit job."]
)
def test_profanity_is_found_in_its_inflections_and_masked(text):
    assert is_profane(text)


@pytest.mark.parametrize("text", ["The class assigned a passage.", "A spicy cumin sauce.", "Scunthorpe has titans."])
def test_words_that_contain_profanity_are_no_profanity(text):
    assert not is_profane(text)


def test_tidy_repairs_case_space_and_the_full_stop():
    assert tidy("  i think i'm  late , as i was ") == "I think I'm late, as I was."
    assert tidy("no iphone for me!") == "No iphone for me!"


@given(st.text())
def test_tidy_is_stable(text):
    once = tidy(text)
    assert tidy(once) == once


@given(st.text(min_size=1))
def test_any_text_gets_a_verdict(text):
    tidied = tidy(text)
    if tidied:
        assert InjectionRules().refusal(tidied) is None or isinstance(InjectionRules().refusal(tidied), str)


def test_lengths_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="found 9 and 3"):
        InjectionRules(min_words=9, max_words=3)
