"""What early stopping goes by: a model that has not changed has taken out nothing."""

from __future__ import annotations

import copy

import pandas as pd
import pytest

from leakmech import bench
from leakmech.core.errors import DatasetError
from leakmech.core.store import read_json, read_jsonl_shard
from leakmech.datasets.samples import PromptSet, load_dataset, load_pooled
from leakmech.models.load import load_model
from leakmech.studies.lora import evaluation
from leakmech.studies.lora.evaluation import SCORES, TuneSelectivity
from leakmech.studies.lora.run import train_lora
from leakmech.studies.results import load_result
from leakmech.training.examples import TrainingExample
from leakmech.training.settings import LoraTrainingConfig


@pytest.fixture(scope="module")
def loaded(make_tiny, chat_tokenizer):
    return load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)


def config(**tune):
    return LoraTrainingConfig.parse({"tune": {"leakage": "hexl", "samples": 3, "generations": 1, **tune}})


@pytest.mark.long
def test_an_unchanged_model_scores_nothing_and_the_base_is_measured_once(loaded, tmp_path, monkeypatch):
    score = TuneSelectivity(loaded, config(), tmp_path / "tune")
    score.measure_base()
    assert score(copy.deepcopy(loaded.model)) == 0.0
    runs = []
    measure = evaluation.run_benchmark

    def count(*args, **options):
        runs.append(options["out"])
        return measure(*args, **options)

    monkeypatch.setattr(evaluation, "run_benchmark", count)
    score(copy.deepcopy(loaded.model))
    assert len(runs) == 2  # the changed model only


@pytest.mark.long
def test_in_a_training_the_base_is_measured_without_the_adapter_on_prompts_as_they_are_trained(loaded, tmp_path):
    changes = {"device": "cpu", "epochs": 1, "batch_size": 1, "learning_rate": 0.1, "evaluation": [], "task": "finish"}
    settings = LoraTrainingConfig.parse(config().model_dump() | changes)
    example = TrainingExample("e", "irrelevant", "Sad. The sea is", "The sea is", " blue", polarity="negative")
    train_lora(settings, tmp_path / "adapter", model=loaded, examples=[example])
    for name in ("leakage", "relevant"):
        measured = read_json(tmp_path / "adapter" / "tune" / name / "run.json")["config"]
        assert measured["task"] == "finish"
        again = bench(**measured | {"model": loaded.model}, tokenizer=loaded.tokenizer, out=tmp_path / name)
        stored = load_result(tmp_path / "adapter" / "tune" / name)
        pd.testing.assert_frame_equal(again.scores, stored.scores)
    (scored,) = read_jsonl_shard(tmp_path / "adapter" / "tune" / SCORES)
    assert scored["leakage_reduction"] != 0


def test_a_relevant_set_without_samples_to_choose_on_is_refused(loaded, tmp_path):
    PromptSet("fit", load_dataset("relevant-fit").split("fit").samples[:4]).save(tmp_path / "fit.jsonl")
    with pytest.raises(DatasetError, match="no samples with split 'tune'"):
        TuneSelectivity(loaded, config(relevant=[str(tmp_path / "fit.jsonl")]), tmp_path / "tune")


@pytest.mark.long
def test_where_training_exchanges_injections_so_does_the_score(loaded, tmp_path):
    plain, paired = (config().model_copy(update={"mismatched": number}) for number in (0, 2))
    for settings in (plain, paired):
        TuneSelectivity(loaded, settings, tmp_path / f"{settings.mismatched}").measure_base()
    alone, both = (load_dataset(tmp_path / f"{number}" / "leakage.jsonl") for number in (0, 2))
    kept = load_dataset(tmp_path / "2" / "relevant.jsonl")
    assert both.samples[:3] == alone.samples
    assert [sample.stem for sample in both.samples[3:]] == [sample.stem for sample in kept]
    tuned = {s.positive for s in load_pooled(["relevant-fit", "relevant-wide"]).split("tune")}
    assert {sample.positive for sample in both.samples[3:]} < tuned - {sample.positive for sample in kept}
