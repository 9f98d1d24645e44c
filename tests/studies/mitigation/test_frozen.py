"""Frozen sets are measured on once: the choice is on record before, and no other one is measured after."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from leakmech import Mitigation
from leakmech.core.errors import RunDirectoryError
from leakmech.core.yaml_files import read_yaml
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.runs.run import Run
from leakmech.studies.mitigation.frozen import frozen_sets, record_frozen, refuse_another_choice
from leakmech.studies.mitigation.report import measured_once
from leakmech.studies.mitigation.settings import MitigateConfig

FINAL = Path(__file__).parents[3] / "configs" / "mitigate_final.yaml"
CHOSEN = {"drop": Mitigation("drop-0.1", "instruction", {"instruction": "be brief"})}


def run_in(path):
    """What `record_frozen` needs of a run, without a model."""
    return SimpleNamespace(path=path, noted=lambda name, make: Run.noted(SimpleNamespace(path=path), name, make))


def test_the_final_configuration_measures_on_all_frozen_sets_and_others_on_none(tmp_path):
    final = MitigateConfig.parse(read_yaml(FINAL))
    assert frozen_sets(final) == ["hexl-frozen", "relevant-frozen", "self-frozen", "facts-frozen"]
    assert frozen_sets(MitigateConfig.parse({})) == []
    PromptSet("mine", load_dataset("hexl-frozen").samples[7:9]).save(tmp_path / "mine.jsonl")
    assert "hexl-frozen" in frozen_sets(MitigateConfig.parse({"dataset": str(tmp_path / "mine.jsonl")}))


def test_a_choice_is_on_record_and_another_one_is_refused(tmp_path):
    final = MitigateConfig.parse({**read_yaml(FINAL), "families": ["drop-unrelated-text"]})
    refuse_another_choice(tmp_path, final)  # nothing was measured yet
    first = record_frozen(run_in(tmp_path), final, CHOSEN, ())
    assert first["judged"]["drop"][0] == "drop-0.1"
    assert record_frozen(run_in(tmp_path), final, CHOSEN, ()) == first
    other = {"drop": Mitigation("drop-0.1", "instruction", {"instruction": "be long"})}
    with pytest.raises(RunDirectoryError, match=r"with another choice \(drop\); frozen sets are measured on once"):
        record_frozen(run_in(tmp_path), final, other, ())
    refuse_another_choice(tmp_path, final)
    for more in ({"families": ["heads-mean"]}, {"adapters": ["a"]}, {"claimed": ["drop-unrelated-text"]}):
        wanted = MitigateConfig.parse({**read_yaml(FINAL), "families": ["drop-unrelated-text"], **more})
        with pytest.raises(RunDirectoryError, match=rf"another choice \({next(iter(more))}\)"):
            refuse_another_choice(tmp_path, wanted)
    assert measured_once(first).startswith(
        "Measured on hexl-frozen, relevant-frozen, self-frozen, facts-frozen, from 2"
    )


def test_without_frozen_sets_nothing_is_on_record(tmp_path):
    assert record_frozen(run_in(tmp_path), MitigateConfig.parse({}), CHOSEN, ()) is None
    assert not list(tmp_path.iterdir())
