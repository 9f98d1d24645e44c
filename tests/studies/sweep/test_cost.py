"""What a dry run says a sweep costs: counts by hand, no model loaded, finished cells before formulas."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from leakmech.core.store import write_json
from leakmech.models import cost as model_cost
from leakmech.models.cost import FIXED_SECONDS, LOAD_RATE, ROW_SECONDS, SHAPES, Work, expected, found_shape, machine_rate
from leakmech.studies.benchmark.cost import work_of as bench_work
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.emotion_circuits.run import work_of as emotion_work
from leakmech.studies.emotion_circuits.settings import EmotionCircuitsConfig
from leakmech.studies.mitigation.cost import work_of as mitigation_work
from leakmech.studies.mitigation.settings import MitigateConfig
from leakmech.studies.persona_leakage.cost import work_of as persona_work
from leakmech.studies.persona_leakage.settings import PersonaLeakageConfig
from leakmech.studies.sweep.cost import sweep_plan
from leakmech.studies.sweep.result import Places
from leakmech.studies.sweep.spec import read_sweep

SMALL = SHAPES["smollm2-135m"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from tests.tiny_models import build_tiny, build_tokenizer

    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny("gpt2").save_pretrained(folder)
    build_tokenizer(chat=True).save_pretrained(folder)
    return folder


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_benchmark_counts_its_prompts_and_answers():
    work = bench_work(BenchConfig.parse({"limit": 10, "generations": 3}), SMALL)
    assert (work.rows, work.tokens) == (3 * 50, 40 * 60 + 150 * 30 * 3)  # the noise floor answers control prompts again
    short = bench_work(BenchConfig.parse({"limit": 10, "generations": 3, "max_new_tokens": 4, "noise_floor": False}), SMALL)
    assert (short.rows, short.tokens) == (120, 40 * 60 + 120 * 4 * 3)
    tilted = bench_work(BenchConfig.parse({"limit": 10, "generations": 3, "tilt": True}), SMALL)
    assert tilted.tokens - work.tokens == 160 * 26 * 3 + 160 * 4 * 26 * 2.5


def test_every_study_that_gives_a_count_gives_one():
    found = {
        "mitigate": mitigation_work(MitigateConfig.parse({}), SMALL),
        "emotion": emotion_work(EmotionCircuitsConfig.parse({}), SMALL),
        "persona": persona_work(PersonaLeakageConfig.parse({}), SMALL),
    }
    assert all(own.tokens > 1e5 and own.disk > 1e6 for own in found.values())
    twice = persona_work(PersonaLeakageConfig.parse({"behaviour": ["marker", "refusal"]}), SMALL)
    assert twice.tokens > 1.5 * found["persona"].tokens


def test_seconds_and_memory_are_those_of_the_formula():
    found = expected(Work(tokens=1e6, rows=100, disk=0, copies=2, held=5e8), SMALL, rate=1e12, size=2)
    weights = 2 * 0.135e9
    assert found.seconds == pytest.approx(FIXED_SECONDS + weights / LOAD_RATE + 270 + 100 * ROW_SECONDS)
    assert found.memory == pytest.approx(1e9 + 2 * weights + 5e8 + 2048 * 49_152 * 4)


def test_a_shape_is_read_from_a_configuration(tiny, tmp_path):
    from tests.tiny_models import build_tiny

    shape = found_shape(str(tiny))
    assert shape is not None
    assert shape.parameters == build_tiny("gpt2").num_parameters()
    assert (shape.n_layers, shape.n_heads, shape.width, shape.vocabulary, shape.kv_width) == (3, 4, 32, 264, 32)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tiny)}))
    assert found_shape(str(tmp_path)) == shape
    assert found_shape("embedded:smollm2-135m-instruct") == SMALL
    assert found_shape("nobody/has-this") is None


def test_a_matrix_product_says_how_fast_this_machine_is():
    threads = torch.get_num_threads()
    assert machine_rate(torch.device("cpu"), torch.float32, 1) > 1e8
    assert torch.get_num_threads() == threads


def test_a_plan_loads_no_model_and_finished_cells_go_before_formulas(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("leakmech.models.load.load_model", None)  # whoever calls it fails
    monkeypatch.setattr(model_cost, "machine_rate", lambda *_: 1e12)
    base = {"limit": 2, "generations": 1, "device": "cpu", "dtype": "float32", "model": str(tiny)}
    config = write(tmp_path / "sweep.yaml", base=base, grid={"seed": [0, 1, 2]})
    plan = sweep_plan(config, tmp_path / "out", workers=2)
    assert plan.notes[0] == "3 cells of `leakmech bench`, 0 done, 3 left"
    assert plan.notes[1].startswith("time: about 2 minutes of one worker, 1 with 2, by formula")
    assert plan.notes[2].startswith("memory: about 0.9 GiB a worker")
    assert plan.notes[3].startswith("disk: about 0.0017 GiB; ")
    assert {row[-2] for row in plan.rows} == {"~0.5"}
    assert not (tmp_path / "out").exists()

    places, first = Places(tmp_path / "out"), read_sweep(config).cells[0].key
    write_json(places.run(first) / "summary.json", {"timing": {"total_s": 300.0}})
    plan = sweep_plan(config, tmp_path / "out")
    assert [row[-2] for row in plan.rows] == ["5.0", "~5.0", "~5.0"]
    assert plan.notes[1].startswith("time: about 10 minutes of one worker, by formula, corrected by the 1 that are done")


def test_what_has_no_estimate_is_said(tiny, tmp_path):
    models = ["nobody/has-this", str(tiny)]
    config = write(tmp_path / "sweep.yaml", base={"device": "cpu"}, grid={"model": models})
    plan = sweep_plan(config)
    assert [bool(row[-2]) for row in plan.rows] == [False, True]
    assert plan.notes[-1] == "no estimate for 1 cells: the shape of nobody/has-this is not known here"
    config = write(tmp_path / "sweep.yaml", study="train-lora", grid={"seed": [0, 1]})
    assert sweep_plan(config).notes[1:] == ["no estimate for 2 cells: `leakmech train-lora` counts no work beforehand"]
    config = write(tmp_path / "sweep.yaml", base={"model": str(tiny), "dataset": "none.jsonl"})
    assert "none.jsonl" in sweep_plan(config).notes[-1]
