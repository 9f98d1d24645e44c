"""The Pareto figure: what is drawn lies beside it, and a model that does not leak gives none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from leakmech.core.errors import FigureError
from leakmech.studies.mitigation.headline import headline
from leakmech.studies.mitigation.report import draw_mitigations, has_trade_off, removal_sections
from leakmech.studies.mitigation.tables import mitigations_table


@pytest.fixture
def frame():
    rows = [
        ("base", "base", "test", 0.0, 1.0),
        ("edit-1", "intervention", "tune", 0.7, 0.8),
        ("edit-2", "intervention", "tune", 0.9, 0.5),
        ("edit-1", "intervention", "test", 0.6, 0.9),
        ("told", "instruction", "test", 0.1, 1.0),
        ("oracle", "oracle", "test", 1.0, 0.0),
        ("random", "baseline", "test", 0.02, 0.97),
    ]
    found = pd.DataFrame(rows, columns=["name", "kind", "split", "leakage_reduction", "retention"])
    found["told"] = found["kind"].map({"oracle": "boundary"}).fillna("nothing")
    for name in ("leakage_reduction", "retention"):
        found[f"{name}_low"], found[f"{name}_high"] = found[name] - 0.1, found[name] + 0.1
    numbers = {"fluency": 1.0, "selectivity": 0.5, "auc_el": 0.6, "kl": np.nan, "perplexity_ratio": 1.0}
    return found.assign(**numbers, capability=0.8, speed_ratio=1.0)


def test_the_figure_has_what_it_draws_beside_it(frame, tmp_path):
    draw_mitigations(frame, tmp_path / "pareto")
    assert {file.name for file in tmp_path.iterdir()} == {"pareto.png", "pareto.pdf", "pareto.csv"}
    drawn = pd.read_csv(tmp_path / "pareto.csv")
    assert list(drawn["name"]) == ["edit-1", "edit-2", "edit-1", "told", "oracle", "random"]
    assert (tmp_path / "pareto.png").stat().st_size > 10_000


def test_a_base_model_that_does_not_leak_gives_no_figure(frame):
    assert has_trade_off(frame)
    assert not has_trade_off(frame.assign(leakage_reduction=np.nan))


def test_a_missing_column_is_named(frame, tmp_path):
    with pytest.raises(FigureError, match="split"):
        draw_mitigations(frame.drop(columns="split"))


def test_the_table_puts_bounds_and_baselines_last_and_dashes_where_nothing_applies(frame):
    table = mitigations_table(frame.loc[frame["split"] == "test"])
    assert [row[0] for row in table.rows] == ["base", "edit-1", "told", "oracle (oracle)", "random (baseline)"]
    kl = table.header.index("KL")
    assert {row[kl] for row in table.rows} == {"–"}


def test_rows_that_are_told_more_stand_after_those_told_nothing_and_are_in_no_headline(frame):
    more = pd.DataFrame([
        {"name": "cut", "kind": "rewrite", "told": "layout", "selectivity": 0.9, "not_applicable": "kl, capability"},
        {"name": "seer", "kind": "intervention", "told": "boundary", "selectivity": 1.0, "not_applicable": "kl"},
    ])  # fmt: skip
    tested = pd.concat([frame.loc[frame["split"] == "test"], more.assign(split="test", kl=0.0, capability=0.3)])
    table = mitigations_table(tested.assign(selectivity=tested["selectivity"].fillna(0.5)))
    names = ["base", "edit-1", "told", "cut", "seer", "oracle (oracle)", "random (baseline)"]
    assert [row[0] for row in table.rows] == names
    shown = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    told = ["–", "nothing", "nothing", "layout", "boundary", "boundary", "–"]
    assert [shown[name]["told"] for name in names] == told
    # What cannot act there has no side effect to show, whatever number is stored.
    assert [shown[name]["KL"] for name in ("cut", "seer", "edit-1")] == ["n/a", "n/a", "–"]
    assert [shown[name]["capability"] for name in ("cut", "seer", "edit-1")] == ["n/a", "0.30", "0.80"]
    assert "the most selective one, edit-1, takes out 60 %" in headline(tested)
    assert headline(tested[tested["told"] != "nothing"]) == (
        "Every mitigation here is told more than the text of the prompt."
    )


def test_what_knows_the_injection_is_drawn_as_an_oracle(frame, tmp_path):
    draw_mitigations(frame.assign(told=frame["told"].mask(frame["name"] == "edit-2", "boundary")), tmp_path / "pareto")
    drawn = pd.read_csv(tmp_path / "pareto.csv").set_index("name")["kind"]
    assert drawn["edit-2"] == "oracle"
    assert set(drawn["edit-1"]) == {"intervention"}


def test_random_draws_without_fluency_are_drawn(tmp_path):
    band = {"name": "random-heads-5", "kind": "baseline", "split": "test", "told": "nothing"}
    rows = [band | {"leakage_reduction": 0.1, "retention": 0.9, "fluency": None}]
    rows += [
        band
        | {"name": "heads-mean-5", "kind": "intervention"}
        | dict.fromkeys(("leakage_reduction", "retention", "fluency"), 0.5)
    ]
    key = draw_mitigations(pd.DataFrame(rows)).axes[1]
    assert {"random-heads-5", "heads-mean-5"} <= {text.get_text() for text in key.texts}


def test_marks_are_numbered_from_the_right_and_named_beside_the_plot_with_what_is_on_the_front_in_bold(frame):
    figure = draw_mitigations(frame, width="page", title="")
    plot, key = figure.axes
    assert [text.get_text() for text in plot.texts] == ["1", "2", "3", "4"]
    names = {text.get_text(): text.get_fontweight() for text in key.texts}
    assert {name: names[name] for name in ("oracle", "told", "edit-1", "random")} == {
        "oracle": "normal", "told": "bold", "edit-1": "bold", "random": "normal",
    }  # fmt: skip
    assert figure.get_size_inches()[0] == 6.75


def test_the_page_draws_removal_against_retention_and_says_what_each_is_told_and_whether_it_is_shown(frame):
    frame.loc[frame["name"] == "told", "leakage_reduction_low"] = -0.1
    plane, table = removal_sections(frame.loc[frame["split"] == "test"])
    marks = {mark.name: mark for mark in plane.marks}
    assert list(marks) == ["edit-1", "told", "oracle", "random"]
    assert (marks["edit-1"].x, marks["edit-1"].y) == (0.6, 0.9)
    assert marks["edit-1"].x_interval == pytest.approx((0.5, 0.7))
    assert marks["edit-1"].text == "told nothing; takes it out"
    assert marks["told"].text == "told nothing; not shown"
    assert marks["told"].is_hollow
    assert not marks["edit-1"].is_hollow
    assert ("told boundary", marks["oracle"].series) in plane.legend
    assert table.table.rows[0][:4] == ("edit-1", "nothing", "0.60 [0.50, 0.70]", "takes it out")
    assert table.is_open


def test_a_comparison_in_which_nothing_was_measured_has_the_table_alone(frame):
    (table,) = removal_sections(frame.loc[frame["split"] == "test"].assign(leakage_reduction=np.nan))
    assert table.heading == "What each takes out and keeps"
