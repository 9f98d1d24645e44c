"""Example generations on the terminal: the rule of choice, the four rows, marks, safety, errors."""

from __future__ import annotations

import io
import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.reports.examples import evenly_spaced, examples_table, mark, printable, sample_texts
from leakmech.studies.results import load_result

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}} [bold]\u2028&amp;"


def printed(run, *, width=80, **options):
    """What ``leakmech samples`` prints, with a console like its own."""
    console = Console(soft_wrap=True, highlight=False, width=width, file=io.StringIO())
    for renderable in examples_table(run, **options):
        console.print(renderable)
    return console.file.getvalue()


def row(text, condition):
    """The first line of a condition's row."""
    return next(line.split() for line in text.splitlines() if line.startswith(f" {condition}"))


def test_a_sample_has_its_stem_and_four_rows_with_injection_sentence_and_valence(run):
    text = printed(run, sample="s1", generation=2, width=160)
    assert "s1: The garden behind house 1 looks …" in text
    assert row(text, "control")[1:3] == ["–", "as"]
    assert " ".join(row(text, "positive")) == (
        "positive My 1 friends laughed happily. (after an echo) great and lovely, number 2. +0.82"
    )
    assert " ".join(row(text, "negative")) == "negative My 1 cats died and I cried. terrible and ugly, number 2. -0.53"
    conditions = [line.split()[0] for line in text.splitlines() if line.split()[:1] and line.startswith(" ")]
    assert [c for c in conditions if c in ("control", "positive", "neutral", "negative")] == [
        "control",
        "positive",
        "neutral",
        "negative",
    ]


def test_the_valence_is_that_of_the_scores(run):
    scores = load_result(run).scores.set_index(["prompt_id", "generation"])
    expected = scores.loc[("s5/negative", 1), "positive"] - scores.loc[("s5/negative", 1), "negative"]
    assert row(printed(run, sample="s5", generation=1, width=160), "negative")[-1] == f"{expected:+.2f}"


def test_the_default_choice_is_evenly_spaced_and_the_caption_says_so(run):
    text = " ".join(printed(run, number=4).split())
    assert "4 of 8 samples, evenly spaced in the data set's order; generation 0" in text
    assert [f"s{i}:" in text for i in range(1, 9)] == [False, True, False, True, False, True, False, False]


def test_a_number_above_the_number_of_samples_shows_them_all(run):
    assert printed(run, number=100).count("condition ") == 8


@given(st.integers(1, 5000), st.integers(1, 50))
def test_evenly_spaced_indices_are_distinct_in_range_and_regular(n, number):
    indices = evenly_spaced(n, number)
    assert len(indices) == min(n, number)
    assert all(0 <= index < n for index in indices)
    steps = {b - a for a, b in pairwise(indices)}
    assert all(step >= 1 for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1


def test_an_answer_that_only_repeats_the_prompt_and_an_empty_one_are_marked_and_have_no_valence(run):
    echo = row(printed(run, sample="s3", width=160), "positive")
    assert echo[-3:] == ["(echo", "only)", "–"]
    empty = row(printed(run, sample="s4", width=160), "positive")
    assert empty[-2:] == ["(empty)", "–"]


def test_marks_depend_on_what_the_policy_did_with_the_echo():
    assert mark({"first_sentence": "own words", "echo": False}, policy="raw") == ""
    assert mark({"first_sentence": "own words", "echo": True}, policy="paper") == "after an echo"
    assert mark({"first_sentence": "the prompt again", "echo": True}, policy="raw") == "echo"


def test_markup_in_texts_of_the_model_is_not_interpreted(run):
    text = printed(run, sample=HOSTILE, width=300)
    assert "</script><img src=x onerror=alert(1)> {{7*7}} [bold] &amp;" in text
    assert "\x1b" not in text


def test_control_characters_cannot_steer_the_terminal(run):
    shard = run / "generations" / "shard-000.jsonl"
    assert shard.exists()
    scores = load_result(run).scores
    scores.loc[scores["sample"] == "s1", "first_sentence"] = "\x1b[2J\x1b]0;owned\x07 red\u202etxet\nnext"
    scores.to_parquet(run / "scores.parquet")
    (run / "checksums.json").unlink()
    text = printed(run, sample="s1", width=160)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert "next" in text


@given(st.text())
def test_printable_text_is_one_line_that_can_be_encoded(text):
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    shown.encode()


def test_every_line_fits_80_columns(run):
    assert max(map(len, printed(run, number=8).splitlines())) <= 80
    assert printed(run, sample="s1").count("…") == 1  # behind the stem: nothing is cut


def test_stems_and_injections_are_read_back_from_the_prompts_of_the_run(run):
    texts = sample_texts(load_result(run))
    assert list(texts) == [*(f"s{number}" for number in range(1, 8)), HOSTILE]
    assert texts["s2"].stem == "The garden behind house 2 looks"
    assert dict(texts["s2"].injections) == {
        "positive": "My 2 friends laughed happily.",
        "neutral": "The 2 tram stops here.",
        "negative": "My 2 cats died and I cried.",
    }
    assert texts[HOSTILE].injections["positive"] == f"Yes {HOSTILE}."


def test_an_instruction_is_no_part_of_the_stem(run):
    path, summary_path = run / "prompts.jsonl", run / "summary.json"
    path.write_text(path.read_text().replace("Complete the sentence: ", "Complete the sentence. Be kind: to all: "))
    summary = json.loads(summary_path.read_text())
    summary_path.write_text(json.dumps(summary | {"instruction": "Be kind: to all."}))
    assert sample_texts(load_result(run))["s1"].stem == "The garden behind house 1 looks"


def test_an_unknown_sample_names_the_nearest(run):
    with pytest.raises(UsageError, match=r"has no sample 's11'; did you mean 's1'\?"):
        examples_table(run, sample="s11")
    with pytest.raises(UsageError, match="its samples are 's1' to "):
        examples_table(run, sample="entirely different")


@pytest.mark.parametrize("generation", [3, 5, -1])
def test_a_generation_out_of_range_is_refused_with_the_range(run, generation):
    # Control prompts do have generations 3 to 5: the noise floor's, which belong to no comparison.
    with pytest.raises(UsageError, match="has 3 a prompt, numbered 0 to 2"):
        examples_table(run, generation=generation)


def test_no_samples_at_all_is_no_request(run):
    with pytest.raises(UsageError, match="at least 1, found 0"):
        examples_table(run, number=0)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="is not a leakmech run"):
        examples_table(tmp_path)
