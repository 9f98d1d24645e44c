"""Adapters as families: trained for a comparison, on what its diagnosis was fitted on and on its relevant affect.

``adapter-gated``    triples of a control prompt, a sentence that has nothing to do with the stem, and the same one
                     where it has; every rank has a gate
``adapter-teacher``  the answers of the model that reads only what the last sentence needs (leave-one-out)

The recipes are :mod:`leakmech.studies.lora`'s, in its folder ``recipes``. An adapter is trained once in a run and
read from there afterwards; an interrupted training goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from leakmech.core.yaml_files import read_yaml
from leakmech.studies.lora.result import LoraResult
from leakmech.studies.mitigation.family import Family
from leakmech.studies.mitigation.mitigation import Mitigation
from leakmech.studies.mitigation.parts import FittedParts
from leakmech.training.settings import LoraTrainingConfig

QUICK_STEPS = 10
_QUICK_BATCH = 2


@dataclass(frozen=True)
class AdapterFamily(Family):
    """An adapter of a recipe."""

    recipe: str = ""
    steps: int | None = None
    """Steps of a quick run; None: those of the recipe."""

    def mildest(self) -> AdapterFamily:
        """The same with few steps."""
        return replace(self, steps=QUICK_STEPS)

    @cached_property
    def _settings(self) -> dict[str, Any]:
        with resources.as_file(resources.files("leakmech.studies.lora") / "recipes" / f"{self.recipe}.yaml") as file:
            settings = read_yaml(file)
        if self.steps is not None:
            few = {"examples": self.steps * _QUICK_BATCH, "batch_size": _QUICK_BATCH, "epochs": 1, "completions": 2}
            settings |= few | {"clear_pairs": None}  # of few samples few would be left
        return settings

    @property
    def n_seen(self) -> int:
        """Examples that training goes through, the same one in every epoch."""
        return self._settings["examples"] * self._settings["epochs"]

    def _member(self, parts: FittedParts, _: float | None, fitted: Path, /) -> Mitigation:
        folder = fitted / self.name
        if not (folder / "summary.json").exists():
            self._train(parts, folder, fitted)
        return Mitigation(self.name, self.kind, {"adapter": str(folder)}, note=self.note, told=self.told)

    def _train(self, parts: FittedParts, folder: Path, data: Path) -> LoraResult:
        from leakmech.studies.lora.run import train_lora  # here: training takes seconds to import

        irrelevant, relevant = data / "adapters-irrelevant.jsonl", data / "adapters-relevant.jsonl"
        parts.splits["fit"].save(irrelevant)
        parts.relevant.save(relevant)
        own = {
            "model": parts.loaded.name, "irrelevant": str(irrelevant), "relevant": (str(relevant),), "seed": parts.seed,
            "prompt_form": parts.prompt_form, "system": parts.config.system, "instruction": parts.config.instruction,
        }  # fmt: skip
        if parts.judged_on:
            own["evaluation"] = parts.judged_on
        config = LoraTrainingConfig.parse({**self._settings, **own}, where=self.name)
        return train_lora(config, folder, model=parts.loaded, progress=parts.progress)


def trained(recipe: str, note: str) -> AdapterFamily:
    """The family of a recipe."""

    def make(*_: Any) -> Mitigation:
        raise AssertionError("an adapter is trained in a folder")

    return AdapterFamily(f"adapter-{recipe}", "adapter", note, (None,), make, recipe=recipe)
