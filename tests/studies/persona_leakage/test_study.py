"""The whole study on a tiny model that is taught to prefer one letter, and what it refuses."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, DatasetError, RunDirectoryError, UsageError
from leakmech.core.store import write_jsonl
from leakmech.models.adapters import is_peft
from leakmech.models.layout import layout_of, write_weights
from leakmech.models.load import load_adapter
from leakmech.prompts.persona import PersonaRenderer
from leakmech.scoring.semantic import load_encoder
from leakmech.side_effects.capability import capability
from leakmech.studies.persona_leakage.behaviours import BEHAVIOURS, Behaviour, Task, Tasks
from leakmech.studies.persona_leakage.measuring import Asking, Measuring, Subject, under_adapter
from leakmech.studies.persona_leakage.run import persona_leakage
from leakmech.studies.persona_leakage.settings import PersonaLeakageConfig
from leakmech.studies.persona_leakage.workbench import cast
from leakmech.studies.results import compare_results, load_result

WORDS = ("red", "blue", "tall", "slow", "wet", "dry", "old", "new", "big", "odd")


def letters() -> Tasks:
    """It says x, and not y."""
    split = [[Task(f"{kind}{n}", f"{word} {kind}?", "xxxx", "yyyy") for n, word in enumerate(WORDS)] for kind in "ab"]
    return Tasks(tuple(split[0]), tuple(split[1]))


def drawn_x(_tasks, _encoder):
    return lambda _questions, answers: np.array([float("x" in answer) for answer in answers])


PAIRS = Behaviour("letters", letters, "pairs", "nats a token", threshold=0.0)
DRAWN = Behaviour("drawn", letters, "answers", evaluator=drawn_x)
SETTINGS = {
    "behaviour": ("letters",), "source": ("p0",), "examples": 8, "questions": 5, "seeds": 2, "epochs": 4,
    "learning_rate": 3e-2, "everyday_questions": 3,
    "training_batch_size": 7, "rank": 4, "alpha": 8.0, "dropout": 0.0, "max_new_tokens": 4,
    "similarity_questions": 2, "layers": (0, 1), "bootstrap_draws": 100, "permutations": 99,
    "negatives": ("p1", "p5"),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def behaviours():
    for own in (PAIRS, DRAWN):
        BEHAVIOURS.add(own.name, own)
    yield
    for own in (PAIRS, DRAWN):
        BEHAVIOURS._own.pop(own.name)


@pytest.fixture(scope="module")
def personas(tmp_path_factory):
    kinds = ("original", "tone", "opposite")
    prompts = ("sad cook", "mad cook", "sad king", "wise king", "old sailor", "bold sailor", "shy clerk", "kind clerk",
               "calm monk", "proud monk", "fast boxer", "slow boxer")  # fmt: skip
    file = tmp_path_factory.mktemp("data") / "personas.jsonl"
    write_jsonl(file, ({"id": f"p{n}", "kind": kinds[n % 3], "name": own, "prompt": f"You are a {own}."}
                       for n, own in enumerate(prompts)))  # fmt: skip
    return str(file)


@pytest.fixture(scope="module")
def run(make_tiny, chat_tokenizer, personas):
    def made(out, **settings):
        return persona_leakage(
            make_tiny("llama-gqa"), tokenizer=chat_tokenizer, out=out, **{**SETTINGS, "personas": personas, **settings}
        )

    return made


@pytest.fixture(scope="module")
def study(run, tmp_path_factory):
    return run(tmp_path_factory.mktemp("study") / "run")


def test_the_source_takes_it_on_and_the_control_does_not(study):
    cells, [control] = study.summary["cells"], study.summary["controls"]
    assert [own["seed"] for own in cells] == [0, 1]
    for own in cells:
        assert own["taken_on"]
        assert own["source_change"] > 0.1
        assert own["examples"] == {"source": 8, "negative": 4, "bare": 1}
        assert own["negatives"] == ["p1", "p5"]
        assert own["source_rise_ci"][0] > 0
        recipes = {"last_l0", "last_l1", "reply_l0", "reply_l1", "js", "text", "shared_words"}
        assert set(own["rho_by_recipe"]) == recipes
    assert control["source_change"] < 0
    assert not control["taken_on"]


def test_changes_are_those_of_the_persona_table_and_leave_out_whom_they_should(study):
    frame = study.table("personas")
    assert set(frame["role"]) == {"source", "negative", "bystander"}
    assert (frame["change"] - (frame["tuned"] - frame["base"])).abs().max() < 1e-9
    assert set(frame["version"]) == {"behaviour", "control"}
    own = frame[(frame["seed"] == 0) & (frame["version"] == "behaviour")].set_index("persona")
    assert set(own.index[own["role"] == "negative"]) == {"p1", "p5"}
    cell = study.summary["cells"][0]
    assert own[own["role"] == "bystander"]["change"].mean() == pytest.approx(cell["bystander_change"])
    assert own.loc["p0", "change"] == pytest.approx(cell["source_change"])
    bystanders = own[own["role"] == "bystander"]
    rho = bystanders["change"].corr(bystanders["last_l1"], method="spearman")
    assert rho == pytest.approx(cell["rho"])
    [pair] = study.summary["pairs"]
    assert pair["source_rise_ci"][0] > 0
    assert pair["p_holm"] == pair["p"]
    assert pair["rho"] == pytest.approx(np.mean([one["rho"] for one in study.summary["cells"]]))
    assert pair["n_taken_on"] == 2


def test_containment_has_its_rows_and_a_gate_that_knows_its_source(study):
    found = study.summary["containment"]
    rows = {row["name"]: row for row in found["rows"]}
    names = ["as configured", "control", "full contrast", "preventative steering", "direction projected out"]
    assert list(rows) == [*names, "gate on the persona"]
    assert len(found["bystanders"]) == 9
    gate = rows["gate on the persona"]
    assert gate["gate_open"][0] == 1  # its own prompt is what it was fitted to
    assert gate["spread"] <= rows["as configured"]["spread"]
    assert rows["as configured"]["coupling"] == pytest.approx(study.summary["cells"][0]["source_rise"])
    assert study.summary["bridge"] == {"skipped": "affective-tone is not among the behaviours"}


def test_the_page_and_the_result_open(study):
    text = (study.path / "report.html").read_text()
    assert "P0, taught letters: its rate rises by" in text
    assert "spread: rise of the bystanders&#39; rate against coupling" in text
    again = load_result(study.path)
    assert isinstance(again, leakmech.PersonaLeakage)
    assert "Does the behaviour leak?" in again.to_markdown()
    assert {file.stem for file in (study.path / "figures").glob("*.png")} == {"scatter", "kinds", "containment"}
    shown = CliRunner().invoke(app, ["show", str(study.path)])
    assert shown.exit_code == 0
    assert "Can it be contained?" in shown.output


def test_a_lost_cell_is_made_again_and_gives_the_same_numbers(study, run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(study.path, copy)
    (copy / "summary.json").unlink()
    shutil.rmtree(next((copy / "cells").glob("letters-p0-seed1-*")))
    (copy / "stages" / "analysis.json").unlink()
    found = run(copy)
    for name in ("cells", "pairs", "containment"):
        assert json.dumps(found.summary[name]) == json.dumps(study.summary[name])


def test_a_source_that_does_not_take_it_on_is_told_no_leakage(run, tmp_path):
    found = run(tmp_path / "run", behaviour=("drawn",), learning_rate=1e-7, seeds=1, epochs=1, contrast="none",
                negatives=None)  # fmt: skip
    [cell] = found.summary["cells"]
    assert not cell["taken_on"]
    assert cell["bystander_change"] is None
    assert "rho" not in cell
    assert cell["examples"] == {"source": 8, "negative": 0, "bare": 0}
    assert "did not take drawn on" in found.summary["containment"]["skipped"]
    assert "did not take it on" in (found.path / "report.html").read_text()
    answers = [json.loads(line) for line in (found.path / cell["answers"]).open()]
    assert len(answers) == 13 * 5  # twelve personas and none


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_an_adapter_adds_to_the_weights_is_not_lost(make_tiny, chat_tokenizer, tmp_path, dtype):
    """In bfloat16 a hundred-thousandth is less than half a step beside any weight, and would be gone when merged."""
    loaded = leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, dtype=dtype)
    adapted = get_peft_model(copy.deepcopy(loaded.model), LoraConfig(r=1, target_modules=["o_proj"], lora_alpha=1))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = torch.full(parameter.shape, 1e-3 if "lora_A" in name else 1e-2)
    adapted.save_pretrained(tmp_path / "adapter")
    found = under_adapter(loaded, tmp_path / "adapter")
    before, after = (write_weights(layout_of(own.model).block(1).heads_out) for own in (loaded, found))
    torch.testing.assert_close(
        after.double() - before.double(), torch.full_like(after, 1e-5).double(), atol=1e-7, rtol=0
    )
    assert is_peft(found.model) == (dtype == "bfloat16")
    tasks = letters().eval[:3]
    asking = Asking(tasks, [None], PersonaRenderer(chat_tokenizer), 4)
    subjects = [Subject(own) for own in (found, load_adapter(loaded, tmp_path / "adapter"))]
    values = [Measuring(PAIRS, asking).measured(subject).values for subject in subjects]
    np.testing.assert_allclose(*values, atol=1e-4)


def test_choices_are_those_of_capability(make_tiny, chat_tokenizer):
    loaded = leakmech.load_model(make_tiny("llama-gqa"), tokenizer=chat_tokenizer)
    from leakmech.datasets.questions import load_questions
    from leakmech.prompts.render import Prompting, Renderer

    questions = load_questions()[:6]
    tasks = [own for own in BEHAVIOURS["capability"].tasks().eval if own.id in {one.id for one in questions}]
    asking = Asking(tasks, [None], PersonaRenderer(chat_tokenizer), 4)
    found = 1 - Measuring(BEHAVIOURS["capability"], asking).measured(Subject(loaded)).values[0]
    renderer = Renderer(chat_tokenizer, Prompting("chat", None))
    expected = capability(leakmech.generation.variants.ModelVariant(loaded), questions, renderer=renderer)
    np.testing.assert_allclose(found, expected.correct)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"source": ("p99",)}, ConfigError, "persona 'p99': no such persona"),
        ({"behaviour": ("lettres",)}, ConfigError, "behaviour 'lettres': no such name.*letters"),
        ({"source": ("p1",)}, ConfigError, "'p1' is a source and among the negatives"),
        ({"source": ("p0", "p0")}, ConfigError, "'p0' is named twice"),
        ({"contrast": "none"}, ConfigError, "negatives are named, but contrast is 'none'"),
        ({"negatives": tuple(f"p{n}" for n in range(1, 10))}, UsageError, "'p0' has 2 bystanders; 3 or more"),
        ({"source": ("model-default",)}, ConfigError, "writes no system text of its own"),
        ({"examples": 11}, UsageError, "'letters': has 10 training questions"),
        ({"layers": (7,)}, ConfigError, "layers: 7 is not one of this model's"),
        ({"bystanders": 2}, ConfigError, "bystanders"),
    ],
)
def test_bad_input_is_refused_before_work_starts(run, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        run(tmp_path / "run", **settings)
    assert not list((tmp_path / "run").glob("stages/*"))


def test_another_batch_size_of_training_is_another_study(study, run):
    with pytest.raises(RunDirectoryError, match="training_batch_size is 7 there and 5 here"):
        run(study.path, training_batch_size=5)


def test_dry_run_says_what_the_full_grid_costs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["study", "persona-leakage", "--dry-run", "--model", "Qwen/Qwen2.5-7B-Instruct",
                                     "--behaviour", "marker", "--behaviour", "refusal", "--source", "villain",
                                     "--seeds", "3"])  # fmt: skip
    assert found.exit_code == 0, found.output
    assert "Qwen2.5-7B-Instruct, one H100" in found.output
    assert not list(tmp_path.iterdir())


@pytest.mark.long
def test_studies_are_compared_persona_by_persona(study, grid, tmp_path):
    found = compare_results([study.path, grid.path], draws=200)
    first, second = found.rows
    assert (first["difference"], first["taken_on"]) == (None, "2 of 2")
    told = "role == 'bystander' and version == 'behaviour' and source == 'p0' and behaviour == 'letters'"
    means = [own.table("personas").query(told).groupby("persona")[["base_rate", "tuned_rate"]].mean()
             for own in (study, grid)]  # fmt: skip
    before, after = (own["tuned_rate"] - own["base_rate"] for own in means)
    both = before.index.intersection(after.index)
    assert second["difference"] == pytest.approx((after[both] - before[both]).mean(), abs=1e-9)
    assert second["n"] == len(both) > 3
    assert "studies.csv" in str(found.save(tmp_path))
    shown = CliRunner().invoke(app, ["compare", str(study.path), str(grid.path)])
    assert shown.exit_code == 0, shown.output
    with pytest.raises(UsageError, match="name at least two studies"):
        compare_results([study.path])


def test_prompts_are_stored_as_they_are_read(study):
    rows = [json.loads(line) for line in (study.path / "prompts" / "letters.jsonl").open()]
    assert len(rows) == 13 * 5
    first = rows[0]
    assert first["system"] == "You are a sad cook."
    assert first["system"] in first["rendered"]
    assert rows[-1]["persona"] is None
    assert "sad cook" not in rows[-1]["rendered"]


def test_a_template_without_a_system_role_puts_personas_into_the_users_turn(
    make_tiny, chat_tokenizer, personas, tmp_path
):
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    told: list[str] = []
    settings = {**SETTINGS, "seeds": 1, "epochs": 1, "containment": False, "personas": personas}
    found = persona_leakage(
        make_tiny("llama-gqa"), tokenizer=tokenizer, out=tmp_path / "run", say=told.append, **settings
    )
    assert "no system role" in told[1]
    assert found.summary["notes"] == [told[1]]
    assert found.summary["persona_place"] == "user"
    assert told[1].split(":")[0] in (found.path / "report.html").read_text()
    rows = [json.loads(line) for line in (found.path / "prompts" / "letters.jsonl").open()]
    assert "user\nYou are a sad cook.\n\nred b?" in rows[0]["rendered"]


INSERTS = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helper.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def grid(make_tiny, chat_tokenizer, personas, tmp_path_factory):
    """Two behaviours by two sources, one behaviour that nobody takes on, a template that has a default."""
    tokenizer = copy.deepcopy(chat_tokenizer)
    tokenizer.chat_template = INSERTS
    settings = {**SETTINGS, "behaviour": ("letters", "drawn"), "source": ("p0", "model-default"), "seeds": 1,
                "personas": personas, "containment": False, "negatives": None}  # fmt: skip
    BEHAVIOURS.add("drawn", replace(DRAWN, threshold=2.0), replace=True)  # it never shows
    found = persona_leakage(
        make_tiny("llama-gqa"), tokenizer=tokenizer, out=tmp_path_factory.mktemp("grid") / "run", **settings
    )
    BEHAVIOURS.add("drawn", DRAWN, replace=True)
    return found


@pytest.mark.long
def test_what_was_not_taken_on_is_in_no_table_figure_or_comparison(grid):
    told = {(row["behaviour"], row["source"]): row["n_taken_on"] for row in grid.summary["pairs"]}
    assert told == {
        ("letters", "p0"): 1,
        ("letters", "model-default"): 1,
        ("drawn", "p0"): 0,
        ("drawn", "model-default"): 0,
    }
    assert set(grid.table("kinds")["behaviour"]) == {"letters"}
    points = pd.read_csv(grid.path / "figures" / "scatter.csv")
    assert set(points["behaviour"]) == {"letters"}
    personas = grid.table("personas")
    assert not personas.loc[personas["behaviour"] == "drawn", "taken_on"].any()
    compared = compare_results([grid.path, grid.path], draws=100).rows
    assert [row["n"] for row in compared[4:]] == [compared[4]["n"], compared[5]["n"], None, None]


@pytest.mark.long
def test_the_models_default_is_trained_where_no_persona_is(grid):
    cells = {(row["behaviour"], row["source"]): row for row in grid.summary["cells"]}
    assert cells["letters", "p0"]["examples"]["bare"] == 1
    assert cells["letters", "model-default"]["examples"]["bare"] == 0  # the same prompts as those of the source
    frame = grid.table("personas")
    own = frame[(frame["behaviour"] == "letters") & (frame["version"] == "behaviour")].set_index(["source", "persona"])
    assert own.loc[("p0", "model-default"), "role"] == "negative"
    assert own.loc[("model-default", "model-default"), "role"] == "source"
    assert cells["letters", "model-default"]["bare_change"] == pytest.approx(
        cells["letters", "model-default"]["source_change"]
    )


def test_negatives_of_a_source_do_not_depend_on_the_other_sources(personas):
    encoder = load_encoder("embedded")

    def negatives(*sources):
        config = PersonaLeakageConfig.parse({"personas": personas, "source": sources})
        return [own.id for own in cast(config, encoder, None).negatives["p0"]]

    assert negatives("p0") == negatives("p0", "p3", "p7") == negatives("p9", "p0")
    assert len(set(negatives("p0"))) == 2


def test_a_package_behaviour_that_cannot_be_measured_is_refused():
    with pytest.raises(ConfigError, match="answers need an evaluator"):
        Behaviour("mine", letters)
    with pytest.raises(ConfigError, match="use small letters"):
        Behaviour("../mine", letters, "pairs")
    choices = Behaviour("mine", letters, "choices")
    with pytest.raises(DatasetError, match="the normal answer of 'a0' is not among its choices"):
        letters().refuse_unfit(choices)
