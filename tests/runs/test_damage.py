"""Damaged, foreign and left-over files of a run: what is derived is made again, a damaged line costs that line."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import warnings

import pytest
import torch

import leakmech
from leakmech.core.errors import LeakmechWarning, ModelError, RunDirectoryError
from leakmech.core.store import (
    append_jsonl,
    give_modes,
    read_jsonl_shard,
    sweep,
    temporary_folder,
    write_json,
    write_jsonl,
)
from leakmech.core.tensor_files import write_tensors
from leakmech.generation.decode import Decoder
from leakmech.runs.directory import RunDirectory
from leakmech.studies.benchmark.power import power

SETTINGS = {
    "dtype": "float32",
    "limit": 2,
    "generations": 2,
    "decoding": {"max_new_tokens": 12},
    "estimator": "vader",
    "bootstrap_draws": 100,
    "device": "cpu",
}


@pytest.fixture
def bench(make_tiny, chat_tokenizer, tmp_path):
    """``bench(**settings)``: the run in ``tmp_path / "run"``, made or continued."""
    model = make_tiny("llama-gqa")

    def run(**settings):
        return leakmech.bench(model, tokenizer=chat_tokenizer, out=tmp_path / "run", **(SETTINGS | settings))

    return run


def state(result) -> tuple:
    """What a run found: its numbers and its texts."""
    rows = {(row["prompt_id"], row["generation"]): row for row in result.files.generations()}
    return rows, {name: value for name, value in result.summary.items() if name != "timing"}


def duplicate(lines):
    return [*lines, lines[3]]


def replaced(change):
    def damage(lines):
        row = json.loads(lines[3])
        row.pop("crc32")
        return [*lines[:3], json.dumps(change(row)).encode() + b"\n", *lines[4:]]

    return damage


DAMAGE = {
    "dup": ("a line twice", duplicate),
    "list": ("a line that is a list", replaced(lambda _: [1, 2])),
    "empty": ("a line without entries", replaced(lambda _: {})),
    "null": ("a line whose text is null", replaced(lambda row: row | {"text": None})),
    "middle": ("zeros and no UTF-8 in a line", lambda lines: [lines[0][:40] + b"\0\xff" + lines[0][60:], *lines[1:]]),
    "edited": ("a text that was edited", lambda lines: [lines[0].replace(b'"text": "', b'"text": "Oh '), *lines[1:]]),
    "reordered": ("a line written anew by jq", lambda lines: [json.dumps(json.loads(lines[0]), indent=None,
        separators=(",", ":")).encode() + b"\n", *lines[1:]]),
}  # fmt: skip


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            marks=pytest.mark.fault(
                f"X{400 + number}" if kind in ("edited", "reordered") else "R06",
                "runs",
                f"{tried} of a shard",
                "the line counts once" if kind == "dup" else "that line is generated again, with a warning",
            ),
        )
        for number, (kind, (tried, _)) in enumerate(DAMAGE.items())
    ],
)
def test_a_damaged_line_costs_that_line(bench, kind, monkeypatch):
    result = bench()
    expected = state(result)
    shard = result.files.shard
    shard.write_bytes(b"".join(DAMAGE[kind][1](shard.read_bytes().splitlines(keepends=True))))
    result.files.summary_file.unlink()
    drawn = []
    stream = Decoder.stream

    def counting(self, rows, **options):
        drawn.extend(rows)
        return stream(self, rows, **options)

    monkeypatch.setattr(Decoder, "stream", counting)
    with pytest.warns(LeakmechWarning, match=r"lines taken out: 1; the other \d+ generations stay"):
        again = bench()
    assert state(again) == expected
    assert len(drawn) == (0 if kind == "dup" else 1)
    assert len(list(read_jsonl_shard(shard))) == len(expected[0])


KEPT = ("prompts.jsonl", "tilt/drawn.jsonl", "tilt/completions.jsonl", "tilt/likelihoods.jsonl", "rewrites.jsonl")


@pytest.mark.parametrize("name", [*KEPT, "control_likelihoods.jsonl"])
@pytest.mark.fault("X527", "runs", "a line of any other file of a benchmark is damaged", "that line is made again")
def test_a_damaged_line_of_what_is_kept_beside_generations_is_made_again(bench, name):
    settings = {"tilt": True, "tilt_completions": 5, "on_task": name.startswith("control")}
    settings |= {"prompt_rewrite": "control"} if name.startswith("rewrites") else {}
    result = bench(**settings)
    expected = state(result)
    file = result.path / name
    sound = sorted(read_jsonl_shard(file), key=json.dumps)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) > 1
    file.write_bytes(lines[0].replace(b'"', b"", 1) + b"".join(lines[1:]))
    result.files.summary_file.unlink()
    if name == "tilt/drawn.jsonl":  # which is read only where completions are not there yet
        result.files.tilt_completions_file.unlink()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        again = bench(**settings)
    assert sorted(read_jsonl_shard(file), key=json.dumps) == sound
    assert state(again) == expected
    if not name.startswith("prompts"):
        assert any(f"{name.rpartition('/')[2]}:1: damaged line" in str(one.message) for one in told)


BREAK = {
    "cut": lambda file: os.truncate(file, 1000),
    "gone": lambda file: file.unlink(),
    "flipped": lambda file: file.write_bytes(bytes(b ^ (i == 500) for i, b in enumerate(file.read_bytes()))),
}


@pytest.mark.parametrize("how", BREAK)
@pytest.mark.fault("R05", "runs", "scores.parquet is missing, cut or has a flipped bit", "one line; bench scores again")
def test_damaged_scores_are_made_again(bench, how):
    result = bench()
    expected = state(result)
    scores = result.files.scores_file
    sound = scores.read_bytes()
    BREAK[how](scores)
    told = r"scores.parquet: missing or damaged \(.*\); make it again with: the same call"
    with pytest.raises(RunDirectoryError, match=told):
        leakmech.load_result(result.path).report()
    with pytest.raises(RunDirectoryError, match=told):
        power(0.05, samples=20, generations=2, run=result.path)
    with pytest.warns(LeakmechWarning, match=r"scores.parquet: missing or damaged .*; it is made again"):
        again = bench()
    assert state(again) == expected
    assert scores.read_bytes() == sound


@pytest.mark.fault("X422", "runs", "answers are exchanged and summary.json deleted, as scripts do", "scored anew")
def test_checksums_of_an_earlier_end_do_not_stop_a_later_one(bench):
    result = bench()
    rows = [row | {"text": "A lovely garden."} for row in result.files.generations()]
    write_jsonl(result.files.shard, rows, checksums=True)
    result.files.summary_file.unlink()
    assert set(bench().scores["first_sentence"]) == {"A lovely garden."}
    assert set(bench().scores["first_sentence"]) == {"A lovely garden."}


@pytest.mark.parametrize("content", ["", "[]", '{"kind": '])
@pytest.mark.fault("R05", "runs", "summary.json is emptied, cut or a list", "made again by the same command")
def test_a_damaged_summary_is_made_again(bench, content):
    result = bench()
    expected = state(result)
    result.files.summary_file.write_text(content)
    with pytest.warns(LeakmechWarning, match=r"summary.json: damaged .*; it is made again"):
        again = bench()
    assert state(again) == expected


@pytest.mark.fault("X407", "runs", "the folder of generations is deleted from a finished run", "one line that says so")
def test_a_finished_run_without_generations_still_shows_its_numbers(bench):
    result = bench()
    result.files.shard.unlink()
    assert leakmech.load_result(result.path).summary["overall"] == result.summary["overall"]
    with pytest.raises(RunDirectoryError, match="generation"):
        leakmech.load_result(result.path).report()


@pytest.mark.fault("R04", "runs", "weights change while a run generates", "ends; only what was there before is kept")
def test_weights_that_change_while_a_run_generates_are_noticed(make_tiny, chat_tokenizer, tmp_path, monkeypatch):
    model = make_tiny("llama-gqa")
    stream = Decoder.stream

    def changing(self, rows, **options):
        for ended in stream(self, rows, **options):
            yield ended
            with torch.no_grad():
                model.lm_head.weight[0, 0] += 1

    monkeypatch.setattr(Decoder, "stream", changing)
    with pytest.raises(ModelError, match=r"weights changed while the model was in use; the 0 generations from before"):
        leakmech.bench(model, tokenizer=chat_tokenizer, out=tmp_path / "run", **SETTINGS)
    assert list(RunDirectory(tmp_path / "run").generations()) == []


@pytest.mark.parametrize("how", ["overwritten", "truncated"])
@pytest.mark.fault("R04", "runs", "the file of the weights is overwritten or cut while a model is in use", "no effect")
def test_weights_are_not_those_of_the_file_any_more_once_they_are_loaded(save_tiny, how):
    folder = save_tiny("llama-gqa")
    loaded = leakmech.load_model(folder, dtype="float32", device="cpu")
    before = {name: value.clone() for name, value in loaded.model.state_dict().items()}
    file = folder / "model.safetensors"
    if how == "truncated":
        os.truncate(file, 100)
    else:
        with file.open("r+b") as opened:
            opened.seek(5000)
            opened.write(b"\1" * (file.stat().st_size - 5000))
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())
    loaded.refuse_changed()


@pytest.mark.fault(
    "X408", "runs", "the chat template of a loaded model is exchanged during a run", "noticed at its end"
)
def test_a_template_that_changes_is_noticed(save_tiny):
    loaded = leakmech.load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    loaded.fingerprint()
    loaded.tokenizer.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(ModelError, match="template changed while the model was in use"):
        loaded.refuse_changed()


@pytest.mark.fault("X529", "runs", "end tokens of a loaded model change", "noticed at the end of the run")
def test_a_generation_config_that_changes_is_noticed(save_tiny):
    loaded = leakmech.load_model(save_tiny("llama-gqa"), dtype="float32", device="cpu")
    loaded.fingerprint()
    loaded.refuse_changed()
    loaded.model.generation_config.eos_token_id = [256, 17]
    with pytest.raises(ModelError, match="generation config changed while the model was in use"):
        loaded.refuse_changed()


# -- left-overs and modes ----------------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from leakmech.core.store import atomic_path, temporary_folder
context = temporary_folder if sys.argv[2] == "folder" else atomic_path
with context(Path(sys.argv[1])) as temporary:
    (temporary / "weights" if sys.argv[2] == "folder" else temporary).write_text("half")
    os.kill(os.getpid(), 9)
"""


def killed(path, kind="file"):
    """Let a process die while it writes `path`."""
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), kind], check=False)
    assert ended.returncode == -9


@pytest.mark.fault("R26", "runs", "killed between write and rename of scores.parquet", "what it left is removed")
def test_left_overs_of_dead_processes_are_swept_when_a_run_goes_on(bench, tmp_path):
    result = bench()
    killed(result.files.scores_file)
    killed(result.path / "tables" / "heads.csv")
    (result.path / ".mine.tmp").write_text("of somebody else")
    assert len(list(result.path.rglob(".*.tmp"))) == 3
    result.files.summary_file.unlink()
    bench()
    assert [file.name for file in result.path.rglob(".*.tmp")] == [".mine.tmp"]


@pytest.mark.fault("X409", "runs", "a temporary file of a process that lives, or of another machine", "left alone")
def test_files_of_the_living_and_of_other_machines_stay(tmp_path):
    names = [f".a.json.{'0' * 8}-999999999.tmp", ".a.json.tmp", ".a.json.123.tmp"]
    for name in names:
        (tmp_path / name).touch()
    with temporary_folder(tmp_path / "merged") as own:
        sweep(tmp_path.glob(".*.tmp"))
        assert own.is_dir()
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)


@pytest.mark.fault("R26", "runs", "killed while merge-lora writes its folder", "the next call removes what it left")
def test_a_folder_that_was_left_half_written_goes(tmp_path):
    killed(tmp_path / "merged", "folder")
    assert len(list(tmp_path.iterdir())) == 1
    with temporary_folder(tmp_path / "merged") as own:
        assert [file.name for file in tmp_path.iterdir()] == [own.name]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
@pytest.mark.fault("R26", "runs", "files of safetensors under three umasks", "the mode that the umask gives")
def test_files_have_the_mode_of_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_tensors(tmp_path / "a.safetensors", {"x": torch.ones(2)})
        write_json(tmp_path / "a.json", {})
        with temporary_folder(tmp_path / "new") as folder:
            (folder / "weights").touch(mode=0o600)
            give_modes(folder)
            assert stat.S_IMODE((folder / "weights").stat().st_mode) == mode
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {mode}


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.mark.fault("X410", "runs", "lines of a shard that an older version wrote without checksums", "read as they are")
def test_lines_without_checksum_are_read(tmp_path):
    shard = tmp_path / "s.jsonl"
    shard.write_text('{"a": 1}\n')
    append_jsonl(shard, [{"a": 2}, {}])
    assert list(read_jsonl_shard(shard)) == [{"a": 1}, {"a": 2}, {}]
    lines = shard.read_bytes().splitlines()
    assert b"crc32" not in lines[0]
    assert b"crc32" in lines[1]


@pytest.mark.fault("X411", "runs", "any one byte of a line of a shard is another one", "told, or the line is torn")
def test_no_changed_byte_goes_unnoticed(tmp_path):
    shard = tmp_path / "s.jsonl"
    append_jsonl(shard, [{"text": "Zwölf 1.5", "n": 3}])
    whole = shard.read_bytes()
    for place in range(len(whole)):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        damaged: list[str] = []
        rows = list(read_jsonl_shard(shard, on_damage=damaged.append))
        assert all((row["text"], row["n"]) == ("Zwölf 1.5", 3) for row in rows), place
