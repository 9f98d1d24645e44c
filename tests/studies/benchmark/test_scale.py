"""Runs of many prompts: what is finished is only read, work is linear, and little is in memory at once."""

from __future__ import annotations

import json
import time

import pandas as pd
import pytest

import leakmech
from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import ShardIndex, append_jsonl, write_parquet_parts
from leakmech.datasets.samples import CONDITIONS, PromptSet, Sample
from leakmech.prompts import table as table_module
from leakmech.prompts.render import Prompting, Renderer
from leakmech.prompts.table import PromptTable
from leakmech.scoring.leakage import leakage_statistics, main_statistics
from leakmech.scoring.records import echo_rates, leakage_scores, needed_columns, whole_scores
from leakmech.scoring.sentence import CLEANINGS, PromptText, PromptTexts
from leakmech.studies.benchmark import measurement, rescoring, run
from leakmech.studies.benchmark.external import read_generations

SETTINGS = {"dtype": "float32", "generations": 2, "estimator": "vader", "bootstrap_draws": 100, "limit": 3}


@pytest.fixture
def finished(tmp_path, save_tiny):
    """A folder with a tiny model, and a finished run of it."""
    folder = save_tiny("llama-gqa")
    decoding = {"max_new_tokens": 4}
    return folder, leakmech.bench(str(folder), out=tmp_path / "run", decoding=decoding, **SETTINGS)


def again(finished, **changed):
    folder, result = finished
    return leakmech.bench(str(folder), out=result.path, decoding={"max_new_tokens": 4}, **(SETTINGS | changed))


@pytest.mark.fault("R28", "scale", "a finished run is opened again", "neither model nor estimators are loaded")
def test_a_finished_run_is_opened_without_what_made_it(finished, monkeypatch):
    for name in ("load_configured", "arranged_samples"):
        monkeypatch.setattr(run, name, lambda *_, **__: pytest.fail("loaded"))
    assert again(finished).summary == finished[1].summary


@pytest.mark.fault("X321", "runs", "a finished run is opened after the model's folder has changed", "refused by hashes")
def test_a_finished_run_of_a_model_that_has_changed_is_refused(finished, save_tiny):
    other = save_tiny("llama-gqa", seed=1)
    for file in other.iterdir():
        file.replace(finished[0] / file.name)
    with pytest.raises(RunDirectoryError, match="holds a run with other weights"):
        again(finished)


def test_a_finished_run_whose_files_only_look_newer_is_opened(finished):
    for file in finished[0].iterdir():
        file.touch()
    assert again(finished).summary == finished[1].summary


def test_scores_of_a_file_are_opened_without_estimators_until_the_file_changes(tmp_path, finished, monkeypatch):
    rows = (json.loads(line) for line in finished[1].files.shard.read_text().splitlines())
    rows = [{key: row[key] for key in ("sample", "condition", "generation", "text")} for row in rows]
    file = tmp_path / "g.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"out": tmp_path / "scored", "estimator": "vader", "bootstrap_draws": 100, "limit": 3}
    found = leakmech.score(file, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(rescoring, "arranged_samples", lambda *_: pytest.fail("loaded"))
        assert leakmech.score(file, **settings).summary == found.summary
    file.write_text("".join(json.dumps(row | {"text": "Another."}) + "\n" for row in rows))
    with pytest.raises(RunDirectoryError, match="holds a run with other generations"):
        leakmech.score(file, **settings)
    with pytest.raises(RunDirectoryError, match="holds a run with other generations"):
        leakmech.score(file, columns={"text": "condition"}, **settings)


def test_scores_do_not_depend_on_how_many_are_written_at_once(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(measurement, "_ROWS_AT_ONCE", 1)
    monkeypatch.setattr("leakmech.scoring.records._SAMPLES_PER_CHUNK", 1)
    found = leakmech.score(finished[1].path, out=tmp_path / "again", bootstrap_draws=100)
    assert found.summary["overall"] == finished[1].summary["overall"]
    columns = ["sample", "condition", "generation", "echo_free_text", "positive", "echo_free_positive"]
    pd.testing.assert_frame_equal(found.scores[columns], finished[1].scores[columns])


@pytest.mark.fault("R28", "scale", "answers of 4 and 16 thousand rows are read", "in linear time")
def test_answers_are_read_in_linear_time():
    def seconds(n: int) -> float:
        samples = PromptSet("x", tuple(Sample(f"s{i}", "a b", "p", "n", "q") for i in range(n)))
        keys = ((sample.id, condition) for sample in samples for condition in CONDITIONS)
        rows = [(k, {"sample": s, "condition": c, "generation": 0, "text": "t"}) for k, (s, c) in enumerate(keys, 1)]
        started = time.process_time()
        read_generations(rows, samples, name="f", known=[sample.id for sample in samples])
        return time.process_time() - started

    assert seconds(4_000) < 10 * min(seconds(1_000) for _ in range(3))  # four times the rows; quadratic: 16


@pytest.mark.fault("X322", "scale", "more prompts than are kept in memory", "made again, the same")
def test_prompts_are_made_when_they_are_asked_for(monkeypatch):
    monkeypatch.setattr(table_module, "_MOST_KEPT", 3)
    samples = PromptSet("x", tuple(Sample(f"s/{i}", f"House {i} looks", "Yes.", "So.", "No.") for i in range(5)))
    renderer = Renderer(None, Prompting("plain"))
    prompts = PromptTable(renderer, samples, ("control", "negative"))
    assert list(prompts.values()) == list(renderer.prompts(samples, ("control", "negative")))
    assert [len(prompts), "s/1/positive" in prompts, "s/9/control" in prompts] == [10, False, False]
    with pytest.raises(KeyError):
        prompts["s/1/neutral"]
    texts = PromptTexts(prompts, "Say it")
    assert dict(texts) == {name: PromptText.of(prompt, instruction="Say it") for name, prompt in prompts.items()}


@pytest.mark.fault("X323", "runs", "a torn last line in one of two shards read by sample", "left out, as elsewhere")
def test_generations_are_found_by_sample(tmp_path):
    rows = [{"sample": name, "text": f"{name} {i} é"} for i in range(3) for name in ("a", "b")]
    append_jsonl(tmp_path / "0.jsonl", rows[:4])
    append_jsonl(tmp_path / "1.jsonl", rows[4:])
    with (tmp_path / "1.jsonl").open("a") as file:
        file.write('{"sample": "a", "te')
    index = ShardIndex([tmp_path / "0.jsonl", tmp_path / "1.jsonl"], "sample")
    assert index.rows("a") == rows[::2]
    assert index.rows("b") == rows[1::2]
    assert index.rows("c") == []


@pytest.mark.parametrize("policy", CLEANINGS)
def test_the_columns_of_one_cleaning_policy_are_all_that_its_statistics_need(finished, policy):
    whole, part = finished[1].scores, finished[1].files.scores(needed_columns(policy))
    assert len(part.columns) < len(whole.columns) / 2
    found, expected = leakage_scores(part, policy), leakage_scores(whole, policy)
    assert leakage_statistics(found, seed=0, draws=100) == leakage_statistics(expected, seed=0, draws=100)
    assert main_statistics(whole_scores(part), seed=0, draws=100) == main_statistics(
        whole_scores(whole), seed=0, draws=100
    )
    assert echo_rates(part, policy) == echo_rates(whole, policy)


def test_frames_are_written_below_each_other(tmp_path):
    frames = [pd.DataFrame({"a": [i], "b": [name], "c": [None]}) for i, name in enumerate(("x", "y"))]
    write_parquet_parts(tmp_path / "t.parquet", iter(frames))
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "t.parquet"), pd.concat(frames, ignore_index=True))
