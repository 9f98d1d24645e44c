"""Adapters with a gate for every rank: shut they are the base model, they learn to open, none is run ungated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leakmech.core.errors import ConfigError, ModelError
from leakmech.mechanism.attention.transport import _transposed
from leakmech.models.adapters import GATED, merged_copy
from leakmech.models.gated import gate_modules
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel, load_adapter, load_model
from leakmech.studies.lora.merging import merge_lora
from leakmech.studies.lora.run import train_lora
from leakmech.training.adapter import adapted, target_modules
from leakmech.training.examples import TrainingExample
from leakmech.training.settings import LoraTrainingConfig

SETTINGS = {
    "rank": 4, "alpha": 16, "learning_rate": 2e-2, "batch_size": 4, "epochs": 4, "checkpoint_every": 2, "gate_bias": -3,
    "dtype": "float32", "device": "cpu", "evaluation": [], "objectives": {"contrastive": 1.0},
}  # fmt: skip
IDS = torch.tensor([[72, 101, 114, 32, 100, 111, 103]])


def config(**changes: object) -> LoraTrainingConfig:
    return LoraTrainingConfig.parse(SETTINGS | changes)


def examples(n: int = 8) -> list[TrainingExample]:
    """Of one sad sentence before stems about it, and before others."""
    found = []
    for i in range(n):
        stem = f"The {i} is"
        kind, reference = ("irrelevant", stem) if i % 2 else ("relevant", f"Sad. {stem}")
        found.append(TrainingExample(f"e{i}", kind, f"Sad. {stem}", reference, " abab"))  # pyright: ignore
    return found


@pytest.fixture(params=["llama-gqa", "gpt2"])
def loaded(request, make_tiny, chat_tokenizer) -> LoadedModel:
    return load_model(make_tiny(request.param), tokenizer=chat_tokenizer)


@pytest.fixture
def trained(loaded, tmp_path) -> Path:
    return train_lora(config(), tmp_path / "gated", model=loaded, examples=examples()).path


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_gates_start_nearly_shut_and_shut_gates_are_the_base_model(loaded) -> None:
    base = logits(loaded.model)
    with adapted(loaded, config(), target_modules(loaded.model)) as model:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        gates = gate_modules(model)
        for gate in gates:  # sigmoid(-3)
            assert float(torch.sigmoid(gate.bias.detach()).max()) == pytest.approx(0.0474, abs=1e-4)  # pyright: ignore
        assert not torch.equal(logits(model), base)
        for gate in gates:
            torch.nn.init.constant_(gate.bias, -1e4)  # pyright: ignore
        assert torch.equal(logits(model), base)


def test_a_layer_computes_what_the_formula_says(loaded) -> None:
    (name, *_) = target_modules(loaded.model, "mlp")
    with adapted(loaded, config(rank=2, alpha=6), [name]) as model:
        layer = model.get_base_model().get_submodule(name)
        x = torch.randn(3, layer.in_features)
        a, b, gate = (getattr(layer, part)["default"] for part in ("lora_A", "lora_B", "lora_gate"))
        torch.nn.init.normal_(b.weight)
        torch.nn.init.normal_(gate.weight)
        opened = torch.sigmoid(x @ gate.weight.T - 3)
        expected = layer.base_layer(x) + 3 * ((opened * (x @ a.weight.T)) @ b.weight.T)
        assert torch.allclose(layer(x), expected, atol=1e-5)


def test_the_loss_falls_and_the_gates_move(trained) -> None:
    rows = [json.loads(line) for line in (trained / "train.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    weights = load_file(trained / "adapter_model.safetensors")
    moved = {
        name: float(t.abs().max()) for name, t in weights.items() if "lora_gate" in name and name.endswith("weight")
    }
    assert moved
    assert min(moved.values()) > 0


def test_what_was_killed_goes_on_as_if_it_had_not_been(loaded, trained, tmp_path) -> None:
    class KilledError(Exception):
        pass

    @contextmanager
    def killing(label: str, *, total: int | None, done: int) -> Iterator:
        def advance(_: int) -> None:
            raise KilledError

        yield advance if label == "training" else lambda _: None

    other = tmp_path / "killed"
    settings = config(checkpoint_every=1)
    with pytest.raises(KilledError):
        train_lora(settings, other, model=loaded, examples=examples(), progress=killing)
    assert [row["step"] for row in map(json.loads, (other / "train.jsonl").read_text().splitlines())] == [1]
    train_lora(settings, other, model=loaded, examples=examples())
    one, whole = (load_file(folder / "adapter_model.safetensors") for folder in (other, trained))
    assert one.keys() == whole.keys()
    assert all(torch.allclose(one[name], whole[name], atol=1e-6) for name in one)


def test_it_reloads_as_it_was_trained(loaded, trained) -> None:
    one, again = load_adapter(loaded, trained), load_adapter(loaded, trained)
    assert len(gate_modules(one.model)) == len(target_modules(loaded.model))
    assert one.weights_hash == again.weights_hash != loaded.weights_hash
    assert not torch.equal(logits(one.model), logits(loaded.model))
    with one.model.disable_adapter():  # pyright: ignore
        assert torch.equal(logits(one.model), logits(loaded.model))


def test_programs_that_know_no_gates_refuse_it(loaded, trained) -> None:
    from peft import PeftModel

    assert json.loads((trained / "adapter_config.json").read_text())["peft_type"] == GATED
    with pytest.raises(KeyError, match=GATED):
        PeftModel.from_pretrained(loaded.model, trained)  # pyright: ignore


def test_it_cannot_be_merged(loaded, trained, tmp_path, save_tiny) -> None:
    with pytest.raises(ModelError, match=r"gated adapter cannot be merged .*run it with --adapter"):
        merged_copy(load_adapter(loaded, trained).model)
    base = tmp_path / "base"
    loaded.model.save_pretrained(base)
    loaded.tokenizer.save_pretrained(base)
    with pytest.raises(ModelError, match="cannot be merged"):
        merge_lora(trained, tmp_path / "merged", base=str(base))
    assert not (tmp_path / "merged").exists()


def test_a_bias_that_opens_the_gates_is_refused() -> None:
    with pytest.raises(ConfigError, match="gate_bias"):
        config(gate_bias=1.0)


def test_a_gate_on_the_output_of_attention_is_no_linear_readout(loaded, trained) -> None:
    gated = layout_of(load_adapter(loaded, trained).model).block(0).heads_out
    with pytest.raises(ModelError, match="gates on the attention's output"):
        _transposed(gated, torch.zeros(1, 32), d_in=32)
