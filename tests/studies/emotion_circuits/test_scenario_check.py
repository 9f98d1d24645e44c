"""``leakmech data check`` of scenarios: tables, problems with their lines, warnings, exit codes."""

from __future__ import annotations

from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.studies.emotion_circuits.check import check_scenarios, has_scenarios


def row(number, **changes):
    texts = {
        "positive": f"My friend {number} wins.",
        "neutral": f"Bus {number} comes.",
        "negative": f"Rat {number} bites.",
    }
    return {"id": str(number), "theme": "work", "scenario": f"I wait at stop {number}."} | texts | changes


def test_a_sound_file_has_tables_and_no_problem(jsonl_file):
    path = jsonl_file(row(1, split="fit"), row(2, theme="home", split="tune"), row(3, split="tune"))
    found = check_scenarios(path, estimator="vader")
    assert found.problems == ()
    assert found.warnings == (f"{path}: themes have from 1 to 2 scenarios",)
    themes, classes = found.tables()
    assert themes.rows[0][:3] == ("work", "2", "fit 1, tune 1")
    assert [own[0] for own in classes.rows] == ["positive", "neutral", "negative"]
    assert classes.rows[0][-1] == "100.0 %"  # "wins"


def test_the_command_says_which_line_names_a_feeling(jsonl_file):
    done = CliRunner().invoke(
        app, ["data", "check", str(jsonl_file(row(1), row(2, neutral="Bus 2 is sad."))), "--estimator", "vader"]
    )
    assert done.exit_code == 1
    assert "mine.jsonl:2: field 'neutral': names a feeling ('sad', sadness)" in done.stderr
    assert "Scenarios by theme" in done.stdout
    assert CliRunner().invoke(app, ["data", "check", str(jsonl_file(row(1))), "--estimator", "vader"]).exit_code == 0


def test_words_that_voice_a_feeling_are_a_warning(jsonl_file):
    found = check_scenarios(jsonl_file(row(1, positive="My friend laughs.")), estimator="vader")
    assert found.problems == ()
    assert "has words of the emotion lexicon: 'laughs' (happiness)" in found.warnings[0]


def test_samples_are_no_scenarios(jsonl_file, tmp_path):
    assert has_scenarios("sev")
    assert not has_scenarios("hexl")
    assert not has_scenarios(jsonl_file({"id": "a", "stem": "It is", "scenario": "x"}))
    (tmp_path / "empty.jsonl").write_text("")
    assert not has_scenarios(tmp_path / "empty.jsonl")
    assert check_scenarios(jsonl_file(row(1), row(1)), estimator="vader").problems[0].endswith("already used in line 1")
