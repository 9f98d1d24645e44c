"""The commands train-lora and merge-lora."""

from __future__ import annotations

import json

import pytest
import yaml
from typer.testing import CliRunner

from leakmech.cli.app import app
from leakmech.core.errors import ConfigError
from leakmech.models.load import load_model
from leakmech.training.examples import TrainingExample, save_examples


@pytest.fixture
def recipe(save_tiny, tmp_path):
    prompts = [f"<|im_start|>user\nSay {i}<|im_end|>\n" for i in range(6)]
    save_examples(tmp_path / "examples.jsonl", [TrainingExample(p[-13:], "plain", p, p, " yes it is") for p in prompts])
    settings = {
        "model": str(save_tiny("qwen2")), "examples_file": str(tmp_path / "examples.jsonl"), "evaluation": ["hexl"],
        "dtype": "float32", "device": "cpu", "objectives": {"anchor": 1.0}, "batch_size": 3, "epochs": 1,
    }  # fmt: skip
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_train_then_merge(recipe, tmp_path) -> None:
    runner = CliRunner()
    done = runner.invoke(
        app, ["train-lora", str(recipe), "--out", str(tmp_path / "a"), "--rank", "2"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "6 plain" in done.stdout
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["kind"] == "train"
    assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["r"] == 2
    assert (tmp_path / "a" / "figures" / "loss.png").stat().st_size > 1000
    named = runner.invoke(app, ["train-lora", "--out", str(tmp_path / "a")], catch_exceptions=False)
    assert named.exit_code == 0
    assert "6 plain" in named.stdout
    merged = ["merge-lora", str(tmp_path / "a"), "--out", str(tmp_path / "merged"), "--dtype", "bfloat16"]
    assert runner.invoke(app, merged, catch_exceptions=False).exit_code == 0
    assert load_model(tmp_path / "merged", device="cpu").adapter is None


def test_a_wrong_key_names_the_file_and_the_right_one(recipe, tmp_path) -> None:
    recipe.write_text(recipe.read_text() + "epoch: 3\n")
    with pytest.raises(ConfigError, match=r"recipe\.yaml: unknown key 'epoch'; did you mean 'epochs'"):
        CliRunner().invoke(app, ["train-lora", str(recipe), "--out", str(tmp_path / "a")], catch_exceptions=False)
    assert not (tmp_path / "a").exists()
