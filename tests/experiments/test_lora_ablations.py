"""The configurations of the LoRA ablations: every variant is a valid training."""

from dataclasses import replace
from pathlib import Path

import pytest
from lora_ablations import read_settings

from leakmech.core.errors import ConfigError
from leakmech.core.yaml_files import read_yaml
from leakmech.datasets.samples import load_dataset
from leakmech.studies.lora import run as lora_run
from leakmech.studies.lora.run import training_sources
from leakmech.studies.lora.sampling import example_counts
from leakmech.training.settings import LoraTrainingConfig

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["lora_ablations.yaml", "lora_ablations_gpu.yaml", "lora_sft.yaml"])
def test_every_variant_is_a_valid_training_that_differs_from_the_recipe(name):
    settings = read_settings(CONFIGS / name)
    recipe = read_yaml(CONFIGS / settings["recipe"]) | settings.get("changes", {})
    found = {
        variant: LoraTrainingConfig.parse(recipe | (changes or {}), where=variant)
        for variant, changes in settings["variants"].items()
    }
    assert len({config.model_dump_json() for config in found.values()}) == len(found)
    assert set(settings["seeds"]) <= set(found)


@pytest.mark.long
def test_every_variant_finds_as_many_examples_as_it_asks_for(tmp_path, monkeypatch):
    def part(name):
        """To be quick: if a part of the larger sets has enough for every variant, the whole has."""
        samples = load_dataset(name)
        return samples if len(samples) < 500 else replace(samples, samples=samples.samples[:: 2 + len(samples) // 1000])

    monkeypatch.setattr(lora_run, "load_dataset", part)
    load_dataset("relevant-train").take(150).save(tmp_path / "irrelevant.jsonl")  # as many as the README builds of AEXL
    settings = read_settings(CONFIGS / "lora_ablations.yaml")
    recipe = read_yaml(CONFIGS / settings["recipe"]) | settings.get("changes", {})
    recipe["irrelevant"] = str(tmp_path / "irrelevant.jsonl")
    sources = {}
    for variant, changes in settings["variants"].items():
        config = LoraTrainingConfig.parse(recipe | (changes or {}), where=variant)
        made_of = (config.irrelevant, config.relevant, config.mismatched, config.clear_pairs, config.relevant_pairs)
        sources[made_of] = sources.get(made_of) or training_sources(config, [])
        counts = example_counts(
            sources[made_of],
            shares=config.shares.model_dump(),
            n_examples=config.examples,
            completions=config.completions,
            polarities=config.polarities,
        )
        assert sum(counts.values()) == config.examples, variant


def test_a_configuration_stands_on_the_one_it_is_like_and_its_own_values_go_first(tmp_path):
    (tmp_path / "a.yaml").write_text("recipe: r.yaml\nseeds: {recipe: [0]}\n")
    (tmp_path / "b.yaml").write_text("like: a.yaml\nseeds: {recipe: [1]}\n")
    settings = read_settings(tmp_path / "b.yaml")
    assert (settings["recipe"], settings["seeds"]) == ("r.yaml", {"recipe": [1]})
    (tmp_path / "c.yaml").write_text("like: a.yaml\nsedes: 1\n")
    with pytest.raises(ConfigError, match="unknown key 'sedes'"):
        read_settings(tmp_path / "c.yaml")
