"""Logs of evaluation harnesses, read without them: recorded from real runs of the embedded model (fixtures/logs)."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest

import leakmech
from leakmech.core.errors import DatasetError
from leakmech.studies.benchmark.harness_logs import read_harness_log

LOGS = Path(__file__).parents[2] / "fixtures" / "logs"
LM_EVAL = LOGS / "samples_leakmech_hexl.jsonl"
EVAL = LOGS / "inspect.eval"
JSON = LOGS / "inspect.json"


@pytest.mark.parametrize(("path", "generations"), [(LM_EVAL, 10), (EVAL, 2), (JSON, 2)])
def test_a_log_has_every_answer_and_the_settings_of_its_task(path, generations):
    log = read_harness_log(path)
    keys = {(row["sample"], row["condition"], row["generation"]) for _, row in log.rows}
    samples = [sample.id for sample in leakmech.load_dataset("hexl")][:2]
    conditions = ("control", "positive", "neutral", "negative")
    assert keys == {(s, c, k) for s in samples for c in conditions for k in range(generations)}
    assert len(log.rows) == len(keys)
    assert all(isinstance(row["text"], str) for _, row in log.rows)
    assert (log.settings["dataset"], log.settings["arrangement"]) == ("hexl", "before")


def test_both_forms_of_a_log_of_inspect_say_the_same():
    archive, converted = read_harness_log(EVAL), read_harness_log(JSON)
    assert archive.settings == converted.settings
    assert sorted(map(str, (row for _, row in archive.rows))) == sorted(map(str, (row for _, row in converted.rows)))


@pytest.mark.parametrize("path", [LM_EVAL, EVAL])
def test_a_log_is_scored_like_a_file_of_its_texts(path, tmp_path):
    log = read_harness_log(path)
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(row) + "\n" for _, row in log.rows))
    settings = {"limit": 2, "estimator": "vader", "bootstrap_draws": 100}
    expected = leakmech.score(texts, out=tmp_path / "texts", **settings).summary
    found = leakmech.score(path, out=tmp_path / "log", **settings).summary
    assert found["overall"] == expected["overall"]
    assert found["generations"] == expected["generations"]


def test_samples_that_a_limit_left_out_are_missing_until_that_is_allowed(tmp_path):
    with pytest.raises(DatasetError, match="58 of 60 samples are missing"):
        leakmech.score(EVAL, out=tmp_path / "run", estimator="vader")
    found = leakmech.score(EVAL, out=tmp_path / "run", estimator="vader", allow_missing=True, bootstrap_draws=100)
    assert found.summary["n_silent_samples"] == 58


def test_other_files_are_not_logs(tmp_path):
    lines = tmp_path / "answers.json"
    lines.write_text('{"sample": "hexl-001"}\n{"sample": "hexl-002"}\n')
    assert read_harness_log(lines) is None
    assert read_harness_log(tmp_path) is None
    assert read_harness_log(LOGS.parent / "runs" / "aexl" / "aexl.jsonl") is None


def test_a_log_of_another_task_is_refused(tmp_path):
    other = tmp_path / "samples_arc.jsonl"
    line = {"doc": {"question": "?"}, "filtered_resps": [["a"]], "filter": "none"}
    other.write_text(json.dumps(line) + "\n")
    with pytest.raises(DatasetError, match=r":1: is of another task than leakmech's \(no field 'sample'"):
        read_harness_log(other)
    log = tmp_path / "log.json"
    log.write_text(json.dumps({"status": "success", "eval": {"task": "arc"}, "samples": []}))
    with pytest.raises(DatasetError, match="log of the task 'arc', not of leakmech/hexl"):
        read_harness_log(log)


def test_a_log_without_samples_is_refused(tmp_path):
    log = tmp_path / "log.json"
    log.write_text(json.dumps({"status": "success", "eval": {"metadata": {"leakmech": "{}"}}}))
    with pytest.raises(DatasetError, match="run the task without --no-log-samples"):
        read_harness_log(log)


def test_an_epoch_that_failed_is_missing(tmp_path):
    log = json.loads(JSON.read_text())
    log["samples"][0]["error"] = {"message": "the provider is down", "traceback": "", "traceback_ansi": ""}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(log))
    rows = [row for _, row in read_harness_log(path).rows]
    assert [row["text"] is None for row in rows].count(True) == 1


def test_a_damaged_archive_is_refused(tmp_path):
    cut, flipped, other = (tmp_path / f"{name}.eval" for name in ("cut", "flipped", "other"))
    whole = EVAL.read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DatasetError, match="damaged log of inspect_ai"):
        read_harness_log(cut)
    with zipfile.ZipFile(EVAL) as archive:
        info = next(info for info in archive.infolist() if info.filename.startswith("samples/"))
    place = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    flipped.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    with pytest.raises(DatasetError, match="damaged log of inspect_ai"):
        read_harness_log(flipped)
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(DatasetError, match=r"it has no header\.json"):
        read_harness_log(other)


def test_a_log_that_was_cut_off_has_what_was_answered(tmp_path):
    """A run that is killed has no header.json; the settings stand in the journal that it began with."""
    path = tmp_path / "running.eval"
    log = json.loads(JSON.read_text())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": log["eval"]}))
        archive.writestr("samples/one_epoch_1.json", json.dumps(log["samples"][0]))
    assert len(read_harness_log(path).rows) == 1


def test_a_copy_under_another_name_is_read(tmp_path):
    copy = tmp_path / "answers.jsonl"
    shutil.copy(LM_EVAL, copy)
    assert len(read_harness_log(copy).rows) == 80
