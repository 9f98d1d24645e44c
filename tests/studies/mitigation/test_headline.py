"""Every sentence of the headline follows from the rows by rule: each wording has a table that calls for it."""

from __future__ import annotations

import pandas as pd
import pytest

from leakmech.studies.mitigation.headline import headline
from leakmech.studies.mitigation.tables import removal_verdict

PARTS = ("removal", "removal_tilt", "retention", "retention_self", "retention_facts")


def row(name, selectivity=0.5, *, half=0.05, told="nothing", kind="intervention", part=0.5, part_half=0.02, **more):
    """A row with all parts of one value."""
    found = {"name": name, "kind": kind, "told": told, "split": "test", "not_charged": "", "leakage_reduction": part}
    for column, value, width in [("selectivity", selectivity, half), *((name, part, part_half) for name in PARTS)]:
        found |= {column: value, f"{column}_low": value - width, f"{column}_high": value + width}
    return found | {"fluency": 0.98, "fluency_low": 0.975} | more


def base(low=0.1):
    shift = {"": 0.2, "_low": low, "_high": 0.3}
    return row("base", kind="base", **{f"topic_free_valence_shift{end}": value for end, value in shift.items()})


def said(*rows):
    return headline(pd.DataFrame([base(), *rows]))


TEXT = row("drop-unrelated-text-0.15", 0.8, told="layout", kind="rewrite")


@pytest.mark.parametrize(
    ("selectivity", "sentence"),
    [
        (0.95, "Told nothing, edit beats dropping unrelated sentences: selectivity 0.95 [0.90, 1.00] against 0.8"),
        (0.6, "No method told nothing comes up to dropping unrelated sentences; the best, edit: selectivity 0.60 [0."),
        (0.88, "No method told nothing is shown to beat dropping unrelated sentences: the intervals of the best, ed"),
        (0.72, "No method told nothing is shown to beat dropping unrelated sentences: the intervals of the best, ed"),
    ],
)  # fmt: skip
def test_the_best_row_told_nothing_is_held_against_dropping_unrelated_sentences(selectivity, sentence):
    assert f". {sentence}" in said(row("edit", selectivity), row("worse", 0.1), TEXT)


def test_rows_that_are_charged_for_other_parts_or_have_no_interval_are_not_compared():
    charged = "charged for different parts"
    assert charged in said(row("edit", not_charged="removal_tilt: no likelihood is known"), TEXT)
    assert charged not in said(row("edit", not_charged="x: a"), TEXT | {"not_charged": "x: for another reason"})
    assert "an interval is missing" in said(row("edit", half=float("nan")), TEXT)
    assert "dropping unrelated" not in said(row("edit"))


def test_what_is_told_more_is_never_the_best():
    seer = row("seer", 1.0, told="boundary")
    text = said(row("edit"), seer, TEXT)
    assert "the most selective one, edit, takes out 50 % [48, 52] of the topic-free leakage" in text
    assert said(seer, TEXT) == "Every mitigation here is told more than the text of the prompt."


def test_a_removal_whose_interval_contains_0_is_not_shown():
    text = said(row("edit", part=0.3, part_half=0.4))
    assert "edit, is not shown to take out leakage (30 % [-10, 70] of the topic-free leakage, 30 %" in text
    assert "takes out" not in text


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "takes it out"),
        ({"removal_low": -0.1}, "not shown"),
        ({"removal_low": -0.4, "removal_high": -0.1}, "adds to it"),
        ({"removal_low": None}, "not shown"),
        ({"removal": None}, "–"),
        ({"n_draws": 20.0}, "–"),
        ({"kind": "base"}, "–"),
    ],
)
def test_the_verdict_on_a_removal_follows_from_its_interval(changes, verdict):
    assert removal_verdict(row("edit") | changes, "removal") == verdict


@pytest.mark.parametrize(("reduction", "words"), [(0.38, "does not lie above"), (0.6, "lies above")])
def test_random_edits_of_its_size_are_named_beside_it(reduction, words):
    band = row("random-heads-5", 0.0, kind="baseline", leakage_reduction=0.33)
    band |= {"leakage_reduction_low": 0.09, "leakage_reduction_high": 0.54, "selectivity": None, "removal_low": None}
    text = said(row("heads-mean-5", leakage_reduction=reduction), band)
    assert f"Its leakage reduction, {reduction:.2f}, {words} the middle 90 % of random edits of its size (0.09" in text
    assert "random edits" not in said(row("heads-mean-20"), band)  # of another size


def test_random_edits_are_held_against_removal_where_it_was_measured_of_them():
    band = row("random-plane-if-unrelated-0.9", 0.0, kind="baseline", leakage_reduction=0.9, removal=0.1)
    band |= {"leakage_reduction_low": 0.8, "leakage_reduction_high": 0.95, "selectivity": None}
    band |= {"removal_low": 0.02, "removal_high": 0.2}
    text = said(row("angular-if-unrelated-0.9", leakage_reduction=0.3, removal=0.47), band)
    assert "Its removal, 0.47, lies above the middle 90 % of random edits of its size (0.02 to 0.20)." in text


@pytest.mark.parametrize(
    ("part", "fluency", "sentence"),
    [
        (0.9, 0.98, "By its interval, edit has R and T of at least 0.85 with a fluency of at least 0.97."),
        (0.86, 0.98, "By its values, not by its intervals, edit has R and T of at least 0.85"),
        (0.8, 0.98, "None that is told nothing has R and T of at least 0.85"),
        (0.9, 0.9, "None that is told nothing has R and T of at least 0.85"),
    ],
)
def test_what_is_hoped_for_is_reached_by_intervals_by_values_or_not(part, fluency, sentence):
    assert sentence in said(row("edit", part=part, fluency=fluency, fluency_low=fluency - 0.005))


def test_a_base_model_that_is_not_shown_to_leak_leaves_nothing_to_say():
    text = headline(pd.DataFrame([base(low=-0.01), row("edit"), TEXT]))
    assert text == (
        "The base model's topic-free leakage cannot be told from none here (valence shift 0.20 [-0.01, 0.30]), so the "
        "table says nothing about what takes it out."
    )
    reversed_ = base(low=-0.3) | {"topic_free_valence_shift": -0.2, "topic_free_valence_shift_high": -0.1}
    assert headline(pd.DataFrame([reversed_, row("edit"), TEXT])).startswith(
        "The base model's topic-free leakage runs against the injections here (valence shift -0.20 [-0.30, -0.10]), so"
    )
