"""A benchmark under interventions: hooks and folded weights agree, and no run takes another's generations."""

import json
from dataclasses import replace

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import InterventionError, RunDirectoryError, UsageError
from leakmech.interventions.types import interventions_key

SETTINGS = {
    "dtype": "float32",
    "limit": 2,
    "generations": 2,
    "decoding": {"max_new_tokens": 12},
    "estimator": "vader",
    "bootstrap_draws": 100,
    "noise_floor": False,
}
HEADS = leakmech.ModulateCircuit(["L0H1", "L1.mlp"], scales=[0.0, 0.5])
DAMPEN = leakmech.DampenAttention(["L0H0", "L0H1", "L1H2", "L2H3"], factor=0.0)


@pytest.fixture(scope="module")
def plain(folder, tmp_path_factory):
    return texts(leakmech.bench(folder, out=tmp_path_factory.mktemp("runs") / "plain", **SETTINGS))


def texts(result):
    rows = [json.loads(line) for line in (result.path / "generations" / "shard-000.jsonl").read_text().splitlines()]
    return {(row["prompt_id"], row["generation"]): row["text"] for row in rows}


def test_a_file_runs_as_hooks_and_folded_and_both_generate_the_same(folder, plain, tmp_path):
    path = leakmech.save_interventions(HEADS, tmp_path / "heads.json", model=leakmech.load_model(folder))
    hooked = leakmech.bench(folder, intervention=str(path), out=tmp_path / "hooked", **SETTINGS)
    folded = leakmech.bench(folder, intervention=str(path), fold=True, out=tmp_path / "folded", **SETTINGS)
    assert texts(hooked) == texts(folded)
    assert texts(hooked) != plain
    described = json.loads((hooked.path / "run.json").read_text())
    assert described["interventions"] == ["modulate_circuit (L0H1, L1.mlp)"]
    assert described["fingerprint"]["interventions"] == interventions_key([HEADS])


def test_dampened_attention_changes_prompts_with_an_injection_and_no_others(folder, plain, tmp_path):
    found = texts(leakmech.bench(folder, interventions=DAMPEN, out=tmp_path / "run", **SETTINGS))
    changed = {prompt.split("/")[1] for (prompt, _), text in found.items() if text != plain[prompt, _]}
    assert changed == {"positive", "neutral", "negative"}


def test_interventions_go_with_instructions_and_adapters(folder, tmp_path, make_tiny):
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(make_tiny("llama-gqa"), lora).save_pretrained(tmp_path / "adapter")
    fitted = replace(HEADS, model_hash=leakmech.load_model(folder, dtype="float32").weights_hash)
    settings = SETTINGS | {"adapter": str(tmp_path / "adapter"), "instruction": "ignore-irrelevant"}
    results = {}
    for name, more in {
        "alone": {},
        "hooked": {"interventions": fitted},
        "folded": {"interventions": fitted, "fold": True},
    }.items():
        results[name] = texts(leakmech.bench(folder, out=tmp_path / name, **settings, **more))
    assert results["hooked"] == results["folded"] != results["alone"]


def test_a_run_never_takes_generations_of_other_interventions(folder, tmp_path):
    path = tmp_path / "heads.json"
    leakmech.save_interventions(HEADS, path)
    out = tmp_path / "run"
    leakmech.bench(folder, intervention=str(path), out=out, **SETTINGS)
    with pytest.raises(RunDirectoryError, match=r"other settings.*intervention"):
        leakmech.bench(folder, out=out, **SETTINGS)
    with pytest.raises(RunDirectoryError, match=r"other settings.*fold"):
        leakmech.bench(folder, intervention=str(path), fold=True, out=out, **SETTINGS)
    leakmech.save_interventions(replace(HEADS, scales=[0.0, 0.25]), path)
    with pytest.raises(RunDirectoryError, match="other interventions"):
        leakmech.bench(folder, intervention=str(path), out=out, **SETTINGS)


def test_a_run_from_before_there_were_interventions_goes_on(folder, tmp_path):
    first = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    stored = json.loads((first.path / "run.json").read_text())
    del stored["config"]["intervention"], stored["config"]["fold"]
    (first.path / "run.json").write_text(json.dumps(stored))
    assert leakmech.bench(folder, out=tmp_path / "run", **SETTINGS).summary == first.summary


def test_what_cannot_be_done_is_said_before_anything_is_written(folder, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(UsageError, match="no interventions to fold"):
        leakmech.bench(folder, fold=True, out=out, **SETTINGS)
    with pytest.raises(InterventionError, match=r"dampen_attention .*cannot be folded"):
        leakmech.bench(folder, interventions=DAMPEN, fold=True, out=out, **SETTINGS)
    with pytest.raises(InterventionError, match="hash 1234"):
        leakmech.bench(folder, interventions=replace(HEADS, model_hash="1234"), out=out, **SETTINGS)
    with pytest.raises(InterventionError, match="no such file"):
        leakmech.bench(folder, intervention=str(tmp_path / "none.json"), out=out, **SETTINGS)
    leakmech.save_interventions(HEADS, tmp_path / "heads.json", prompt_form="plain")
    with pytest.raises(InterventionError, match=r"fitted on prompts in plain form, here they are in chat form"):
        leakmech.bench(folder, intervention=str(tmp_path / "heads.json"), out=out, **SETTINGS)
    assert not out.exists()


def test_the_command_takes_a_file_and_folds_it(folder, tmp_path):
    path = leakmech.save_interventions(HEADS, tmp_path / "heads.json")
    fast = [
        "--limit",
        "2",
        "--generations",
        "2",
        "--max-new-tokens",
        "12",
        "--estimator",
        "vader",
        "--dtype",
        "float32",
    ]
    command = ["bench", "--model", folder, *fast, "--intervention", path, "--fold", "--out", tmp_path / "run"]
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    stored = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (stored["intervention"], stored["fold"]) == (str(path), True)


def test_folding_nothing_is_refused_before_a_model_is_loaded():
    with pytest.raises(UsageError, match="there are no interventions to fold"):
        leakmech.bench("no/such-model", fold=True)
