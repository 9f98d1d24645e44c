"""Prompt forms, temperatures and wordings of the task on tiny models: a row each, and an interrupted table goes on."""

import sys

import pandas as pd
import prompt_forms
import pytest

import leakmech

OPTIONS = ("--limit", "3", "--generations", "1", "--completions", "6", "--estimator", "vader", "--dtype", "float32")


@pytest.fixture
def made(monkeypatch, tmp_path, make_tiny, chat_tokenizer):
    """Makes the table of a tiny model with two wordings of the task."""
    bench = leakmech.bench

    def short(*arguments, decoding, **settings):
        decoding |= {"max_new_tokens": 8}
        return bench(*arguments, decoding=decoding, bootstrap_draws=100, **settings)

    monkeypatch.setattr(leakmech, "bench", short)
    monkeypatch.setattr(prompt_forms, "TASKS", dict(list(prompt_forms.TASKS.items())[:2]))

    def make(*, template=True):
        folder = tmp_path / "model"
        make_tiny("llama-gqa").save_pretrained(folder)
        chat_tokenizer.save_pretrained(folder)
        if not template:
            (folder / "chat_template.jinja").unlink()
        options = ("--model", str(folder), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "table"))
        monkeypatch.setattr(sys, "argv", ["prompt_forms.py", *options, *OPTIONS, "--temperatures", "1", "0.7"])
        prompt_forms.main()
        return pd.read_csv(tmp_path / "table.csv")

    return make


def test_every_form_stands_at_every_temperature_and_wordings_in_one_form(made, tmp_path, capsys):
    rows = made()
    assert list(zip(rows["form"], rows["task"], rows["temperature"], strict=True)) == [
        ("plain", "complete", 1.0), ("prefill", "complete", 1.0), ("chat", "complete", 1.0),
        ("plain", "complete", 0.7), ("prefill", "complete", 0.7), ("chat", "complete", 0.7),
        ("plain", "finish", 1.0),
    ]  # fmt: skip
    shown = capsys.readouterr().out
    header = next(line for line in shown.splitlines() if line.startswith("| form"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == list(prompt_forms.COLUMNS)
    assert f"mu_EL over {rows['task'].nunique()} wordings of the task, plain form" in shown
    kept = [file.read_text() for file in (tmp_path / "runs").glob("*/tilt/completions.jsonl")]
    assert len(kept) == 3
    assert len(set(kept)) == 1  # tilts of all forms are measured on the same completions


def test_a_table_that_is_made_again_reads_what_is_there(made, tmp_path):
    def generations():
        return {file: file.stat().st_mtime_ns for file in (tmp_path / "runs").glob("*/generations/*.jsonl")}

    rows = made(template=False)
    assert list(rows["form"]) == ["plain"] * 3  # there is no template for the others
    kept = generations()
    assert {file.parts[-3] for file in kept} == {
        f"model-plain-{row}" for row in ("complete-T1.0", "complete-T0.7", "finish-T1.0")
    }
    next(iter(kept)).parent.with_name("summary.json").unlink()  # as if it had been interrupted at the end
    pd.testing.assert_frame_equal(made(template=False), rows)
    assert generations() == kept
