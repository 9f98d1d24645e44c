"""What early stopping goes by: a model that has not changed has taken out nothing."""

from __future__ import annotations

import copy

import pytest
import torch

from leakmech.errors import DatasetError
from leakmech.mitigation.training import evaluation
from leakmech.mitigation.training.evaluation import TuneSelectivity
from leakmech.mitigation.training.settings import LoraTrainingConfig
from leakmech.models.load import load_model
from leakmech.prompts.samples import PromptSet, load_dataset


@pytest.fixture(scope="module")
def loaded(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


def config(**tune):
    return LoraTrainingConfig.parse({"tune": {"leakage": "hexl", "samples": 3, "generations": 1, **tune}})


def test_an_unchanged_model_scores_nothing_and_the_base_is_measured_once(loaded, tmp_path, monkeypatch):
    score = TuneSelectivity(loaded, config(), tmp_path / "tune")
    assert score(copy.deepcopy(loaded.model)) == 0.0
    runs = []
    measure = evaluation.run_benchmark

    def count(*args, **options):
        runs.append(options["out"])
        return measure(*args, **options)

    monkeypatch.setattr(evaluation, "run_benchmark", count)
    changed = copy.deepcopy(loaded.model)
    with torch.no_grad():
        changed.model.layers[-1].mlp.down_proj.weight.mul_(-3)
    assert 0.0 <= score(changed) <= 1.0
    assert len(runs) == 2  # the changed model only


def test_a_relevant_set_without_samples_to_choose_on_is_refused(loaded, tmp_path):
    PromptSet("fit", load_dataset("relevant-fit").split("fit").samples[:4]).save(tmp_path / "fit.jsonl")
    with pytest.raises(DatasetError, match="no samples with split 'tune'"):
        TuneSelectivity(loaded, config(relevant=str(tmp_path / "fit.jsonl")), tmp_path / "tune")
