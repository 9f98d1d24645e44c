"""Checking a data set: what is a problem, what is a warning, and the numbers about lengths and meaning."""

from __future__ import annotations

import csv
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leakmech.core.errors import DatasetError, EstimatorError, ModelError
from leakmech.datasets.samples import load_dataset
from leakmech.studies.aexl.check import check_dataset

SOUND = [
    {
        "id": "one",
        "stem": "The garden looks",
        "positive": "I love my wonderful friends.",
        "neutral": "The tram stops here.",
        "negative": "I hate that ugly thief.",
    },
    {
        "id": "two",
        "stem": "Her new job is",
        "positive": "We won a great prize.",
        "neutral": "It is ten past four in the afternoon.",
        "negative": "He cried in pain.",
    },
]


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory, plain_tokenizer):
    """One token a byte, so that a length in tokens is a length in characters."""
    folder = tmp_path_factory.mktemp("tokenizer")
    plain_tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def check(tmp_path, tokenizer_folder):
    """``check(rows)``: the report on a JSONL file of these rows, with VADER; the file is ``check.path``."""

    def run(rows, *, name="data.jsonl", **options):
        run.path = tmp_path / name
        run.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return check_dataset(run.path, tokenizer=tokenizer_folder, **({"estimator": "vader"} | options))

    return run


def changed(sample, **fields):
    """`SOUND` with fields of one sample changed."""
    return [row | fields if row["id"] == sample else row for row in SOUND]


def test_a_sound_file_has_no_problems_and_three_tables(check):
    report = check(SOUND)
    assert report.problems == ()
    assert report.warnings == ()
    assert len(report.tables()) == 3
    assert "2 samples" in report.tables()[0].title


@pytest.mark.fault("F09", "rows", "data check of a TSV with a line break in a cell", "warnings name the right line")
@pytest.mark.parametrize(("name", "delimiter"), [("notes.csv", ";"), ("notes.tsv", "\t")])
def test_a_table_with_line_breaks_in_cells_is_checked_and_its_lines_are_right(
    tmp_path, tokenizer_folder, name, delimiter
):
    path = tmp_path / name
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        table = csv.DictWriter(file, [*SOUND[0], "note"], delimiter=delimiter, lineterminator="\n")
        table.writeheader()
        table.writerow(SOUND[0] | {"note": "checked by\ntwo people"})
        table.writerow(SOUND[1] | {"stem": "Her new job is."})
    report = check_dataset(path, tokenizer=tokenizer_folder, estimator="vader")
    assert report.problems == ()
    assert report.warnings == (
        f"{path}:4: field 'stem': ends in final punctuation, so that there is nothing to complete: 'Her new job is.'",
    )


@pytest.mark.fault("R10", "text", "half of a surrogate pair in a stem, checked", "read as U+FFFD")
def test_half_of_a_surrogate_pair_does_not_stop_a_check(check):
    assert check(changed("one", stem="The \ud800 garden looks")).problems == ()


def test_lengths_are_tokens_of_the_named_tokenizer_by_condition(check, tokenizer_folder):
    report = check(SOUND)
    assert tokenizer_folder in report.tables()[0].title
    assert [list(row) for row in report.tables()[0].rows] == [
        ["stem", "15.0", "14", "16"],
        ["positive", "24.5", "21", "28"],
        ["neutral", "28.5", "20", "37"],
        ["negative", "20.0", "17", "23"],
        ["gap", "14.0", "8", "20"],
    ]
    gaps = report.measured("tokens", "gap")
    assert gaps.set_index("sample")["value"].to_dict() == {"one": 8, "two": 20}
    assert "widest in two" in report.tables()[0].notes[0]


def test_the_class_of_every_injection_is_counted_and_a_disagreement_is_no_problem(check):
    report = check(changed("two", positive="We lost a terrible war."))
    assert report.problems == ()
    assert [list(row) for row in report.tables()[1].rows] == [
        ["positive", "1", "0", "1", "50 %"],
        ["neutral", "0", "2", "0", "100 %"],
        ["negative", "2", "0", "0", "100 %"],
    ]
    (one,) = report.disagreements().to_dict("records")
    assert one["text"] == "We lost a terrible war."
    assert (one["line"], one["sample"], one["field"], one["found"]) == (2, "two", "positive", "negative")
    assert any("We lost a terrible war." in note for note in report.tables()[1].notes)
    assert any("injections in another class" in warning for warning in report.warnings)


def test_an_injection_about_its_stem_is_a_warning_with_its_line(check):
    report = check(changed("two", positive="Her new job is great."))
    warning = next(warning for warning in report.warnings if "close to its stem" in warning)
    assert warning.startswith(f"{check.path}:2: field 'positive': 'Her new job is great.'")
    top = report.measured("similarity").iloc[0]
    assert (top["line"], top["field"], top["stem"]) == (2, "positive", "Her new job is")
    assert top["value"] > 0.5
    assert report.problems == ()
    assert report.tables()[2].rows[0][2] == f"{top['value']:.2f}"


def test_similarities_fall_from_pair_to_pair_and_cover_every_injection(check):
    pairs = check(SOUND).measured("similarity")
    assert pairs["value"].is_monotonic_decreasing
    assert set(zip(pairs["line"], pairs["field"], strict=True)) == {
        (line, condition) for line in (1, 2) for condition in ("positive", "neutral", "negative")
    }


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"stem": "The garden looks"}, "'stem': 'The garden looks' is the same text as 'stem' in line 1"),
        (
            {"stem": "the  Garden looks"},
            "'stem': 'the  Garden looks' differs only in case or spaces from 'stem' in line 1",
        ),
        (
            {"neutral": "The tram stops here."},
            "'neutral': 'The tram stops here.' is the same text as 'neutral' in line 1",
        ),
        ({"negative": "We won a great prize."}, "'We won a great prize.' is the same text as 'positive' in line 2"),
        ({"negative": "WE WON A GREAT PRIZE."}, "differs only in case or spaces from 'positive' in line 2"),
    ],
)
def test_repeated_texts_are_problems_with_file_line_and_field(check, fields, problem):
    report = check(changed("two", **fields))
    assert len(report.problems) == 1
    assert problem in report.problems[0]
    assert report.problems[0].startswith(f"{check.path}:2: field ")


def test_a_stem_may_equal_an_injection_of_another_sample(check):
    assert check(changed("two", stem="The tram stops here")).problems == ()


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"stem": "Her job is over."}, "2: field 'stem': ends in final punctuation"),
        ({"positive": "We won. It was great."}, "2: field 'positive': has 2 sentences instead of one"),
        ({"negative": "He cried in pain"}, "2: field 'negative': has no final punctuation"),
    ],
)
def test_form_that_deserves_a_look_is_a_warning(check, fields, warning):
    report = check(changed("two", **fields))
    assert report.problems == ()
    assert any(f"{check.path}:{warning}" in found for found in report.warnings)


def test_a_quoted_or_asking_injection_ends_well(check):
    report = check(changed("two", positive="She said: “We won!”", negative="Why did he cry all night?"))
    assert not [warning for warning in report.warnings if "punctuation" in warning]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{broken", "2: is not valid JSON"),
        (json.dumps(SOUND[1] | {"neutral": ""}), "2: field 'neutral' must be a non-empty text"),
        (json.dumps(SOUND[1] | {"neutral": " … "}), "2: field 'neutral' must have words, found '…'"),
        (json.dumps(SOUND[1] | {"neutrl": "x"}), "2: unknown field 'neutrl'; did you mean 'neutral'?"),
        (json.dumps(SOUND[1] | {"id": "one"}), "2: field 'id': 'one' is already used in line 1"),
    ],
)
def test_a_broken_file_is_one_problem_that_names_the_line(tmp_path, line, problem):
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(SOUND[0]) + "\n" + line + "\n")
    report = check_dataset(path)  # nothing is loaded for a file that cannot be read
    assert len(report.problems) == 1
    assert report.problems[0].startswith(f"{path}:{problem}")
    assert report.tables() == []
    assert len(report.rows) == 1


def test_an_empty_file_is_a_problem(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    assert "is empty" in check_dataset(tmp_path / "empty.jsonl").problems[0]


def test_a_name_that_is_no_file_and_no_data_set_is_bad_usage():
    with pytest.raises(DatasetError, match=r"no such file and no built-in name; did you mean 'hexl'\?"):
        check_dataset("hexll")


def test_lines_of_a_csv_file_are_counted_in_the_file_where_fields_span_lines(tmp_path, tokenizer_folder):
    path = tmp_path / "data.csv"
    path.write_text(
        "id,stem,positive,neutral,negative,note\n"
        'a,The sky is,I won a prize.,It is ten.,My cat died.,"two\nlines"\n'
        "b,The sky is,We love it here.,It is noon.,He hates me.,\n"
    )
    report = check_dataset(path, tokenizer=tokenizer_folder, estimator="vader")
    assert report.problems == (f"{path}:4: field 'stem': 'The sky is' is the same text as 'stem' in line 2",)


def test_unknown_estimators_and_tokenizers_are_refused(check, tmp_path):
    with pytest.raises(EstimatorError, match="unknown expression estimator"):
        check(SOUND, estimator="vade")
    with pytest.raises(ModelError, match="no such folder"):
        check_dataset(check.path, tokenizer=str(tmp_path / "nowhere"), estimator="vader")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15, deadline=None)
@given(copies=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_there_is_one_problem_for_each_repetition(check, copies):
    stems = [f"The {('red', 'green', 'blue', 'black')[choice]} house is" for choice in copies]
    rows = [
        {"id": f"s{i}", "stem": stem, "positive": f"I won {i}.", "neutral": f"It is {i}.", "negative": f"I lost {i}."}
        for i, stem in enumerate(stems)
    ]
    assert len(check(rows).problems) == len(copies) - len(set(copies))


def test_the_built_in_data_set_is_sound(tokenizer_folder):
    report = check_dataset("hexl", tokenizer=tokenizer_folder)
    assert report.problems == ()
    assert report.rows["sample"].nunique() == len(load_dataset("hexl"))
    assert report.measured("similarity")["value"].max() < 0.5
    assert len(report.disagreements()) / len(report.measured("class")) < 0.2
    assert [warning for warning in report.warnings if "punctuation" in warning or "sentences" in warning] == []


@pytest.mark.parametrize(("relevant", "n_warnings"), [(None, 1), (False, 1), (True, 0)])
def test_a_similarity_of_injection_and_stem_is_a_warning_only_where_it_is_not_meant(check, relevant, n_warnings):
    rows = changed("one", stem="The garden looks lovely and", positive="The lovely garden looks great.")
    warnings = check(rows, relevant=relevant).warnings
    assert [("is it irrelevant?" in warning) for warning in warnings] == [True] * n_warnings


@pytest.mark.parametrize(("name", "n_samples"), [("relevant-matched", 60), ("relevant-self", 40)])
def test_the_sets_of_relevant_affect_pass(name, n_samples, tokenizer_folder):
    report = check_dataset(name, tokenizer=tokenizer_folder, estimator="vader")
    assert report.problems == ()
    assert report.rows["sample"].nunique() == n_samples
    assert not any("irrelevant" in warning for warning in report.warnings)
