"""A process that keeps models gives the same one out again, and only as long as it is the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from leakmech.core.errors import LeakmechWarning
from leakmech.models.configured import load_configured
from leakmech.models.kept import keeping_models
from leakmech.models.load import load_adapter


def _asked(folder: Path, **other: Any) -> Any:
    settings = {"model": str(folder), "revision": None, "dtype": "float32", "device": "cpu", "trust_remote_code": False}
    return SimpleNamespace(**(settings | other))


@pytest.fixture
def folder(save_tiny: Any) -> Path:
    return save_tiny()


def _adapter(folder: Path, out: Path) -> Path:
    model: Any = load_configured(_asked(folder)).model
    torch.manual_seed(0)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).save_pretrained(out)
    return out


def test_without_a_keeper_each_run_reads_its_own(folder: Path) -> None:
    assert load_configured(_asked(folder)).model is not load_configured(_asked(folder)).model


def test_the_same_model_is_given_out_again_and_another_is_read(folder: Path, save_tiny: Any) -> None:
    other = save_tiny(seed=1)
    with keeping_models():
        first = load_configured(_asked(folder))
        assert load_configured(_asked(folder)).model is first.model
        assert load_configured(_asked(folder, dtype="bfloat16")).model is not first.model
        assert load_configured(_asked(other)).name == str(other)
        assert load_configured(_asked(folder)).weights_hash == first.weights_hash


@pytest.mark.parametrize("change", ["weight", "hook", "frozen", "config"])
def test_what_a_run_changed_is_read_again(folder: Path, change: str) -> None:
    with keeping_models():
        first = load_configured(_asked(folder))
        model: Any = first.model
        before = first.weights_hash
        if change == "weight":
            with torch.no_grad():
                model.lm_head.weight[0, 0] += 1
        elif change == "hook":
            model.model.layers[0].register_forward_hook(lambda *_: None)
        elif change == "frozen":
            model.requires_grad_(False)
        else:
            model.config.rms_norm_eps *= 2
        with pytest.warns(LeakmechWarning, match="was changed by an earlier run; it is read again"):
            again = load_configured(_asked(folder))
        assert again.model is not model
        assert again.weights_hash == before


def test_a_changed_file_is_read_again(folder: Path) -> None:
    with keeping_models():
        first = load_configured(_asked(folder))
        file = next(folder.glob("*.safetensors"))
        file.write_bytes(file.read_bytes())
        assert load_configured(_asked(folder)).model is not first.model


def test_an_adapter_goes_on_and_off_in_place(folder: Path, tmp_path: Path) -> None:
    adapter, tokens = _adapter(folder, tmp_path / "adapter"), torch.tensor([[1, 2, 3]])
    copied: Any = load_adapter(load_configured(_asked(folder)), adapter)
    with keeping_models(), torch.inference_mode():
        base: Any = load_configured(_asked(folder))
        plain, weights = base.model(tokens).logits, base.model.model.embed_tokens.weight
        adapted: Any = load_adapter(base, adapter, in_place=True)
        assert torch.equal(adapted.model(tokens).logits, copied.model(tokens).logits)
        assert not torch.equal(adapted.model(tokens).logits, plain)
        assert adapted.weights_hash == copied.weights_hash
        again: Any = load_configured(_asked(folder))
        assert again.model.model.embed_tokens.weight is weights
        assert torch.equal(again.model(tokens).logits, plain)
