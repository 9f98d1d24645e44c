"""The configurations of the LoRA ablations: every variant is a valid training."""

from pathlib import Path

import pytest
from lora_ablations import read_settings

from leakmech.config import read_yaml
from leakmech.errors import ConfigError
from leakmech.mitigation.training.settings import LoraTrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["lora_ablations.yaml", "lora_ablations_gpu.yaml"])
def test_every_variant_is_a_valid_training_that_differs_from_the_recipe(name):
    settings = read_settings(CONFIGS / name)
    recipe = read_yaml(CONFIGS / settings["recipe"]) | settings.get("changes", {})
    found = {
        variant: LoraTrainingConfig.parse(recipe | (changes or {}), where=variant)
        for variant, changes in settings["variants"].items()
    }
    assert len({config.model_dump_json() for config in found.values()}) == len(found)
    assert set(settings["seeds"]) <= set(found)


def test_a_configuration_stands_on_the_one_it_is_like_and_its_own_values_go_first(tmp_path):
    (tmp_path / "a.yaml").write_text("recipe: r.yaml\nseeds: {recipe: [0]}\n")
    (tmp_path / "b.yaml").write_text("like: a.yaml\nseeds: {recipe: [1]}\n")
    settings = read_settings(tmp_path / "b.yaml")
    assert (settings["recipe"], settings["seeds"]) == ("r.yaml", {"recipe": [1]})
    (tmp_path / "c.yaml").write_text("like: a.yaml\nsedes: 1\n")
    with pytest.raises(ConfigError, match="unknown key 'sedes'"):
        read_settings(tmp_path / "c.yaml")
