"""Folded weights compute what hooks compute, and can be saved; what no weight holds is refused by name."""

import copy

import pytest
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

from leakmech.errors import InterventionError
from leakmech.interventions.fold import fold
from leakmech.interventions.hooks import apply
from leakmech.interventions.types import AblateDirection, AblateHeads, AblateNeurons, ModulateCircuit, ScaleHeads, Steer
from leakmech.models.load import load_model
from tests.interventions.conftest import HEADS, LAYERS, V, foldable, hooks_only, logits, unit, values


def hooked(model, interventions, batch):
    with apply(model, interventions):
        return logits(model, batch)


def test_hook_path_equals_fold_path_for_every_kind(tiny_model, batch):
    base = logits(tiny_model, batch)
    for name, intervention in foldable(tiny_model).items():
        expected = hooked(tiny_model, intervention, batch)
        assert (expected - base).abs().max() > 0.01, name
        torch.testing.assert_close(
            logits(fold(tiny_model, intervention), batch), expected, rtol=1e-4, atol=1e-4, msg=name
        )
    assert torch.equal(logits(tiny_model, batch), base)  # the model itself is as it was
