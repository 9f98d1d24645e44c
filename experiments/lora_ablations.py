"""Ablations of the LoRA recipe: each variant is trained, then all adapters are measured in one table.

A configuration names the recipe, what each variant changes in it, and what all change (``changes``). Finished trainings
and cells are kept, so that the command continues after any interruption. ``configs/lora_ablations.yaml`` fits into a
night on two cores, ``configs/lora_ablations_gpu.yaml`` is for a GPU.

    python experiments/lora_ablations.py configs/lora_ablations.yaml --out runs/lora-ablations
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from leakmech.cli.console import out as console
from leakmech.core.errors import ConfigError
from leakmech.core.progress import rich_progress
from leakmech.core.yaml_files import read_yaml
from leakmech.studies.lora.run import train_lora
from leakmech.studies.mitigation.evaluation import evaluate_mitigations
from leakmech.studies.mitigation.mitigation import Mitigation
from leakmech.studies.mitigation.tables import mitigations_table
from leakmech.training.settings import LoraTrainingConfig

_KEYS = {"like", "recipe", "changes", "variants", "seeds", "evaluation"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/lora-ablations"))
    parser.add_argument("--only", nargs="*", help="variants to train and measure; default: all")
    arguments = parser.parse_args()
    settings = read_settings(arguments.config)
    recipe = read_yaml(arguments.config.parent / settings["recipe"]) | settings.get("changes", {})
    adapters = {}
    for name, changes in settings["variants"].items():
        if arguments.only and name not in arguments.only:
            continue
        for seed in settings.get("seeds", {}).get(name, [0]):
            run = f"{name}-seed{seed}"
            # A mapping of a variant replaces the recipe's as a whole.
            config = LoraTrainingConfig.parse(recipe | (changes or {}) | {"seed": seed}, where=run)
            console.print(f"training {run}")
            adapters[run] = train_lora(config, arguments.out / "adapters" / run, progress=rich_progress).path
    mitigations = [Mitigation(name, "adapter", {"adapter": str(path)}) for name, path in adapters.items()]
    result = evaluate_mitigations(
        mitigations,
        model=recipe.get("model"),
        out=arguments.out / "measured",
        progress=rich_progress,
        **settings.get("evaluation", {}),
    )
    _, *by_estimator = result.tables()
    for table in (mitigations_table(result.to_frame(), title="Ablations of the LoRA recipe"), *by_estimator):
        console.print(table.to_rich())
    console.print(f"table: {result.path / 'tables' / 'mitigations.csv'}")


def read_settings(path: Path) -> dict[str, Any]:
    """A configuration on top of the one that it is ``like``."""
    settings = read_yaml(path)
    unknown = sorted(set(settings) - _KEYS)
    if unknown:
        raise ConfigError(f"{path}: unknown key {unknown[0]!r}; known: {', '.join(sorted(_KEYS))}")
    return (read_settings(path.parent / settings["like"]) if "like" in settings else {}) | settings


if __name__ == "__main__":
    main()
