"""Tables of a run: which number stands where, how it is written, and that no drawing loses or interprets a text."""

from __future__ import annotations

import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leakmech.reports.tables import (
    Table,
    answers_table,
    cleaning_table,
    leakage_table,
    paper_table,
    summary_tables,
)

HEADER = ["condition", "mu_EL", "all pairs", "contrast", "W_EL p", "mu_L", "topic", "echo", "empty"]


def condition(value, **changes):
    return {
        "mu_el": value,
        "mu_el_ci": [value - 0.05, value + 0.05],
        "auc_el": value + 0.01,
        "auc_el_ci": [value - 0.04, value + 0.06],
        "mu_el_mean": value + 0.02,
        "contrast": 0.3,
        "contrast_ci": [0.2, 0.4],
        "mu_l": 0.9,
        "mu_l_ci": [0.85, 0.95],
        "w_el": 0.02,
        "echo_rate": 0.931,
        "empty_rate": 0.004,
    } | changes


@pytest.fixture
def summary():
    overall = condition(0.7, w_el=3.4e-12, contrast_p_swap=1e-4)
    for rate in ("echo_rate", "empty_rate"):
        del overall[rate]
    policies = {
        name: {"mu_el": 0.7, "auc_el": 0.71, "mu_el_mean": 0.72, "w_el": 3.4e-12, "echo_rate": echo, "empty_rate": 0.25}
        for name, echo in (("echo-free", 0.125), ("paper", 0.5), ("raw", 1.0))
    }
    return {
        "model": "some/model",
        "dataset": "hexl",
        "n_samples": 60,
        "generations": 10,
        "seed": 3,
        "cleaning": "echo-free",
        "by_cleaning": policies,
        "conditions": {"positive": condition(0.65), "negative": condition(0.75), "neutral": condition(0.55)},
        "overall": overall
        | {
            "noise_floor": 0.5,
            "noise_floor_ci": [0.48, 0.52],
            "noise_floor_mu_el": 0.49,
            "noise_floor_mu_el_ci": [0.47, 0.51],
            "valence_shift": 0.65,
            "valence_shift_ci": [0.57, 0.72],
            "valence_d_z": 2.3,
            "asymmetry": -0.07,
            "asymmetry_ci": [-0.17, 0.03],
            "context_shift": 0.0,
            "context_shift_ci": None,
        },
    }


def drawn(table, width):
    """What the command line prints."""
    console = Console(soft_wrap=True, highlight=False, width=width, file=io.StringIO())
    console.print(table.to_rich())
    return console.file.getvalue()


def cells(table, name):
    row = next(row for row in table.rows if row[0] == name)
    return dict(zip([column.partition(" [")[0] for column in table.header], row, strict=True))


def test_the_main_table_has_a_row_for_each_condition_overall_and_the_noise_floor(summary):
    table = leakage_table(summary)
    assert [row[0] for row in table.rows] == ["positive", "negative", "neutral", "overall", "noise floor"]
    assert [name.partition(" [")[0] for name in table.header] == HEADER
    assert "some/model on hexl (60 samples x 4 prompts x 10 generations, seed 3)" in table.title


def test_every_number_of_a_condition_stands_in_its_column_with_its_interval(summary):
    assert cells(leakage_table(summary), "negative") == {
        "condition": "negative",
        "mu_EL": "0.75 [0.70, 0.80]",
        "all pairs": "0.76 [0.71, 0.81]",
        "contrast": "+0.30",
        "W_EL p": "0.02",
        "mu_L": "0.90 [0.85, 0.95]",
        "topic": "–",
        "echo": "93.1 %",
        "empty": "0.4 %",
    }


def test_overall_has_the_rates_of_the_headline_policy(summary):
    assert cells(leakage_table(summary), "overall")["echo"] == "12.5 %"
    summary["cleaning"] = "paper"
    assert cells(leakage_table(summary), "overall")["echo"] == "50.0 %"
    assert cells(leakage_table(summary), "overall")["mu_EL"] == "0.70 [0.65, 0.75]"


def test_the_noise_floor_has_both_pairings_and_no_test(summary):
    floor = cells(leakage_table(summary), "noise floor")
    assert floor["all pairs"] == "0.50 [0.48, 0.52]"
    assert floor["mu_EL"].startswith("0.49")
    assert floor["W_EL p"] == floor["mu_L"] == floor["echo"] == "–"


def test_a_run_without_a_noise_floor_has_no_such_row(summary):
    summary["overall"]["noise_floor"] = None
    assert "noise floor" not in [row[0] for row in leakage_table(summary).rows]


def test_shifts_are_signed_and_stand_under_the_table(summary):
    notes = " ".join(leakage_table(summary).notes)
    assert "valence shift +0.65 [+0.57, +0.72]" in notes
    assert "d_z 2.30" in notes
    assert "asymmetry -0.07 [-0.17, +0.03]" in notes
    assert re.search(r"context shift \+0\.00(?! \[)", notes)


def test_contrast_stands_in_its_column_and_with_its_intervals_below(summary):
    whole = {"auc_el": 0.66, "auc_el_ci": [0.6, 0.72], "contrast": 0.25, "contrast_ci": [0.15, 0.35]}
    table = leakage_table(summary | {"whole": whole})
    assert cells(table, "overall")["contrast"] == "+0.30"
    assert cells(table, "stem + answer")["contrast"] == "+0.25"
    assert cells(table, "stem + answer")["all pairs"] == "0.66 [0.60, 0.72]"
    assert cells(table, "noise floor")["contrast"] == "–"
    assert "overall +0.30 [+0.20, +0.40], p 1e-4; stem + answer +0.25 [+0.15, +0.35]" in table.notes[1]


def test_a_run_without_contrast_says_how_to_get_it(summary):
    for own in (summary["overall"], *summary["conditions"].values()):
        own.pop("contrast")
    table = leakage_table(summary)
    assert {row[3] for row in table.rows} == {"–"}
    assert "contrast: is not in runs of older versions; leakmech score RUN makes one that has it" in table.notes


def test_the_main_table_of_a_real_run_fits_into_120_columns(run):
    summary = json.loads((run / "summary.json").read_text())
    lines = drawn(leakage_table(summary), 120).splitlines()
    assert max(map(len, lines)) <= 120
    first = [line.split()[0] for line in lines if line.split()]
    start = first.index("positive")  # one line a row: no cell is folded
    rows = ["positive", "negative", "neutral", "overall", "stem", "noise", "mu_EL:"]
    assert first[start : start + 7] == rows


def test_what_could_not_be_computed_is_a_dash(summary):
    missing = condition(0.5, mu_el=None, mu_el_ci=None, w_el=None, mu_l=None, mu_l_ci=None)
    summary["conditions"]["positive"] = missing
    row = cells(leakage_table(summary), "positive")
    assert row["mu_EL"] == row["W_EL p"] == row["mu_L"] == "–"
    assert row["all pairs"] == "0.51 [0.46, 0.56]"


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (1.0, "1"),
        (0.5, "0.5"),
        (0.0456, "0.046"),
        (0.001, "0.001"),
        (4e-4, "4e-4"),
        (3.4e-12, "3e-12"),
        (1e-150, "1e-150"),
    ],
)
def test_p_values_are_short(summary, p, text):
    summary["conditions"]["positive"]["w_el"] = p
    assert cells(leakage_table(summary), "positive")["W_EL p"] == text


def test_the_cleaning_table_has_every_policy_and_names_the_headline(summary):
    table = cleaning_table(summary)
    assert list(table.header) == ["cleaning", "mu_EL", "all pairs", "mean", "W_EL p", "echo", "empty"]
    assert [list(row) for row in table.rows] == [
        ["echo-free (headline)", "0.70", "0.71", "0.72", "3e-12", "12.5 %", "25.0 %"],
        ["paper", "0.70", "0.71", "0.72", "3e-12", "50.0 %", "25.0 %"],
        ["raw", "0.70", "0.71", "0.72", "3e-12", "100.0 %", "25.0 %"],
    ]


def test_the_summary_of_a_real_run_has_all_that_the_tables_need(run):
    summary = json.loads((run / "summary.json").read_text())
    markdown = "\n\n".join(table.to_markdown() for table in summary_tables(summary)) + "\n"
    assert "| positive | 0." in markdown
    assert "| echo-free (headline) | 0." in markdown
    assert f"valence shift {summary['overall']['valence_shift']:+.2f}" in markdown


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"])), min_size=2, max_size=2))
def test_a_markdown_row_has_as_many_cells_as_the_header_whatever_the_texts(texts):
    lines = Table("t", ("a", "b"), [texts]).to_markdown().split("\n")
    row = lines[4]
    assert len(re.findall(r"(?<!\\)\|", row)) == 3


def test_brackets_in_names_are_text_on_the_terminal_not_markup():
    table = Table("runs/[bold]x[/bold]", ("a [red]", "b"), [("[/]", "[link=x]y")], notes=["[i]note"])
    text = drawn(table, 100)
    for part in ("runs/[bold]x[/bold]", "a [red]", "[/]", "[link=x]y", "[i]note"):
        assert part in text


def test_a_title_and_notes_that_are_longer_than_their_table_stay_on_one_line():
    title, note = "hexl-frozen: 240 samples, lengths in tokens of some/model", "gap: longest minus shortest injection"
    lines = drawn(Table(title, ("text", "mean"), [("stem", "3")], notes=[note]), 80).splitlines()
    assert lines[0].rstrip() == title
    assert lines[-1].rstrip() == note


@pytest.mark.parametrize("width", [80, 160])
def test_a_terminal_shows_whole_cells_and_names_the_columns_that_do_not_fit(summary, width):
    table = leakage_table(summary)
    text = drawn(table, width)
    left_out = re.findall(r"left out, for want of width: (.*)", text)
    names = left_out[0].strip().split(", ") if left_out else []
    kept = len(table.header) - len(names)
    assert names == [name.partition(" [")[0] for name in table.header[kept:]]
    assert (width == 160) == (not names)
    assert all(cell in text for row in table.rows for cell in row[:kept])


FREE = {
    "auc_el": 0.61,
    "auc_el_ci": [0.55, 0.67],
    "valence_shift": 0.2,
    "valence_shift_ci": [0.1, 0.3],
    "d_z": 0.5,
    "d_z_ci": [0.2, 0.8],
    "n": 90,
}


class TestTopic:
    def told(self, summary):
        """`summary` of a run whose answers are about the injection in a quarter of the cases."""
        overall = summary["overall"] | {"topic_rate": 0.25, "topic_rate_ci": [0.2, 0.3], "topic_free": FREE}
        words = {"topic_rate": 0.125, "topic_rate_ci": [0.1, 0.2], "topic_free": FREE | {"auc_el": 0.64}}
        curve = [{"share": share, "topic_rate": 5 * share, **FREE} for share in (0.02, 0.05)]
        conditions = {name: own | {"n_scored": 60} for name, own in summary["conditions"].items()}
        topic = {"share": 0.05, "by_words": words, "curve": curve}
        return summary | {"overall": overall, "conditions": conditions, "topic": topic}

    def test_topic_free_leakage_has_a_row_and_the_rate_a_column(self, summary):
        table = leakage_table(self.told(summary))
        assert cells(table, "overall")["topic"] == "25.0 %"
        assert cells(table, "topic-free")["all pairs"] == "0.61 [0.55, 0.67]"
        assert "(n 90): valence shift +0.20 [+0.10, +0.30], d_z 0.50" in table.notes[-2]
        assert "12.5 % that have a word of the injection instead: all pairs 0.64 [0.55, 0.67]" in table.notes[-2]

    def test_one_line_says_how_much_hangs_on_the_threshold(self, summary):
        note = leakage_table(self.told(summary)).notes[-1]
        assert note == "topic-free all pairs where the nearest 2, 5 % count as about the injection: 0.61, 0.61"

    def test_a_table_has_every_rule_beside_all_answers(self, summary):
        table = answers_table(self.told(summary) | {"whole": {"auc_el": 0.66, "contrast": 0.25}})
        names = ["all", "outside 2 %", "outside 5 % (headline)", "no shared word", "stem + answer"]
        assert [row[0] for row in table.rows] == names
        found = cells(table, "outside 5 % (headline)")
        assert (found["n"], found["about the injection"]) == ("90", "25.0 %")
        assert found["valence shift"] == "+0.20 [+0.10, +0.30]"
        assert cells(table, "no shared word")["all pairs"] == "0.64 [0.55, 0.67]"
        assert cells(table, "all")["n"] == cells(table, "stem + answer")["n"] == "120"
        assert answers_table(summary) is None

    def test_the_table_of_answers_says_why_topic_is_not_told(self, summary):
        conditions = {name: own | {"n_scored": 60} for name, own in summary["conditions"].items()}
        table = answers_table(summary | {"conditions": conditions, "topic": {"reason": "few"}, "whole": {}})
        assert [row[0] for row in table.rows] == ["all", "stem + answer"]
        assert table.notes[-1] == "topic: not told (few)"

    def test_the_reason_stands_where_topic_is_not_told(self, summary):
        table = leakage_table(summary | {"topic": {"reason": "made has 8 different injections"}})
        assert table.notes[-1] == "topic: not told (made has 8 different injections)"
        assert cells(table, "overall")["topic"] == "–"

    def test_a_run_of_an_older_version_says_nothing_of_it(self, summary):
        assert not any("topic" in note for note in leakage_table(summary).notes)


def test_both_readings_of_the_paper_stand_in_one_table_with_their_n(summary):
    assert paper_table(summary) is None  # a run of a version that did not count so
    one = {"n_draws": 10, "mu_el": 0.7, "mu_el_ci": [0.62, 0.78], "mu_el_range": [0.66, 0.75]}
    one |= {"w_el_median": 3e-7, "w_el_range": [2e-9, 0.004]}
    means = {"mu_el": 0.8, "mu_el_ci": None, "w_el": 2e-12}
    semantic = {"mu_l": 0.81, "mu_l_ci": [0.7, 0.9], "mu_l_charged": 0.9, "mu_l_charged_ci": None}
    table = paper_table(summary | {"paper": {"n_verdicts": 120, "one_generation": one, "means": means, **semantic}})
    assert list(map(list, table.rows)) == [
        ["one generation a prompt (10 draws)", "0.70 [0.62, 0.78]", "0.66 to 0.75", "3e-7", "2e-9 to 0.004"],
        ["means of 10 generations", "0.80", "–", "2e-12", "–"],
    ]
    assert "N = 120 verdicts" in table.notes[0]
    assert table.notes[1] == "mu_L of all three injections 0.81 [0.70, 0.90], of the charged ones 0.90."
