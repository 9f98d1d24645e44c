"""Adapters as families of a comparison: trained once, on what nothing is judged on, and judged like any other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from leakmech.core.store import read_json
from leakmech.datasets.relation import mismatched
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.models.load import load_model
from leakmech.studies.lora import run as lora_run
from leakmech.studies.mitigation.adapters import trained
from leakmech.training.settings import LoraTrainingConfig

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.mark.parametrize("recipe", ["gated", "teacher"])
def test_the_recipe_is_that_of_the_config_which_one_command_takes(recipe):
    shipped = yaml.safe_load((CONFIGS / f"lora_{recipe}.yaml").read_text())
    own = trained(recipe, "")._settings
    named = {"model", "irrelevant", "relevant", "evaluation", "prompt_form"}
    assert {key: value for key, value in shipped.items() if key not in named} == own
    LoraTrainingConfig.parse(shipped)


def parts_of(model, tokenizer, relevant):
    samples = PromptSet("aexl", mismatched(load_dataset("relevant-train")).samples[:14])
    config = SimpleNamespace(system=None, instruction="none")
    return SimpleNamespace(
        loaded=load_model(model, tokenizer=tokenizer), splits={"fit": samples}, relevant=relevant, seed=0,
        config=config, prompt_form="plain", judged_on=("relevant-matched",), progress=lora_run.no_progress,
    )  # fmt: skip


@pytest.mark.parametrize("recipe", ["gated", "teacher"])
def test_an_adapter_is_trained_once_on_fit_samples(make_tiny, chat_tokenizer, tmp_path, monkeypatch, recipe):
    parts = parts_of(make_tiny("llama-gqa"), chat_tokenizer, load_dataset("relevant-fit"))
    before = parts.loaded.weights_hash
    family = replace(trained(recipe, "note").mildest(), steps=2)
    (made,) = family.members(parts, tmp_path)
    folder = tmp_path / f"adapter-{recipe}"
    assert (made.kind, made.told, made.settings) == ("adapter", "nothing", {"adapter": str(folder)})
    assert (folder / "adapter_model.safetensors").exists()
    assert load_model(parts.loaded.model, tokenizer=chat_tokenizer).weights_hash == before
    stored = read_json(folder / "run.json")["config"]
    assert (stored["prompt_form"], stored["examples"], stored["batch_size"], stored["epochs"]) == ("plain", 4, 2, 1)
    assert tuple(stored["evaluation"]) == ("relevant-matched",)
    fitted = {sample.stem for sample in load_dataset("relevant-fit").split("fit")}
    tuned = {sample.stem for sample in load_dataset("relevant-fit").split("tune")} - fitted
    examples = (folder / "examples.jsonl").read_text()
    assert not [stem for stem in tuned if stem in examples]
    monkeypatch.setattr(lora_run, "train_lora", lambda *_, **__: pytest.fail("trained again"))
    assert family.members(parts, tmp_path) == [made]
