"""The benchmark on tiny models: run directory, resume, determinism, refusal of other runs."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest

import leakmech
from leakmech.core.errors import (
    ConfigError,
    DatasetError,
    InterruptedRunError,
    RunDirectoryError,
    StorageError,
    UsageError,
)
from leakmech.datasets.samples import load_dataset
from leakmech.generation.hf_engine import HFEngine
from leakmech.scoring.records import leakage_scores

SETTINGS = {
    "dtype": "float32",
    "limit": 3,
    "generations": 2,
    "decoding": {"max_new_tokens": 20},
    "estimator": "vader",
    "bootstrap_draws": 100,
}


@pytest.fixture
def folder(save_tiny):
    return save_tiny("llama-gqa")


def texts(path):
    """What was generated, whatever the order on disk."""
    rows = [json.loads(line) for line in (Path(path) / "generations" / "shard-000.jsonl").read_text().splitlines()]
    return {(row["prompt_id"], row["generation"]): (row["text"], row["finish_reason"]) for row in rows}


def without_timing(path):
    summary = json.loads((Path(path) / "summary.json").read_text())
    return {key: value for key, value in summary.items() if key != "timing"}


def test_a_run_holds_everything_the_contract_names(folder, tmp_path):
    result = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    run = result.path
    assert {"run.json", "prompts.jsonl", "generations", "scores.parquet", "summary.json"} <= {
        p.name for p in run.iterdir()
    }
    generation = json.loads((run / "generations" / "shard-000.jsonl").read_text().splitlines()[0])
    assert set(generation) == {
        "prompt_id", "sample", "condition", "generation", "text", "first_sentence", "n_tokens", "finish_reason", "crc32"
    }  # fmt: skip
    prompt = json.loads((run / "prompts.jsonl").read_text().splitlines()[0])
    assert set(prompt) == {"id", "sample", "condition", "split", "text", "rendered"}
    assert len(texts(run)) == 3 * 4 * 2 + 3 * 2  # four prompts a sample, and the control's second set
    summary = result.summary
    for key in (
        "format_version",
        "model",
        "dataset",
        "n_samples",
        "generations",
        "seed",
        "decoding",
        "cleaning",
        "timing",
    ):
        assert key in summary
    assert set(summary["by_cleaning"]) == {"echo-free", "paper", "raw"}
    for policy in summary["by_cleaning"].values():
        assert {"mu_el", "auc_el", "w_el", "echo_rate", "empty_rate"} <= set(policy)
    assert {
        "mu_el", "mu_el_ci", "auc_el", "auc_el_ci", "mu_el_mean", "w_el", "mu_l", "valence_shift", "valence_d_z",
        "noise_floor",
    } <= set(summary["overall"])  # fmt: skip
    assert {"positive", "negative", "neutral"} <= set(summary["conditions"])
    assert len(result.scores) == 30
    assert {"negative", "neutral", "positive", "similarity"} <= set(result.scores.columns)
    assert "mu_EL" in result.to_markdown()


def test_only_the_conditions_that_are_asked_for_are_completed(folder, tmp_path):
    full = leakmech.bench(folder, out=tmp_path / "full", **SETTINGS)
    part = leakmech.bench(folder, out=tmp_path / "part", conditions=["negative", "positive"], **SETTINGS)
    assert set(part.scores["condition"]) == {"positive", "negative"}
    expected = {key: text for key, text in texts(full.path).items() if key[0].endswith(("/positive", "/negative"))}
    assert texts(part.path) == expected
    assert part.summary["overall"]["valence_shift"] == full.summary["overall"]["valence_shift"] is not None
    assert part.summary["overall"]["auc_el"] is None
    assert part.summary["conditions"]["control"]["echo_rate"] is None
    assert "–" in part.to_markdown()


def test_the_headline_follows_from_the_scores(folder, tmp_path):
    result = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    frame = result.scores
    wins, pairs = 0, 0
    for sample in frame["sample"].unique():
        for generation in range(2):
            rows = frame[(frame["sample"] == sample) & (frame["generation"] == generation)].set_index("condition")
            for label in ("positive", "negative"):
                test, control = rows.loc[label, label], rows.loc["control", label]
                if not (pd.isna(test) or pd.isna(control)):
                    wins += test > control
                    pairs += 1
    assert result.summary["overall"]["mu_el"] == pytest.approx(wins / pairs)


def test_two_runs_with_one_seed_are_equal_and_with_another_differ(folder, tmp_path):
    first = leakmech.bench(folder, out=tmp_path / "a", batch_size=7, **SETTINGS)
    second = leakmech.bench(folder, out=tmp_path / "b", batch_size=1, **SETTINGS)
    other = leakmech.bench(folder, out=tmp_path / "c", seed=1, **SETTINGS)
    assert texts(first.path) == texts(second.path)
    assert without_timing(first.path) == without_timing(second.path)
    assert texts(first.path) != texts(other.path)


def test_stopping_at_the_first_sentence_changes_no_scored_text(folder, tmp_path):
    early = leakmech.bench(folder, out=tmp_path / "a", **SETTINGS)
    full = leakmech.bench(folder, out=tmp_path / "b", stop_at_first_sentence=False, **SETTINGS)
    columns = [f"{policy}_text" for policy in ("echo_free", "paper", "raw")] + ["echo", "negative", "positive"]
    pd.testing.assert_frame_equal(early.scores[columns], full.scores[columns])
    assert early.scores["n_tokens"].sum() <= full.scores["n_tokens"].sum()


def test_control_and_resampled_control_are_independent_sets(folder, tmp_path):
    frame = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS).scores
    control = frame[frame["condition"] == "control"]
    assert control.groupby("sample")["resampled"].sum().eq(2).all()
    assert not set(control.loc[control["resampled"], "raw_text"]) & set(control.loc[~control["resampled"], "raw_text"])


def test_a_finished_run_is_returned_as_it_is(folder, tmp_path, monkeypatch):
    first = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    written = (first.path / "summary.json").stat().st_mtime_ns
    second = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    assert second.summary == first.summary
    assert (first.path / "summary.json").stat().st_mtime_ns == written
    assert leakmech.load_result(first.path).summary == first.summary


def test_an_interrupted_run_says_how_to_go_on_and_ends_up_the_same(folder, tmp_path, monkeypatch):
    expected = leakmech.bench(folder, out=tmp_path / "a", batch_size=4, **SETTINGS)
    from leakmech.generation.decode import Decoder

    stream = Decoder.stream

    def interrupted(self, rows, *, batch_size):
        n = 0
        for ended in stream(self, rows, batch_size=batch_size):
            yield ended
            n += len(ended)
            if n >= 8:
                raise KeyboardInterrupt

    monkeypatch.setattr(Decoder, "stream", interrupted)
    with pytest.raises(
        InterruptedRunError, match=r"\d+ of 30 generations are saved; continue with: leakmech bench --out"
    ):
        leakmech.bench(folder, out=tmp_path / "b", batch_size=4, **SETTINGS)
    monkeypatch.undo()
    with (tmp_path / "b" / "generations" / "shard-000.jsonl").open("a") as shard:
        shard.write('{"prompt_id": "hexl-001/con')  # what a kill in the middle of a write leaves
    resumed = leakmech.bench(folder, out=tmp_path / "b", batch_size=4, **SETTINGS)
    assert texts(resumed.path) == texts(expected.path)
    assert without_timing(resumed.path) == without_timing(expected.path)


@pytest.mark.long
def test_a_run_killed_at_any_moment_is_finished_by_the_same_command(folder, tmp_path):
    settings = SETTINGS | {"generations": 4, "decoding": {"max_new_tokens": 60}, "batch_size": 3}
    expected = leakmech.bench(folder, out=tmp_path / "a", **settings)
    script = f"import leakmech; leakmech.bench({str(folder)!r}, out={str(tmp_path / 'b')!r}, **{settings!r})"
    shard = tmp_path / "b" / "generations" / "shard-000.jsonl"
    for n_bytes in (1, 3000):  # killed once generations begin to arrive, and again later
        process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(Path.cwd())})
        deadline = time.monotonic() + 120
        while process.poll() is None and not (shard.exists() and shard.stat().st_size >= n_bytes):
            assert time.monotonic() < deadline, "the run wrote nothing"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (tmp_path / "b" / "summary.json").exists()
    assert 0 < len(texts_of_whole_lines(shard)) < len(texts(expected.path))
    resumed = leakmech.bench(folder, out=tmp_path / "b", **settings)
    assert texts(resumed.path) == texts(expected.path)
    assert without_timing(resumed.path) == without_timing(expected.path)


def texts_of_whole_lines(shard):
    return [line for line in shard.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"generations": 3}, {"estimator": "embedded"}, {"instruction": "Be brief"}]
)
def test_a_directory_with_other_settings_is_refused_by_name(folder, tmp_path, change):
    leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    with pytest.raises(RunDirectoryError, match=next(iter(change))):
        leakmech.bench(folder, out=tmp_path / "run", **(SETTINGS | change))


def test_a_changed_model_never_gets_another_models_answers(folder, tmp_path, make_tiny):
    leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    model = make_tiny("llama-gqa")
    model.model.layers[1].self_attn.o_proj.weight.data[:, :8] = 0
    model.save_pretrained(folder)
    with pytest.raises(RunDirectoryError, match="weights"):
        leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)


def test_a_changed_dataset_is_noticed(folder, tmp_path):
    file = tmp_path / "mine.jsonl"
    samples = load_dataset("hexl").take(3)
    samples.save(file)
    settings = SETTINGS | {"dataset": str(file)}
    leakmech.bench(folder, out=tmp_path / "run", **settings)
    file.write_text(file.read_text().replace("roses", "lilies"))
    with pytest.raises(RunDirectoryError, match="dataset"):
        leakmech.bench(folder, out=tmp_path / "run", **settings)


def test_samples_may_lie_elsewhere_when_a_run_goes_on(folder, tmp_path, monkeypatch):
    (tmp_path / "moved").mkdir()
    for file in (tmp_path / "mine.jsonl", tmp_path / "moved" / "mine.jsonl"):
        load_dataset("hexl").take(3).save(file)
    first = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS | {"dataset": str(tmp_path / "mine.jsonl")})
    monkeypatch.chdir(tmp_path)
    again = leakmech.bench(folder, out="run", **SETTINGS | {"dataset": "moved/mine.jsonl"})
    assert without_timing(again.path) == without_timing(first.path)


def test_a_model_object_can_be_measured(make_tiny, chat_tokenizer, tmp_path):
    result = leakmech.bench(make_tiny("gpt2"), tokenizer=chat_tokenizer, out=tmp_path / "run", **SETTINGS)
    assert result.summary["n_samples"] == 3


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"generatoins": 3}, ConfigError, "did you mean 'generations'"),
        ({"decoding": {"topp": 0.5}}, ConfigError, "did you mean 'top_p'"),
        ({"generations": 0}, ConfigError, "generations"),
        ({"limit": 0}, ConfigError, "limit"),
        ({"batch_size": 0}, ConfigError, "batch_size"),
        ({"dataset": "hexel"}, DatasetError, "did you mean 'hexl'"),
        ({"estimator": "vadre"}, UsageError, "did you mean 'vader'"),
    ],
)
def test_bad_settings_leave_nothing_behind(folder, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        leakmech.bench(folder, out=tmp_path / "run", **(SETTINGS | settings))
    assert not (tmp_path / "run").exists()


def test_a_directory_that_holds_something_else_is_left_alone(folder, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="holds no leakmech run"):
        leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_a_full_disk_is_reported_and_the_run_continues_later(folder, tmp_path, monkeypatch):
    expected = leakmech.bench(folder, out=tmp_path / "a", **SETTINGS)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left on device"):
        leakmech.bench(folder, out=tmp_path / "b", **SETTINGS)
    monkeypatch.setattr(os, "fsync", real)
    assert not (tmp_path / "b" / "summary.json").exists()
    assert without_timing(leakmech.bench(folder, out=tmp_path / "b", **SETTINGS).path) == without_timing(expected.path)


def test_a_run_with_a_generation_missing_is_not_summarised(folder, tmp_path):
    result = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    with pytest.raises(RunDirectoryError, match="instead of"):
        leakage_scores(result.scores.iloc[1:], "raw")


def test_rows_come_in_parts_of_whole_blocks(make_tiny, chat_tokenizer, tmp_path, monkeypatch):
    settings = {"limit": 12, "generations": 3, "decoding": {"max_new_tokens": 4}, "estimator": "vader", "device": "cpu"}
    settings |= {"dtype": "float32", "bootstrap_draws": 100, "tokenizer": chat_tokenizer}
    whole = leakmech.bench(make_tiny("llama-gqa"), out=tmp_path / "whole", **settings)
    monkeypatch.setattr("leakmech.studies.benchmark.prompts._ROWS_PER_BLOCK", 30)
    monkeypatch.setattr("leakmech.studies.benchmark.prompts._ROWS_PER_PART", 50)
    asked, complete = [], HFEngine.complete

    def counting(self, rows, *arguments, **options):
        asked.append([(row.block, row.prompt_id, row.generation) for row in rows])
        yield from complete(self, rows, *arguments, **options)

    monkeypatch.setattr(HFEngine, "complete", counting)
    parts = leakmech.bench(make_tiny("llama-gqa"), out=tmp_path / "parts", **settings)
    assert len(asked) == 3  # 12 samples of 15 rows, in blocks of 2 samples
    assert [len(rows) for rows in asked] == [60, 60, 60]
    assert [max(row[0] for row in part) < min(row[0] for row in later) for part, later in pairwise(asked)] == [True] * 2
    pd.testing.assert_frame_equal(parts.scores, whole.scores)
