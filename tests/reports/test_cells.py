"""How values are written: the same number is the same text in every table."""

from __future__ import annotations

import pytest

from leakmech.reports.cells import (
    alike,
    cell,
    estimate,
    number,
    p_value,
    percent,
    signed,
    significant,
    typeset,
    with_interval,
)

NAN = float("nan")


@pytest.mark.parametrize("show", [number, signed, percent, p_value, cell])
def test_what_is_missing_is_a_dash(show):
    assert show(None) == show(NAN) == "–"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8, "0.800"),
        (-2.0, "-2.00"),
        (1234.5, "1,234"),
        (100.0, "100"),
        (True, "yes"),
        (7, "7"),
        ([0.88, 0.94], "0.88, 0.94"),
        ({"fit": 8, "tune": 6}, "fit 8, tune 6"),
        ("a", "a"),
    ],
)
def test_a_value_of_any_kind_has_three_digits_or_its_own_text(value, text):
    assert cell(value) == text


def test_decimals_are_fixed_and_differences_signed():
    assert (number(-0.0123), number(0.5, decimals=3), signed(0.5)) == ("-0.01", "0.500", "+0.50")
    assert (percent(0.125), percent(0.125, decimals=0)) == ("12.5 %", "12 %")
    assert (p_value(0.0456), p_value(3.4e-12), p_value(0.0)) == ("0.046", "3e-12", "< 1e-300")


def test_an_interval_is_written_where_both_ends_are_known():
    assert with_interval(0.5, 0.4, 0.6) == "0.50 [0.40, 0.60]"
    assert with_interval(0.5, None, 0.6) == with_interval(0.5, 0.4, NAN) == "0.50"
    assert estimate({"a": 0.5, "a_ci": [0.4, 0.6]}, "a") == "0.50 [0.40, 0.60]"
    assert estimate({"a": 0.5, "a_low": 0.4, "a_high": 0.6}, "a", signed) == "+0.50 [+0.40, +0.60]"
    assert estimate({"a": 0.5, "a_ci": None}, "a") == "0.50"
    assert estimate({}, "a") == "–"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("-0.07 [-0.17, +0.03]", "−0.07 [−0.17, +0.03]"), ("3e-12", "3e−12"), ("file-0.95 x-1", "file-0.95 x-1")],
)
def test_numbers_get_a_minus_sign_and_names_keep_their_hyphen(text, shown):
    assert typeset(text) == shown


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.1234, 3, "−0.123"), (100.0, 2, "100"), (99.96, 2, "100"), (1234.5, 3, "1,234"), (2e-7, 2, "2e−07")],
)
def test_numbers_of_figures_are_written_as_they_are_read(value, digits, text):
    assert typeset(significant(value, digits=digits)) == text


def test_the_numbers_of_a_column_have_the_same_decimals():
    show = alike([0.233, -0.0281, None, float("nan")])
    assert [show(value) for value in (0.233, 8.7e-5, -0.0281)] == ["0.233", "0.000", "-0.028"]
    assert alike([0.0294, 0.00274])(0.00274) == "0.0027"
    assert (alike([1234.5])(1234.5), alike([])(0.5), alike([0.0])(0.0)) == ("1234", "0.50", "0.00")


def test_what_rounds_to_zero_has_no_minus():
    assert (number(-0.001), signed(-0.001), number(-0.006)) == ("0.00", "+0.00", "-0.01")
