"""A new adapter around a base model, for the time of a training; the base is left as it was.

All linear modules of a block get an adapter, or those of one sublayer, named ones, or those of components.

Components are what a diagnosis ranked: an attention head stands for the attention modules of its layer, a neuron for
the MLP modules of its layer. LoRA changes whole matrices, so layer and sublayer are as fine as this can be.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from leakmech.core.errors import ConfigError, DatasetError, ModelError, TrainingError, nearest
from leakmech.core.seeds import stable_hash
from leakmech.core.tables import read_table
from leakmech.models.device import rng_devices
from leakmech.models.hashes import hash_weights
from leakmech.models.layout import layout_of
from leakmech.models.load import LoadedModel
from leakmech.training.settings import LoraTrainingConfig


@contextmanager
def adapted(loaded: LoadedModel, config: LoraTrainingConfig, modules: Sequence[str]) -> Iterator[Any]:
    """Put a new LoRA adapter around `loaded`'s model, which is as it was when the context is left.

    A model that has an adapter is refused, and a training after which the base weights have changed.
    """
    from peft import LoraConfig, PeftModel, get_peft_model

    from leakmech.models.gated import GatedLoraConfig

    base: Any = loaded.model
    if isinstance(base, PeftModel):
        raise ModelError(
            f"{loaded.name}: has an adapter already; merge it (leakmech merge-lora) before training another"
        )
    before = loaded.weights_hash
    frozen = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    kind = LoraConfig if config.gate_bias is None else partial(GatedLoraConfig, gate_bias=config.gate_bias)
    settings = kind(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType] - any number will do
        use_rslora=config.rslora,
        lora_dropout=config.dropout,
        target_modules=list(modules),
        fan_in_fan_out=type(base.get_submodule(modules[0])).__name__ == "Conv1D",
    )
    with torch.random.fork_rng(devices=rng_devices(loaded.device)), warnings.catch_warnings():
        # PEFT asks for it under the name that transformers is about to change.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        torch.manual_seed(stable_hash(config.seed, "adapter"))
        model = get_peft_model(base, settings)
    try:
        yield model
    finally:
        model.unload()
        for name, parameter in base.named_parameters():
            parameter.requires_grad_(frozen[name])
        # PEFT leaves its settings on the model that it gives back.
        for attribute in ("peft_config", "_hf_peft_config_loaded"):
            base.__dict__.pop(attribute, None)
        base.eval()
    if hash_weights(base) != before:
        raise TrainingError(f"{loaded.name}: training changed the base weights; the adapter is not to be trusted")


# -- targets -----------------------------------------------------------------------------------------------------------

Sublayer = Literal["attention", "mlp"]
SUBLAYERS: tuple[Sublayer, ...] = ("attention", "mlp")
_LINEAR = ("Linear", "Conv1D")  # GPT-2 has Conv1D, which PEFT adapts too


@dataclass(frozen=True)
class LinearModule:
    """A linear module of a block: its full name, the last part of it, and where it belongs."""

    name: str
    leaf: str
    layer: int
    sublayer: Sublayer


def linear_modules(model: nn.Module) -> list[LinearModule]:
    """List the linear modules in the attention and MLP of every block."""
    names = {id(module): name for name, module in model.named_modules()}
    found = []
    for layer, block in enumerate(layout_of(model).blocks):
        parts: tuple[tuple[Sublayer, nn.Module], ...] = (("attention", block.attention), ("mlp", block.mlp))
        for sublayer, parent in parts:
            for module in parent.modules():
                if type(module).__name__ in _LINEAR or isinstance(module, nn.Linear):
                    name = names[id(module)]
                    found.append(LinearModule(name, name.rpartition(".")[2], layer, sublayer))
    return found


def target_modules(
    model: nn.Module,
    targets: str | Sequence[str] = "all-linear",
    *,
    layers: Collection[int] | None = None,
    components: ComponentLayers | None = None,
) -> list[str]:
    """Name the modules that get an adapter, in full; None for `layers` or `components` takes all.

    `targets` is ``all-linear``, ``attention``, ``mlp``, or names such as ``q_proj``. Unknown names are refused, and a
    choice that leaves no module.
    """
    modules = linear_modules(model)
    n_layers = layout_of(model).n_layers
    for layer in layers or ():
        if not 0 <= layer < n_layers:
            raise ConfigError(f"layers: {layer} is not one of this model's {n_layers} layers, 0 to {n_layers - 1}")
    wanted = _matching(modules, targets)
    chosen = [
        module.name
        for module in modules
        if module.leaf in wanted[module.sublayer]
        and (layers is None or module.layer in layers)
        and (components is None or module.layer in components.of(module.sublayer))
    ]
    if not chosen:
        raise ConfigError("targets: no module is left to train; name more layers, components or modules")
    return chosen


def _matching(modules: Sequence[LinearModule], targets: str | Sequence[str]) -> dict[Sublayer, set[str]]:
    """Find the wanted leaf names, by sublayer."""
    leaves: dict[Sublayer, set[str]] = {
        sublayer: {m.leaf for m in modules if m.sublayer == sublayer} for sublayer in SUBLAYERS
    }
    if targets == "all-linear":
        return leaves
    names = [targets] if isinstance(targets, str) else list(targets)
    valid = sorted(leaves["attention"] | leaves["mlp"])
    wanted: dict[Sublayer, set[str]] = {"attention": set(), "mlp": set()}
    for name in names:
        if name in SUBLAYERS:
            sublayer: Sublayer = "attention" if name == "attention" else "mlp"
            wanted[sublayer] |= leaves[sublayer]
        elif name in valid:
            for sublayer in SUBLAYERS:
                wanted[sublayer] |= leaves[sublayer] & {name}
        else:
            raise ConfigError(
                f"targets: this model has no linear module {name!r}; valid: all-linear, attention, mlp, "
                f"{', '.join(valid)}"
            )
    return wanted


# -- components that a diagnosis ranked --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ComponentLayers:
    """Layers whose attention, and layers whose MLP, hold components of interest."""

    attention: frozenset[int]
    mlp: frozenset[int]

    def of(self, sublayer: Sublayer) -> frozenset[int]:
        """Give the layers of one sublayer."""
        return self.attention if sublayer == "attention" else self.mlp


def component_layers(
    run: str | Path, *, top_heads: int = 20, top_neurons: int = 200, method: str | None = None
) -> ComponentLayers:
    """Find the layers of the highest-ranked heads and neurons of a diagnosis, from the tables of its run directory.

    One of ``tables/heads.csv`` and ``tables/neurons.csv`` may be missing; `method` is needed where they hold several.
    """
    tables = Path(run) / "tables"
    found: dict[str, frozenset[int]] = {}
    for name, top in (("heads", top_heads), ("neurons", top_neurons)):
        path = tables / f"{name}.csv"
        if top > 0 and path.is_file():
            found[name] = frozenset(_top_layers(path, top, method))
    if not found:
        raise DatasetError(f"{tables}: has no heads.csv and no neurons.csv; give the directory of a diagnosis")
    return ComponentLayers(found.get("heads", frozenset()), found.get("neurons", frozenset()))


def _top_layers(path: Path, top: int, method: str | None) -> Iterator[int]:
    table: Any = read_table(path)
    if "split" in table:  # rows of test have the scores of other samples, with the ranks of tune
        table = table[table["split"] != "test"]
    missing = [column for column in ("layer", "method", "rank") if column not in table.columns]
    if missing:
        raise DatasetError(f"{path}: has no column {missing[0]!r}; expected a table of leakmech diagnose")
    methods = [str(name) for name in table["method"].unique()]
    if method is None and len(methods) > 1:
        raise ConfigError(f"{path}: holds rankings by {', '.join(methods)}; name one (method)")
    if method is not None and method not in methods:
        raise ConfigError(f"{path}: has no ranking by {method!r}{nearest(method, methods)}")
    ranked = table if method is None else table[table["method"] == method]
    yield from (int(layer) for layer in ranked.sort_values("rank", kind="stable").head(top)["layer"])
