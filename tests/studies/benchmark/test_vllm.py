"""`bench --engine vllm` from end to end, with a FAKE of vLLM (`fake_vllm.py`)."""

import json
import sys

import fake_vllm
import pytest
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, RunDirectoryError
from leakmech.generation.vllm_engine import BATCH_INVARIANT
from leakmech.studies.benchmark import run as module
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation.evaluation import evaluate_mitigations
from leakmech.studies.sweep.spec import sweep_of

SETTINGS = {
    "dtype": "float32",
    "limit": 2,
    "generations": 2,
    "estimator": "vader",
    "bootstrap_draws": 100,
    "decoding": {"max_new_tokens": 6},
}
HEADS = leakmech.ScaleHeads(["L0H1"], scales=[0.0])


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.delenv(BATCH_INVARIANT, raising=False)
    return fake_vllm.install(monkeypatch)


def bench(folder, out, **changed):
    return leakmech.bench(str(folder), out=out, **SETTINGS | {"engine": "vllm"} | changed)


def stored(path):
    return json.loads((path / "run.json").read_text())


def test_a_run_on_vllm_says_what_drew_it(fake, folder, tmp_path):
    result = bench(folder, tmp_path / "run", noise_floor=True)
    identity = {
        "engine": "vllm", "engine_version": fake_vllm.VERSION, "engine_device": "fake device", "batch_invariant": "no",
    }  # fmt: skip
    assert len(result.scores) == len(fake.requests) == 2 * 2 * 5
    assert result.summary["engine"] == identity
    assert (result.summary["device"], result.summary["dtype"]) == ("fake device", "float32")
    record = stored(result.path)
    assert record["fingerprint"].items() >= identity.items()
    assert (record["config"]["engine"], record["batch_size"]) == ("vllm", 1000)
    assert f"vllm {fake_vllm.VERSION}" in result.report().read_text(encoding="utf-8")


def test_a_run_of_the_default_engine_is_recorded_as_before(folder, tmp_path):
    result = bench(folder, tmp_path / "run", engine="hf", device="cpu")
    record = stored(result.path)
    assert not {"engine", "engine_version", "engine_device", "batch_invariant"} & record["fingerprint"].keys()
    assert "engine" not in record["config"]
    assert "engine" not in result.summary


def test_both_engines_read_the_same_model_and_can_be_compared(fake, folder, tmp_path):
    ours = bench(folder, tmp_path / "hf", engine="hf", device="cpu")
    theirs = bench(folder, tmp_path / "vllm")
    same = ("weights", "tokenizer", "template", "prompts", "dataset", "dtype")
    assert [stored(ours.path)["fingerprint"][key] for key in same] == [
        stored(theirs.path)["fingerprint"][key] for key in same
    ]
    [difference] = leakmech.compare([ours, theirs], margin=0.05, draws=100).of()
    assert 0 <= difference.p_equivalence <= 1


def test_an_interrupted_run_goes_on_with_what_is_missing(fake, folder, tmp_path):
    whole = bench(folder, tmp_path / "run")
    shard = whole.path / "generations" / "shard-000.jsonl"
    lines = shard.read_text().splitlines(keepends=True)
    (whole.path / "summary.json").unlink()
    shard.write_text("".join(lines[:7]) + lines[7][:20])
    fake.calls.clear()
    again = bench(folder, tmp_path / "run", batch_size=4)
    assert len(fake.requests) == len(lines) - 7
    assert sorted(shard.read_text().splitlines()) == sorted("".join(lines).splitlines())
    assert again.summary | {"timing": 0} == whole.summary | {"timing": 0}


def test_a_run_is_continued_by_the_same_engine_only(fake, folder, tmp_path, monkeypatch):
    path = bench(folder, tmp_path / "run").path
    (path / "summary.json").unlink()
    with pytest.raises(RunDirectoryError, match="engine is 'vllm' there and 'hf' here"):
        bench(folder, path, engine="hf")
    monkeypatch.setenv(BATCH_INVARIANT, "1")
    with pytest.raises(RunDirectoryError, match="holds a run with other batch_invariant"):
        bench(folder, path)
    monkeypatch.delenv(BATCH_INVARIANT)
    monkeypatch.setattr(sys.modules["vllm"], "__version__", "0.33")
    with pytest.raises(RunDirectoryError, match="holds a run with other engine_version"):
        bench(folder, path)


def test_naming_a_run_is_enough_to_continue_it_and_a_finished_one_needs_no_vllm(fake, folder, tmp_path, monkeypatch):
    path = bench(folder, tmp_path / "run").path
    (path / "summary.json").unlink()
    assert CliRunner().invoke(app, ["bench", "--out", str(path), "--quiet", "--no-report"]).exit_code == 0
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert len(bench(folder, path).scores) == 20
    (path / "summary.json").unlink()
    with pytest.raises(ConfigError, match="vLLM cannot be imported"):
        bench(folder, path)


@pytest.mark.long
def test_folded_interventions_and_rewritten_prompts_run(fake, folder, tmp_path):
    folded = bench(folder, tmp_path / "folded", interventions=HEADS, fold=True)
    plain = bench(folder, tmp_path / "plain")
    assert [made["model"] == str(folder) for made in fake.made] == [False, True]
    assert folded.scores["first_sentence"].tolist() != plain.scores["first_sentence"].tolist()
    assert bench(folder, tmp_path / "self", prompt_rewrite="self").summary["rewrites"]["overall"]["n"] == 8


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"engine": "vlm"}, "engine 'vlm': no such name; did you mean 'vllm'?"),
        ({"intervention": "edit.json"}, "engine 'vllm': cannot do what this run needs: interventions as hooks (fold"),
        ({"contrast": "placebo"}, "engine 'vllm': cannot do what this run needs: contrastive decoding"),
        ({"on_task": True}, "engine 'vllm': on_task reads likelihoods of the model, which this engine does not give"),
        ({"tilt": True}, "engine 'vllm': tilt reads likelihoods"),
        ({"prompt_rewrite": "leave-one-out"}, "engine 'vllm': prompt_rewrite reads likelihoods"),
        ({"decoding": {"no_repeat_ngrams": 3}}, "engine 'vllm': vLLM has no rule against repeated n-grams"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_in_the_settings(changed, message):
    with pytest.raises(ConfigError) as caught:
        BenchConfig.parse({"engine": "vllm"} | changed)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError):
        sweep_of("bench", changed, {"engine": ["hf", "vllm"], "seed": [0, 1]} if "engine" not in changed else {})


def test_engines_are_an_axis_of_a_sweep():
    cells = sweep_of("bench", {}, {"engine": ["hf", "vllm"]}).cells
    assert [cell.differs for cell in cells] == [{"engine": "hf"}, {"engine": "vllm"}]
    assert len({cell.key for cell in cells}) == 2


def test_hooks_given_as_values_are_refused_too(fake, folder, tmp_path):
    with pytest.raises(ConfigError, match="--fold"):
        bench(folder, tmp_path / "run", interventions=HEADS)
    assert not (tmp_path / "run").exists()


def test_without_the_package_a_line_names_the_extra_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    for name in ("load_configured", "arranged_samples"):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("loaded"))
    given = ["bench", "--model", str(folder), "--engine", "vllm", "--out", str(tmp_path / "run")]
    found = CliRunner().invoke(app, given, standalone_mode=False)
    assert isinstance(found.exception, ConfigError)
    assert ".[vllm]" in str(found.exception)
    assert not (tmp_path / "run").exists()


def test_mitigations_are_measured_inside_the_model(folder):
    with pytest.raises(ConfigError, match="side effects are measured inside the model; leave engine 'vllm' out"):
        evaluate_mitigations([HEADS], model=str(folder), engine="vllm")
