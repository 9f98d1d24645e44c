"""What people get wrong at the command line: every answer is one line that names the way out, and nothing is written.

A mistake that needs no model is told before torch is imported (the last tests count what is).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from leakmech.cli.app import main

ROOT = Path(__file__).parents[2]
RUNS = ROOT / "tests" / "fixtures" / "runs"


@pytest.fixture
def call(monkeypatch, capsys):
    """What a process would say and end with, from this one."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["leakmech", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code or 0, out=said.out, err=said.err)

    return called


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to be in, with what the mistakes name."""
    monkeypatch.chdir(tmp_path)
    for kind in ("bench", "diagnose", "mitigate", "train"):
        shutil.copytree(RUNS / kind, tmp_path / kind)
    (tmp_path / "key.yaml").write_text("generation: 3\n")
    (tmp_path / "type.yaml").write_text("limit: many\n")
    (tmp_path / "list.yaml").write_text("- bench\n")
    (tmp_path / "broken.yaml").write_text("model: [\n")
    (tmp_path / "inner.yaml").write_text("decoding: {temprature: 1}\n")
    (tmp_path / "lora.yaml").write_text("objectives: {consistency: 1}\nirrelevant: hexl\n")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "short.jsonl").write_text('{"id": "a", "stem": "The garden looks"}\n')
    (tmp_path / "file.txt").write_text("not a folder\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter.txt").write_text("mine\n")
    unfinished = shutil.copytree(RUNS / "bench", tmp_path / "unfinished")
    (unfinished / "summary.json").unlink()
    return tmp_path


MISTAKES = [
    # what a run holds, and what only some executor reads
    ("attribute --out diagnose", "diagnose: holds a run of `leakmech diagnose`; choose another --out"),
    ("directions --fit hexl --out diagnose", "diagnose: holds a run of `leakmech diagnose`; choose another --out"),
    ("sweep key.yaml --out s --gpus 3", "--gpus: is about a Ray cluster; add --executor ray"),
    ("sweep key.yaml --dry-run --executor slurm", "no such executor"),
    ("bench --temperature inf", "decoding.temperature must be a finite number"),
    ("train-lora --irrelevant hexl --learning-rate inf --out t", "learning_rate must be a finite number"),
    # commands
    ("bnech", "did you mean 'bench'"),
    ("measure", "there are quick, bench"),
    ("study emotion-circuit", "did you mean 'emotion-circuits'"),
    ("data chek hexl", "did you mean 'check'"),
    # options
    ("bench --modle x", "no option --modle; did you mean '--model'"),
    ("quick Hello --injct x", "did you mean '--inject'"),
    ("mitigate --famlies x", "did you mean '--families'"),
    ("bench --qqqqqqq", "see: leakmech bench --help"),
    ("bench --limit", "option '--limit' requires an argument"),
    ("quick", "missing argument"),
    ("show", "missing argument 'run'"),
    ("show bench diagnose", "got unexpected extra argument"),
    ("merge-lora x", "missing option '--out'"),
    # keys and files of settings
    ("bench key.yaml", "key.yaml: unknown key 'generation'; did you mean 'generations'"),
    ("bench type.yaml", "limit must be a valid integer"),
    ("bench list.yaml", "list.yaml: expected a mapping of settings"),
    ("bench broken.yaml", "broken.yaml"),
    ("bench inner.yaml", "unknown key 'decoding.temprature'; did you mean 'temperature'"),
    ("train-lora lora.yaml --out a", "unknown key 'objectives.consistency'"),
    ("bench no.yaml", "no.yaml: cannot be read"),
    # models
    ("bench --model embedded:smollm", "did you mean 'embedded:smollm2-135m-instruct'"),
    ("bench --model ./missing", "./missing: no such folder"),
    ("quick Hello --model file.txt", "file.txt: is a file; give the folder"),
    ("bench --model nobody/nothing", "nobody/nothing"),
    ("bench --model embedded:smollm2-135m-instruct --revision main", "only a model on the hub has revisions"),
    ("bench --adapter ./missing", "./missing: no such folder"),
    ("bench --device tpu", "unknown device 'tpu'"),
    ("bench --dtype float12", "unknown dtype 'float12'"),
    # sets of samples
    ("bench --dataset hexll", "did you mean 'hexl"),
    ("bench --dataset empty.jsonl", "empty.jsonl"),
    ("bench --dataset short.jsonl", "short.jsonl:1: field 'positive' is missing"),
    ("diagnose --fit data/aexl_fit.jsonl", "leakmech data build-aexl --samples 50 --fit 50 --tune 50 --out data/aexl."),
    ("data check missing.jsonl", "missing.jsonl"),
    ("attribute --dataset hexll --out o", "did you mean 'hexl"),
    ("directions --fit missing.jsonl --out o", "missing.jsonl"),
    # ranges, types and choices
    ("bench --generations 0", "generations must be greater than or equal to 1"),
    ("quick Hello --generations -1", "generations must be greater than or equal to 1"),
    ("bench --limit two", "limit must be a valid integer"),
    ("bench --top-p 1.5", "top_p must be in (0, 1]"),
    ("bench --temperature -1", "temperature must be 0"),
    ("bench --batch-size 0", "batch_size must be 'auto' or at least 1"),
    ("bench --cleaning echo", "did you mean 'echo-free'"),
    ("bench --prompt-form plane", "did you mean 'plain'"),
    ("bench --arrangement behind", "arrangement"),
    ("bench --estimator vadder", "did you mean 'vader'"),
    ("bench --estimator vader,vader", "given twice"),
    ("quick Hello --estimator vader,ngrams", "takes one estimator"),
    ("diagnose --fit hexl --methods pca,logistics", "did you mean 'logistic'"),
    ("mitigate --margin kl", "expected NAME=NUMBER"),
    ("mitigate --margin k=1 --adapter folder", "did you mean 'kl'"),
    ("mitigate --families headz", "headz"),
    ("samples bench --number 0", "--number"),
    ("power --effect big --samples 60", "--effect"),
    ("power --effect 0.05 --samples 60 --against chnce", "did you mean 'chance'"),
    ("bench --contrast-strength 2", "Name one with --contrast"),
    ("bench --fold", "name their file with --intervention"),
    ("quick ... --inject Sad.", "must have words"),
    ("quick Hello --inject ...", "must have words"),
    # runs
    ("show nowhere", "nowhere: is not a leakmech run"),
    ("show folder", "folder: is not a leakmech run"),
    ("report nowhere", "nowhere: is not a leakmech run"),
    ("samples nowhere", "nowhere: is not a leakmech run"),
    ("samples diagnose", "diagnose"),
    ("show unfinished", "is not finished; continue it with: leakmech bench --out unfinished"),
    ("report unfinished", "is not finished; continue it with: leakmech bench --out unfinished"),
    ("samples bench --sample s99", "s99"),
    ("bench --out diagnose", "holds a run of `leakmech diagnose`"),
    ("diagnose --fit hexl --out bench", "holds a run of `leakmech bench`"),
    ("mitigate --diagnosis nowhere", "leakmech diagnose"),
    ("mitigate --diagnosis bench", "kind 'bench'"),
    ("score nowhere.jsonl --dataset hexl", "nowhere.jsonl"),
    ("annotate export nowhere", "nowhere"),
    ("annotate import nowhere", "nowhere"),
    ("bench --tilt --tilt-from nowhere", "nowhere is not the directory of a run"),
    ("bench --intervention nowhere.json", "nowhere.json: no such file"),
    ("merge-lora folder --out merged", "folder"),
    # places that cannot be written
    ("bench --out file.txt", "file.txt: is a file, not a run directory"),
    ("bench --out file.txt/run", "file.txt is not a folder"),
    ("bench --out folder", "is not empty and holds no leakmech run; choose another --out"),
    ("bench --out /proc/leakmech", "cannot be written"),
    ("data build-aexl --out file.txt/aexl.jsonl", "file.txt is not a folder"),
    ("attribute --out file.txt/o", "file.txt is not a folder"),
]  # fmt: skip


def test_there_are_at_least_forty():
    assert len({words for words, _ in MISTAKES}) >= 40


def files_in(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[words for words, _ in MISTAKES])
def test_a_mistake_is_answered_in_one_line_that_names_the_way_out(words, message, place, call):
    before = files_in(place)
    done = call(*words.split())
    assert done.code in (1, 2)
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert "Traceback" not in done.err
    assert files_in(place) == before


@pytest.mark.parametrize("distribution", ["vaderSentiment"])
def test_a_missing_package_is_named_with_its_command(distribution, place, call, monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    done = call("bench", "--estimator", "vader", "--limit", "1")
    assert done.code == 2
    assert "pip install vaderSentiment" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_group_without_a_command_shows_its_help(call):
    done = call("data")
    assert done.code == 2
    assert "build-aexl" in done.err


@pytest.mark.parametrize("words", ["--version", "-h", "bench -h", "data -h", "data check -h", "mitigate --list"])
def test_what_is_no_mistake_ends_with_0(words, call):
    done = call(*words.split())
    assert (done.code, done.err) == (0, "")
    assert done.out


def test_the_list_of_mitigations_says_what_each_is_told(call):
    lines = call("mitigate", "--list").out.splitlines()
    assert any("drop-unrelated-text" in line and "layout" in line for line in lines)
    assert any("heads-mean" in line for line in lines)


def made_before(path):
    """The files that a configuration names and a command makes."""
    values = map(str, yaml.safe_load(path.read_text()).values())
    return [value for value in values if value.startswith(("data/", "runs/"))]


@pytest.mark.parametrize(
    ("config", "name"),
    [(path.name, found[0]) for path in sorted((ROOT / "configs").glob("*.yaml")) if (found := made_before(path))],
)
def test_a_missing_file_of_a_shipped_config_names_the_command_of_its_head(config, name, place, call):
    text = (ROOT / "configs" / config).read_text()
    command = "train-lora" if config.startswith("lora") else config.partition("_")[0].removesuffix(".yaml")
    out = ["--out", "new"] if command in ("train-lora", "diagnose", "mitigate") else []
    done = call(command, ROOT / "configs" / config, *out)
    assert done.code == 2
    assert name in done.err
    assert done.err.strip().partition("make it with: ")[2] in text
    assert "make it with: " in done.err


TOLD_BEFORE_TORCH = [
    "bnech", "bench --modle x", "bench no.yaml", "bench --generations 0", "bench --dataset none.jsonl",
    "bench --model ./none", "bench --model embedded:x", "bench --estimator vadder", "bench --device tpu",
    "bench --intervention none.json", "bench --out /proc/none", "diagnose --fit none.jsonl", "mitigate --diagnosis x",
    "train-lora --irrelevant none.jsonl --objectives-anchor 1 --out a", "show none", "report none", "samples none",
    "directions --fit none.jsonl --out o", "attribute --dataset none --out o", "quick Hello --generations 0", "-h",
    "bench -h", "--version", "quick Hello --model ./none", "mitigate --families headz",
    "mitigate --families heads-mean=7", "mitigate --list",
]  # fmt: skip


def test_mistakes_that_need_no_model_are_told_before_torch_is_imported(tmp_path):
    code = (
        "import sys, contextlib, io\n"
        "from leakmech.cli.app import main\n"
        f"for words in {TOLD_BEFORE_TORCH!r}:\n"
        "    sys.argv = ['leakmech', *words.split()]\n"
        "    try:\n"
        "        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):\n"
        "            main()\n"
        "    except SystemExit:\n"
        "        pass\n"
        "    large = {'torch', 'transformers', 'pandas', 'scipy'} & set(sys.modules)\n"
        "    if large:\n"
        "        print(words, sorted(large))\n"
        "        break\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")
