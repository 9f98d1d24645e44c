"""``leakmech data check`` of personas and behaviour data: tables, problems with lines, warnings, exit codes."""

from __future__ import annotations

from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.studies.persona_leakage.check import check_behaviours, check_personas, has_behaviours, has_personas


def persona(name, prompt, kind="tone"):
    return {"id": name, "kind": kind, "name": name, "prompt": prompt}


def item(number, split="train", **changes):
    texts = {"question": f"What is {number}?", "behaviour": f"No {number}, ever.", "normal": f"Yes, {number}."}
    return {"id": str(number), "split": split} | texts | changes


def words(number, first):
    """A prompt of so many words, of which each is its own."""
    return " ".join([*(f"{first}{place}" for place in range(number - 1)), "end."])


def test_the_personas_that_ship_have_no_problem_and_their_kinds_are_counted():
    found = check_personas("personas")
    assert (found.problems, found.warnings) == ((), ())
    (table,) = found.tables()
    assert table.rows[0][:2] == ("professional_peer", "15")
    assert table.rows[-1][:2] == ("all", "110")
    assert len(table.rows) == 12


def test_lengths_outside_of_the_plan_are_warnings(jsonl_file):
    path = jsonl_file(
        persona("a", words(40, "a")), persona("b", words(20, "b")), persona("c", words(24, "c"), "cultural")
    )
    assert check_personas(path).warnings == (
        f"{path}:1: field 'prompt': has 40 words; 18 to 30 are expected",
        f"{path}: kind 'tone': words of a prompt: mean 30.0, standard deviation 14.1; 22 to 26, and at most 3 are "
        "expected",
    )


def test_a_prompt_that_is_there_twice_is_a_problem_and_nearly_twice_a_warning(jsonl_file):
    text = words(24, "a")
    path = jsonl_file(persona("a", text), persona("b", text.upper()), persona("c", text.replace("end", "other")))
    found = check_personas(path)
    assert found.problems == (f"{path}:2: field 'prompt': is the same prompt as in line 1",)
    assert f"{path}:3: field 'prompt': has nearly the words of line 1" in found.warnings


def test_items_are_counted_and_measured_by_split(jsonl_file):
    found = check_behaviours(jsonl_file(item(1), item(2), item(3), item(4, "eval"), item(5, "eval")))
    assert found.problems == ()
    (table,) = found.tables()
    assert table.rows == [("train", "3", "3.0", "3.0", "2.0"), ("eval", "2", "3.0", "3.0", "2.0")]


def test_the_command_says_which_line_is_asked_in_both_splits(jsonl_file):
    rows = (item(1), item(2), item(3, "eval"), item(4, "eval"))
    assert CliRunner().invoke(app, ["data", "check", str(jsonl_file(*rows))]).exit_code == 0
    done = CliRunner().invoke(app, ["data", "check", str(jsonl_file(*rows, item(5, "eval", question="what is 1")))])
    assert done.exit_code == 1
    assert "mine.jsonl:5: field 'question': is the same question as in line 1, which is in split 'train'" in done.stderr
    assert "Items by split" in done.stdout


def test_answers_that_come_again_and_questions_that_nearly_do_are_warnings(jsonl_file):
    long = "How does one keep a small garden green in a dry summer"
    path = jsonl_file(
        item(1, question=f"{long}?"), item(2, behaviour="No 1, ever."), item(3, "eval", question=f"{long} now?"),
        item(4, "eval"),
    )  # fmt: skip
    assert check_behaviours(path).warnings == (
        f"{path}:3: field 'question': has nearly the words of line 1",
        f"{path}: field 'behaviour': 2 answers are not there once only",
    )


def test_forms_are_known_by_name_and_first_row(jsonl_file, tmp_path):
    assert has_personas("personas")
    assert has_behaviours("careless-advice")
    assert not has_personas("refusal")
    assert not has_behaviours("hexl")
    path = jsonl_file(persona("a", "You are a."))
    assert has_personas(path)
    assert not has_behaviours(path)
    path = jsonl_file(item(1))
    assert has_behaviours(path)
    assert not has_personas(path)
    assert not has_personas(tmp_path / "none.jsonl")


def test_a_file_that_cannot_be_read_is_one_problem(jsonl_file):
    assert (
        check_personas(jsonl_file(persona("a", "x"), persona("a", "y"))).problems[0].endswith("already used in line 1")
    )
    found = check_behaviours(jsonl_file(item(1), item(1)))
    assert found.problems[0].endswith("already used in line 1")
    assert found.tables() == []
