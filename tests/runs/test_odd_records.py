"""What lies in a run's files is data: it decides nothing about trust, and odd shapes of it end in one line."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from leakmech.cli.app import main
from leakmech.core.errors import LeakmechError, RunDirectoryError
from leakmech.core.store import read_json
from leakmech.runs.directory import RunRecord
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.results import load_result

RUNS = Path(__file__).parents[1] / "fixtures" / "runs"
EVIL = """open('PWNED', 'w').close()
from transformers import LlamaConfig, LlamaForCausalLM
class C(LlamaConfig):
    model_type = 'evilmodel'
class X(LlamaForCausalLM):
    config_class = C
"""


def command(monkeypatch, capsys, *words) -> tuple[int, str]:
    """Exit code and errors of a command of this process."""
    monkeypatch.setattr(sys, "argv", ["leakmech", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0), capsys.readouterr().err


@pytest.mark.fault(
    "R02", "hostile", "run.json says that code of a model is trusted", "nothing is run; one line, exit 2"
)
def test_a_run_directory_does_not_decide_that_code_is_trusted(tmp_path, monkeypatch, capsys, save_tiny):
    model = save_tiny("llama-gqa")
    config = json.loads((model / "config.json").read_text())
    code = {"model_type": "evilmodel", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.X"}}
    (model / "config.json").write_text(json.dumps(config | code))
    (model / "evil.py").write_text(EVIL)
    run = tmp_path / "stranger"
    run.mkdir()
    chosen = BenchConfig.parse({"model": str(model), "limit": 1, "generations": 1})
    settings = chosen.identity() | {"trust_remote_code": True}
    record = {"format_version": 1, "kind": "bench", "command": "bench", "batch_size": 16, "fingerprint": {}}
    (run / "run.json").write_text(json.dumps(record | {"config": settings}))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for words in (("bench", "--out", run), ("score", run, "--out", tmp_path / "again"), ("diagnose", "--out", run)):
        code, told = command(monkeypatch, capsys, *words)
        assert code in (1, 2)
        assert len(told.splitlines()) == 1
        assert not (tmp_path / "PWNED").exists()
    code, told = command(monkeypatch, capsys, "bench", "--out", run)
    assert (
        told == f"leakmech: {model}: runs Python code of its own; pass trust_remote_code=True if you trust its source\n"
    )
    assert "trust_remote_code" not in BenchConfig.stored(run)
    assert BenchConfig.parse(RunRecord.read(run).config).trust_remote_code is False


ODD = {"a list": "[1]", "a text": '"x"', "null": "null", "deep": "[" * 100_000, "digits": "9" * 5_000, "cut": '{"a": '}


@pytest.mark.parametrize("value", ODD.values(), ids=ODD)
@pytest.mark.parametrize("run", ["bench", "diagnose", "mitigate", "train", "comparison", "annotation", "aexl"])
@pytest.mark.fault("X513", "hostile", "a list, text, null, 100,000 nested lists in a run's JSON files", "one line")
def test_a_file_of_another_shape_ends_in_one_line(tmp_path, run, value):
    shutil.copytree(RUNS / run, tmp_path / run)
    files = [file for file in (tmp_path / run).glob("*.json") if file.name not in ("adapter_config.json", "key.json")]
    assert files
    for file in files:
        content = file.read_bytes()
        file.write_text(value)
        with pytest.raises(RunDirectoryError, match=f"^{file}: damaged") as refused:
            read_json(file)
        assert len(str(refused.value)) < len(str(file)) + 200
        if file.name != "aexl.json":
            with pytest.raises(LeakmechError):
                load_result(tmp_path / run).report()
        file.write_bytes(content)


@pytest.mark.parametrize("entry", ["config", "fingerprint", "environment", "kind", "command"])
@pytest.mark.fault("X514", "hostile", "an entry of run.json of another kind", "one line that names the entry")
def test_an_entry_of_another_kind_is_named(tmp_path, entry):
    record = json.loads((RUNS / "bench" / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(record | {entry: [1]}))
    with pytest.raises(RunDirectoryError, match=f"run.json: damaged \\('{entry}' is of another kind\\)"):
        RunRecord.read(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", "5", '{"config": []}'])
@pytest.mark.fault("R14", "runs", "run.json is valid JSON of another shape", "damaged, in one line; exit code 2")
def test_a_run_file_of_another_shape_is_damaged(tmp_path, monkeypatch, capsys, content):
    shutil.copytree(RUNS / "bench", tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    for words in (("bench", "--out"), ("report",), ("compare", RUNS / "bench"), ("samples",)):
        code, told = command(monkeypatch, capsys, *words, tmp_path / "run")
        assert code == 2
        assert told.startswith(f"leakmech: {tmp_path}/run/run.json: damaged")
        assert len(told.splitlines()) == 1
