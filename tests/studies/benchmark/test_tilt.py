"""A benchmark with tilt: the base model's completions, under whatever changes the model, made once and continued."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model

import leakmech
from leakmech.core.errors import (
    ConfigError,
    DatasetError,
    InterruptedRunError,
    LeakmechWarning,
    RunDirectoryError,
    UsageError,
)
from leakmech.core.seeds import stable_hash
from leakmech.generation import likelihood
from leakmech.scoring.tilt import FEWEST_DISTINCT
from leakmech.studies.benchmark import measurement, tilt
from leakmech.studies.benchmark.report import write_report

SETTINGS = {
    "dtype": "float32",
    "limit": 3,
    "generations": 3,
    "decoding": {"max_new_tokens": 10},
    "estimator": "letters",
    "bootstrap_draws": 100,
    "tilt": True,
    "tilt_completions": 8,
}
HEADS = leakmech.ModulateCircuit(["L0H1", "L1.mlp"], scales=[0.0, 0.5])


@dataclass(frozen=True)
class Letters:
    """An estimator whose opinion hangs on the text alone, and differs between texts."""

    name: str
    details: dict = field(default_factory=dict)

    def __call__(self, texts):
        rows = [
            np.random.default_rng(stable_hash(self.name, text) & (2**63 - 1)).dirichlet([1, 1, 1]) for text in texts
        ]
        return np.array(rows).reshape(-1, 3)


@pytest.fixture(autouse=True)
def _letters(monkeypatch):
    monkeypatch.setattr(measurement, "load_estimator", lambda name, **_: Letters(name))


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run of the base model with tilt."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "load_estimator", lambda name, **_: Letters(name))
        return leakmech.bench(folder, out=tmp_path_factory.mktemp("runs") / "base", **SETTINGS)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def completions(result):
    return {line["sample"]: line["completions"] for line in lines(result.path / "tilt" / "completions.jsonl")}


def likelihoods(result):
    return {line["sample"]: line["log_p"] for line in lines(result.path / "tilt" / "likelihoods.jsonl")}


def texts(result):
    return {name: [c["text"] for c in own] for name, own in completions(result).items()}


def numbers(result):
    return {key: value for key, value in result.summary["tilt"].items() if key != "sampled"}


def test_a_base_run_takes_its_own_control_generations_and_draws_what_is_missing(finished, folder, tmp_path):
    controls = {}
    for row in lines(finished.path / "generations" / "shard-000.jsonl"):
        if row["condition"] == "control":
            controls[row["sample"], row["generation"]] = row["text"]
    drawn = lines(finished.path / "tilt" / "drawn.jsonl")
    assert {row["generation"] for row in drawn} == {6, 7}  # 3 and another 3 of the noise floor are there
    for sample, own in completions(finished).items():
        for completion in own:
            if completion["generation"] < 6:
                assert controls[sample, completion["generation"]].startswith(completion["text"])
    # What is drawn is what a run with more generations has.
    settings = SETTINGS | {"generations": 4, "tilt": False, "estimator": "letters"}
    del settings["tilt_completions"]
    more = leakmech.bench(folder, out=tmp_path / "more", **settings)
    wanted = {
        (r["prompt_id"], r["generation"]): r["text"] for r in lines(more.path / "generations" / "shard-000.jsonl")
    }
    assert all(row["text"] == wanted[row["prompt_id"], row["generation"]] for row in drawn)


def test_likelihoods_are_those_of_the_plain_forward_pass_after_the_runs_prompts(finished, folder):
    loaded = leakmech.load_model(folder, dtype="float32")
    prompts = {line["id"]: line["rendered"] for line in lines(finished.path / "prompts.jsonl")}
    for sample, by_condition in likelihoods(finished).items():
        for condition, values in by_condition.items():
            given = loaded.tokenizer(prompts[f"{sample}/{condition}"], add_special_tokens=False)["input_ids"]
            for completion, value in zip(completions(finished)[sample], values, strict=True):
                own = loaded.tokenizer(completion["text"], add_special_tokens=False)["input_ids"]
                with torch.inference_mode():
                    logits = loaded.model(torch.tensor([given + own])).logits[0, len(given) - 1 : -1].double()
                expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(own)[:, None]).sum()
                assert value == pytest.approx(expected.item(), abs=2e-3)


def test_the_summary_the_table_and_the_page_tell_it(finished):
    told = finished.summary["tilt"]
    assert (told["n_samples"], told["n_asked"], told["estimator"]) == (3, 24, "letters")
    table = finished.table("tilt")
    assert table["per_token_shift"].mean() == pytest.approx(told["per_token"]["shift"])
    assert {"summed_control", "summed_neutral", "n_distinct", "left_out"} <= set(table.columns)
    markdown = finished.to_markdown()
    assert "Affective tilt: 3 stems" in markdown
    assert "tilt, right sign" in markdown
    assert "Affective tilt" in write_report(finished.path).read_text()


def test_hooks_and_folded_weights_tilt_alike_on_the_base_models_completions(finished, folder, tmp_path):
    hooked = leakmech.bench(folder, interventions=HEADS, out=tmp_path / "hooked", **SETTINGS)
    folded = leakmech.bench(folder, interventions=HEADS, fold=True, out=tmp_path / "folded", **SETTINGS)
    given = leakmech.bench(
        folder, interventions=HEADS, out=tmp_path / "given", tilt_from=str(finished.path), **SETTINGS
    )
    assert texts(hooked) == texts(folded) == texts(given) == texts(finished)
    assert not (given.path / "tilt" / "drawn.jsonl").exists()
    for one in (folded, given):
        for sample, by_condition in likelihoods(hooked).items():
            for condition, values in by_condition.items():
                np.testing.assert_allclose(likelihoods(one)[sample][condition], values, rtol=1e-4, atol=1e-4)
    assert likelihoods(hooked) != likelihoods(finished)
    compared = leakmech.compare([finished, hooked], statistic="tilt", draws=100)
    shifts = [one.summary["tilt"]["per_token"]["shift"] for one in (finished, hooked)]
    assert [compared.estimate(run).value for run in compared.runs] == pytest.approx(shifts)
    assert compared.of()[0].difference == pytest.approx(shifts[1] - shifts[0])


def test_tilts_are_compared_of_the_same_completions_only(finished, folder, tmp_path):
    others = leakmech.bench(folder, out=tmp_path / "other-seed", **{**SETTINGS, "seed": 1})
    without = leakmech.bench(folder, out=tmp_path / "without", **{**SETTINGS, "tilt": False})
    with pytest.raises(RunDirectoryError, match="have the tilt of different completions; make one of them with --tilt"):
        leakmech.compare([finished, others], statistic="tilt")
    with pytest.raises(RunDirectoryError, match="has no tilt; run bench with --tilt"):
        leakmech.compare([finished, without], statistic="tilt")


def test_an_adapter_is_judged_on_the_base_models_completions(finished, folder, make_tiny, tmp_path):
    lora = LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    get_peft_model(make_tiny("llama-gqa"), lora).save_pretrained(tmp_path / "adapter")
    adapted = leakmech.bench(folder, adapter=str(tmp_path / "adapter"), out=tmp_path / "adapted", **SETTINGS)
    assert texts(adapted) == texts(finished)
    assert likelihoods(adapted) != likelihoods(finished)


def test_a_rewritten_prompt_is_what_the_completions_follow(finished, folder, tmp_path):
    oracle = leakmech.bench(folder, prompt_rewrite="control", out=tmp_path / "oracle", **SETTINGS)
    assert texts(oracle) == texts(finished)
    for sample, by_condition in likelihoods(oracle).items():
        assert (
            by_condition["positive"]
            == by_condition["control"]
            == pytest.approx(likelihoods(finished)[sample]["control"])
        )
    assert oracle.summary["tilt"]["summed"]["shift"] == 0.0


def test_an_interrupted_run_goes_on_with_the_next_sample(finished, folder, tmp_path, monkeypatch):
    n, whole = [], likelihood.log_likelihoods

    def interrupted(*args, **options):
        n.append(1)
        if len(n) == 6:  # in the second sample
            raise KeyboardInterrupt
        return whole(*args, **options)

    monkeypatch.setattr(tilt, "log_likelihoods", interrupted)
    with pytest.raises(InterruptedRunError):
        leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    with (tmp_path / "run" / "tilt" / "likelihoods.jsonl").open("a") as file:
        file.write('{"sample": "hexl-002", "n_tok')  # what a kill in the middle of a write leaves
    monkeypatch.setattr(tilt, "log_likelihoods", lambda *args, **options: n.append(1) or whole(*args, **options))
    resumed = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    assert len(n) == 6 + 8
    assert likelihoods(resumed) == likelihoods(finished)
    assert numbers(resumed) == numbers(finished)


def test_completions_of_another_run_must_be_of_the_same_samples(finished, folder, tmp_path):
    more = SETTINGS | {"tilt_from": str(finished.path)}
    with pytest.raises(DatasetError, match="has no completions of sample 'hexl-004'"):
        leakmech.bench(folder, out=tmp_path / "a", **{**more, "limit": 4})
    with pytest.raises(RunDirectoryError, match="has no completions; tilt_from names a run"):
        leakmech.bench(folder, out=tmp_path / "b", **{**more, "tilt_from": str(tmp_path)})
    assert not (tmp_path / "a").exists()
    fewer = leakmech.bench(folder, out=tmp_path / "c", **{**more, "limit": 2, "tilt_completions": 6})
    assert fewer.summary["tilt"]["n_asked"] == 12


def test_what_cannot_be_measured_is_refused_before_anything_is_written(folder, tmp_path):
    for settings, message in (
        ({"tilt": False, "tilt_from": "x", "tilt_completions": 16}, "add tilt"),
        ({"contrast": "subtract-context"}, "no likelihood is known"),
        ({"conditions": ["control", "positive"]}, "add both to the conditions"),
        ({"tilt_completions": FEWEST_DISTINCT - 1}, f"tilt_completions.*{FEWEST_DISTINCT}"),
    ):
        with pytest.raises(ConfigError, match=message):
            leakmech.bench(folder, out=tmp_path / "run", **{**SETTINGS, **settings})
    config = leakmech.studies.benchmark.settings.BenchConfig.parse({"model": str(folder), **SETTINGS})
    with pytest.raises(UsageError, match="name a run of the base model with tilt_from"):
        leakmech.studies.benchmark.run.run_benchmark(config, out=tmp_path / "run", outside={"hook": "x"})
    assert not (tmp_path / "run").exists()


def test_a_run_scored_again_keeps_its_likelihoods_under_another_estimator(finished, tmp_path):
    same = leakmech.score(finished.path, out=tmp_path / "same")
    assert numbers(same) == numbers(finished)
    other = leakmech.score(finished.path, out=tmp_path / "other", estimator="other")
    assert likelihoods(other) == likelihoods(finished)
    assert other.summary["tilt"]["estimator"] == "other"
    assert other.summary["tilt"]["summed"]["d_z"] != finished.summary["tilt"]["summed"]["d_z"]


@pytest.mark.fault("X335", "runs", "a run with tilt scored under another cleaning", "not taken over")
def test_a_run_scored_by_other_sentences_has_no_tilt_of_the_former_ones(finished, tmp_path):
    with pytest.warns(LeakmechWarning, match=r"the tilt of base is that of other sentences \(cleaning\)"):
        other = leakmech.score(finished.path, out=tmp_path / "other", cleaning="raw")
    assert "tilt" not in other.summary
    assert not (other.path / "tilt").exists()


@pytest.mark.fault("X336", "answers", "tilt where no control answer has a sentence", "a run without tilt")
def test_a_model_that_says_nothing_has_no_tilt(folder, tmp_path, monkeypatch):
    stored = tilt.TiltStage._stored
    monkeypatch.setattr(tilt.TiltStage, "_stored", lambda self: [(key, " ") for key, _ in stored(self)])
    with pytest.warns(LeakmechWarning, match="no answer to a control prompt has a sentence"):
        found = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS)
    assert "tilt" not in found.summary
    assert leakmech.load_result(tmp_path / "run").to_markdown()


@pytest.mark.fault("X337", "settings", "temperature: model, where tilt draws completions", "the checkpoint's own")
def test_completions_are_drawn_at_the_models_own_temperature(folder, tmp_path):
    decoding = SETTINGS["decoding"] | {"temperature": "model"}
    found = leakmech.bench(folder, out=tmp_path / "own", **SETTINGS | {"decoding": decoding})
    named = leakmech.bench(folder, out=tmp_path / "named", **SETTINGS)
    assert texts(found) == texts(named)  # this checkpoint names none, so that it is 1


def test_completions_without_a_sentence_are_counted_and_poor_stems_named(finished, folder, tmp_path, monkeypatch):
    stored = tilt.TiltStage._stored

    def poorer(key, text):
        sample, number = key[0].partition("/")[0], key[1]
        if number == 0 or sample == "hexl-003":
            return " "
        return " the same." if sample == "hexl-002" else text

    monkeypatch.setattr(
        tilt.TiltStage, "_stored", lambda self: [(key, poorer(key, text)) for key, text in stored(self)]
    )
    found = leakmech.bench(folder, out=tmp_path / "run", **SETTINGS).summary["tilt"]
    assert found["n_empty"] >= 3
    assert {"hexl-002", "hexl-003"} <= set(found["left_out"]["fewer than 5 different completions"])
