"""``attribute`` and ``directions`` read a model with its adapter, as ``diagnose`` does."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from mechanism_samples import few_to_fit
from peft import LoraConfig, get_peft_model
from tiny_models import build_tiny, build_tokenizer
from typer.testing import CliRunner

from leakmech.cli.app import app


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, an adapter on it, and both merged."""
    root = tmp_path_factory.mktemp("adapted")
    build_tiny("llama-gqa").save_pretrained(root / "base")
    torch.manual_seed(0)
    model = get_peft_model(build_tiny("llama-gqa"), LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.5 * torch.randn_like(parameter))
    model.save_pretrained(root / "adapter")
    model.merge_and_unload().save_pretrained(root / "merged")
    for name in ("base", "merged"):
        build_tokenizer(chat=True).save_pretrained(root / name)
    return root


@pytest.mark.fault("X532", "hints", "attribute or directions of a model with an adapter", "--adapter, as elsewhere")
@pytest.mark.parametrize(
    ("command", "table", "column"),
    [
        (["attribute", "--limit", "2"], "heads.csv", "score"),
        (["directions", "--fit", "FEW", "--methods", "difference_of_means", "--layers", "1"],
         "directions.csv", "test_auc"),
    ],
)  # fmt: skip
def test_what_is_read_is_the_model_with_its_adapter(folders, tmp_path, command, table, column):
    command = [few_to_fit(tmp_path) if part == "FEW" else part for part in command]
    found = {}
    for name, options in {
        "base": ["--model", str(folders / "base")],
        "adapted": ["--model", str(folders / "base"), "--adapter", str(folders / "adapter")],
        "merged": ["--model", str(folders / "merged")],
    }.items():
        done = CliRunner().invoke(app, [*command, *options, "--dtype", "float32", "--out", str(tmp_path / name)])
        assert done.exit_code == 0, done.output
        frame = pd.read_csv(tmp_path / name / "tables" / table)
        found[name] = frame.sort_values(list(frame.columns[:3]))[column].to_numpy()
    assert found["adapted"] == pytest.approx(found["merged"], rel=1e-2, abs=1e-4)
    assert found["adapted"] != pytest.approx(found["base"], rel=1e-2, abs=1e-4)
