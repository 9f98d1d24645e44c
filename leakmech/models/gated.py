"""LoRA with a gate for every rank: an adapter that can stay shut where the answer should stay as it is.

With W the base weights, A and B the matrices of LoRA, s its scale, and a gate that reads the same input x, token by
token,

    y = W x + s B (g(x) * A x),    g(x) = sigmoid(G x + b),    one entry a rank.

G starts at zero and b at a negative number, so that all gates start nearly shut and have to be opened. The change of
the weights depends on x, so it cannot be merged into them.

Files are PEFT's, with ``lora_gate`` beside ``lora_A`` and ``lora_B``. Only the type in ``adapter_config.json`` is our
own (:data:`GATED`): a program that knows no gates then refuses the adapter, where it would run it with all gates open.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.tuners.lora.layer import Linear, LoraLayer, LoraVariant
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from leakmech.core.errors import ModelError
from leakmech.core.store import read_json, write_json
from leakmech.models.adapters import GATED
from leakmech.models.hub import ADAPTER_CONFIG


@dataclass
class GatedLoraConfig(LoraConfig):
    """Settings of LoRA whose layers have gates."""

    gate_bias: float = 0.0
    """Where the biases of the gates start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._register_custom_module({nn.Linear: GatedLinear, Conv1D: GatedLinear})


def _refuse_merging(*_: Any, **__: Any) -> Any:
    raise ModelError(
        "a gated adapter cannot be merged into the weights: what it changes depends on what the model reads; run it "
        "with --adapter"
    )


class _Gated(LoraVariant):
    """The gate of one layer, as PEFT asks for variants of LoRA."""

    def supports_lora_conversion(self) -> bool:
        return False

    @staticmethod
    def init(module: Any, adapter_name: str, config: GatedLoraConfig, **_: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not hasattr(module, "lora_gate"):
            module.lora_gate = nn.ModuleDict({})
        gate = nn.Linear(module.in_features, module.r[adapter_name])
        nn.init.zeros_(gate.weight)
        nn.init.constant_(gate.bias, config.gate_bias)
        module.lora_gate[adapter_name] = gate
        module._move_adapter_to_device_of_base_layer(adapter_name)

    @staticmethod
    def forward(module: Any, active_adapter: str, x: Tensor, result: Tensor, **_: Any) -> Tensor:
        a, b = module.lora_A[active_adapter], module.lora_B[active_adapter]
        gate: Float[Tensor, "... rank"] = torch.sigmoid(module.lora_gate[active_adapter](x))
        inner = a(module.lora_dropout[active_adapter](x))
        return result + b(gate * inner) * module.scaling[active_adapter]

    merge_safe = merge_unsafe = staticmethod(_refuse_merging)


class GatedLinear(Linear):
    """A linear layer with gated LoRA."""

    adapter_layer_names = (*LoraLayer.adapter_layer_names, "lora_gate")

    @property
    def lora_variants(self) -> dict[tuple[str, ...], Any]:
        return {(): _Gated}


def gate_modules(model: nn.Module) -> list[nn.Module]:
    """List the maps G x + b of all gates of a PEFT model, in the order of its modules."""
    gates: list[Any] = [module.lora_gate for module in model.modules() if isinstance(module, GatedLinear)]
    return [gate for own in gates for gate in own.values()]


# -- files -------------------------------------------------------------------------------------------------------------


def read_gated_config(folder: Path) -> GatedLoraConfig | None:
    """Read the settings of the gated adapter in `folder`; None for an adapter of another type."""
    values = read_json(folder / ADAPTER_CONFIG)
    if values.pop("peft_type", None) != GATED:
        return None
    config: Any = GatedLoraConfig.from_peft_type(**values)
    return config


def mark_gated(folder: Path) -> None:
    """Name our type in the ``adapter_config.json`` that PEFT wrote for a gated adapter."""
    file = folder / ADAPTER_CONFIG
    write_json(file, read_json(file) | {"peft_type": GATED})
