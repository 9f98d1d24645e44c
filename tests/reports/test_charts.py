"""Charts that are drawn in the page: where values lie, what is said in words, and that they stay small."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leakmech.reports.chart import Forest, ForestRow
from leakmech.reports.frame_charts import cells, lines, points
from leakmech.reports.grid import Grid, Token, Tokens
from leakmech.reports.page import page
from leakmech.reports.plane import Band, Curve, Mark, Plane, Scale

HOSTILE = "</script><img src=x onerror=alert(1)>"


def plane(**changed):
    return Plane("x", "y", "caption", **{"x_nulls": (0.0,), "y_nulls": (0.0, 1.0)} | changed)


# -- axes ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@example([5e-324])
def test_an_axis_holds_all_its_values_and_has_two_to_eight_marks(values):
    scale = Scale.over("x", values, (0, 100))
    slack = 1e-9 + 1e-6 * max(map(abs, values))
    assert scale.low - slack <= min(values) <= max(values) <= scale.high + slack
    assert 2 <= len(scale.ticks) <= 8
    assert [place for place, _ in scale.ticks] == sorted(place for place, _ in scale.ticks)
    assert all(0 <= scale.place(value) <= 100 for value in values)


def test_places_are_in_proportion_and_what_lies_outside_is_at_the_edge():
    scale = Scale("x", 0, 10, 100, 200)
    assert [scale.place(value) for value in (0, 2.5, 10, 99, -1)] == [100, 125, 200, 200, 100]
    assert Scale("x", 1, 100, 0, 10, is_log=True).place(10) == 5


def test_a_logarithmic_axis_is_marked_at_powers_of_ten_and_may_hold_one_value():
    assert [text for _, text in Scale.over("k", [1, 46_080], (0, 1), is_log=True).ticks] == [
        "1", "10", "100", "1000", "10000"
    ]  # fmt: skip
    assert Scale.over("k", [1.0, 1.0], (0, 1), is_log=True).place(1.0) == 0.5


# -- planes ----------------------------------------------------------------------------------------------------------


def test_named_points_are_numbered_and_listed_and_the_others_are_one_path():
    marks = [Mark(0.0, 0.0), Mark(1.0, 1.0), Mark(0.5, 0.25, "L2H1", "told nothing", x_interval=(0.4, 0.6))]
    drawn = plane(marks=marks)
    html = page("t", [drawn])
    assert [path.count("h0") for _, path in drawn.dots] == [2]
    assert html.count("<circle") == 1
    assert re.search(r'<li><span class="name">L2H1</span> <span class="soft">told nothing</span></li>', html)
    (_, x, y, *_), *_ = drawn.placed
    assert (x, y) == (drawn.across.place(0.5), drawn.up.place(0.25))


def test_numbers_of_crowded_points_do_not_lie_on_each_other():
    marks = [Mark(0.5 + place / 100, 0.5, f"m{place}") for place in range(4)]
    numbers = [(x, y) for _, _, _, x, y in plane(marks=marks, x_nulls=(0.0, 1.0)).placed]
    assert len(set(numbers)) == 4
    apart = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a in numbers for b in numbers if a != b]
    assert min(apart) > 10


def test_the_words_of_a_chart_name_its_axes_curves_and_points():
    drawn = plane(curves=[Curve("pca", [(0, 1), (1, 2)])], bands=[Band("chance", [(0, 0, 1), (1, 0, 1)])])
    assert drawn.description == "y against x. Curves: pca, chance"
    assert "m: said" in plane(marks=[Mark(0, 0, "m", "said")]).description


def test_thousands_of_points_and_cells_stay_small():
    marks = [Mark(place / 5000, (place * 7 % 5000) / 5000) for place in range(5000)]
    values = {(row, column): (row - 30) * (column - 40) / 100 for row in range(64) for column in range(80)}
    names = [str(place) for place in range(80)]
    grid = Grid(values, names[:64], names, "layer", "head", "caption", "said", {})
    assert len(page("t", [plane(marks=marks)])) < 110_000
    assert len(page("t", [grid])) < 150_000


def test_texts_of_an_axis_do_not_lie_on_each_other_and_the_mark_is_on_it():
    row = ForestRow("a", "a", 0.5, (-0.03, 0.6), band=(0.1, 0.9), mark=1.2)
    drawn = Forest([row], "c", is_centred=False)
    assert (drawn.begin, drawn.end) == (-0.03, 1.5)
    assert [label for _, label in drawn.ticks] == ["0", "+1.5"]
    assert f'class="mark" x1="{drawn.place(1.2)}"' in page("t", [drawn])
    assert [label for _, label in Forest([row], "c").ticks] == ["−1.5", "0", "+1.5"]


# -- cells and tokens ------------------------------------------------------------------------------------------------


def test_the_colour_of_a_cell_is_its_sign_and_its_share_of_the_largest():
    drawn = Grid({(0, 0): -4.0, (0, 1): 1.0, (1, 0): float("nan")}, ["a", "b"], ["0", "1"], "x", "y", "c", "s", {})
    assert [(hue, opacity) for hue, opacity, _ in drawn.paths] == [("negative", 1.0), ("positive", 0.25)]
    assert drawn.limit == 4.0


def test_a_table_is_drawn_with_its_numbers_and_long_names_of_columns_are_said_below():
    frame = pd.DataFrame({"first emotion": [1.0, -0.5], "b": [0.25, 0.0]}, index=["u", "v"])
    drawn = cells(frame, across="x", down="y", caption="Cosines.", decimals=2)
    assert drawn.columns == ["1", "2"]
    assert drawn.caption == "Cosines. Columns: 1 first emotion, 2 b."
    assert drawn.marked[1, 0] == "-0.50"
    assert ">−0.50</text>" in page("t", [drawn])


@pytest.mark.parametrize(("value", "style"), [(0.0, ""), (0.05, ""), (1.0, "p8"), (-9.0, "n8"), (-0.5, "n4")])
def test_the_colour_of_a_token_is_a_step_of_its_number(value, style):
    assert Tokens([], 1.0, "").style(Token("a", value, "stem")) == style


# -- rows ------------------------------------------------------------------------------------------------------------


def test_an_axis_of_rows_is_about_zero_or_begins_there():
    rows = [ForestRow("a", "0.4", 0.4, (0.1, 0.7), band=(0.0, 0.2))]
    about, beginning = Forest(rows, ""), Forest(rows, "", is_centred=False)
    assert (about.begin, about.end, about.place(0)) == (-0.75, 0.75, 50)
    assert (beginning.begin, beginning.end, beginning.place(0)) == (0.0, 0.75, 0)
    assert beginning.span((0.0, 0.375)) == (0.0, 50.0)
    assert Forest([ForestRow("a", "", 0.4, (-0.1, 0.7))], "", is_centred=False).begin == -0.1


def test_texts_of_charts_are_escaped():
    sections = [
        plane(marks=[Mark(0, 0, HOSTILE, HOSTILE)], curves=[Curve(HOSTILE, [(0, 0)])], legend=[(HOSTILE, 1)]),
        Grid({(0, 0): 1.0}, [HOSTILE], [HOSTILE], HOSTILE, HOSTILE, HOSTILE, HOSTILE, {(0, 0): HOSTILE}),
        Tokens([(HOSTILE, [Token(HOSTILE, 1.0, HOSTILE)])], 1.0, HOSTILE),
        Forest([ForestRow(HOSTILE, HOSTILE, 0.1, None)], HOSTILE),
    ]
    html = page("t", sections)
    assert "<img" not in html
    assert "<script" not in html


# -- from tables -----------------------------------------------------------------------------------------------------


def test_a_table_becomes_lines_by_series_in_the_order_asked_for():
    frame = pd.DataFrame({"k": [3, 1, 2, 1], "v": [0.3, 0.1, None, 0.5], "s": ["a_b", "a_b", "a_b", "c"]})
    drawn = lines(frame, x=("k", "k"), y=("v", "share"), series="s", caption="c")
    assert [(curve.name, list(curve.points)) for curve in drawn.curves] == [
        ("a b", [(1.0, 0.1), (3.0, 0.3)]), ("c", [(1.0, 0.5)])
    ]  # fmt: skip
    assert drawn.knots(drawn.curves[1])


def test_rows_become_points_hollow_where_that_is_said():
    frame = pd.DataFrame({"x": [0.1, 0.2], "y": [1.0, float("nan")], "name": ["", "b"], "shares": [1, 0]})
    drawn = points(frame, x=("x", "x"), y=("y", "y"), name="name", caption="c", hollow=lambda row: bool(row["shares"]))
    assert [(mark.x, mark.name, mark.is_hollow) for mark in drawn.marks] == [(0.1, "", True)]
    assert len(drawn.rings) == 1
