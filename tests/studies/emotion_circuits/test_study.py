"""The whole study on a model with two planted emotion circuits and a decoy, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import (
    ConfigError,
    DatasetError,
    InterruptedRunError,
    ModelError,
    RunDirectoryError,
    UsageError,
)
from leakmech.core.rows import user_rows
from leakmech.datasets.emotions import EMOTIONS
from leakmech.datasets.sev import scenario_file
from leakmech.models.layout import layout_of
from leakmech.studies.emotion_circuits.run import STAGES, emotion_circuits
from leakmech.studies.results import compare_results, load_result

FEAR, HAPPINESS = "L1H2", "L1H1"
FEAR_NEURON, HAPPINESS_NEURON, DECOY = "L2N5", "L2N9", "L2N40"
LETTER, CARRIED, READ_OUT = {"fear": 0, "happiness": 1}, {"fear": 2, "happiness": 3}, {"fear": 4, "happiness": 5}
QUOTE, CONSTANT = 6, 7
SETTINGS = {
    "form": "plain", "judges": ("lexicon",), "fit_scenarios": 4, "tune_scenarios": 1, "test_scenarios": 2,
    "outside_prompts": 1, "max_new_tokens": 4, "late_tokens": 1, "head_share": 3 / 12, "neuron_share": 12 / 192,
    "influence_strengths": (0.3,), "influence_events": 2, "judged_events": 3, "random_draws": 4, "random_circuits": 1,
    "modulation_scales": (1.0, 2.0, 3.0), "steering_strengths": (0.1, 0.2, 0.3), "bootstrap_draws": 100,
}  # fmt: skip


def plant(model, tokenizer) -> None:
    """The letters f and h, which only fear and happiness have, are carried to the end by a head each, and written out
    by a neuron each. The decoy writes fear as well, but only where the token is the quotation mark: at the first one.
    """
    layout = layout_of(model)
    letters = {"fear": "f", "happiness": "h"}

    def number(text: str) -> int:
        return tokenizer(text)["input_ids"][0]

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.01) if parameter.dim() > 1 else parameter.fill_(1)
        embedding = layout.embedding.weight
        embedding.normal_(generator=torch.Generator().manual_seed(0)).mul_(0.3)
        embedding[:, : CONSTANT + 1] = 0
        embedding[:, CONSTANT] = 8  # most of a token's length, so that normalising it says nothing of the letters
        embedding[number('"'), QUOTE] = 3
        attention, d_head = layout.blocks[1].attention, layout.d_head
        for emotion, head in (("fear", 2), ("happiness", 1)):
            embedding[number(letters[emotion]), LETTER[emotion]] = 6
            first = head * d_head
            attention.q_proj.weight[first : first + d_head] = 0  # it averages over the prompt
            attention.v_proj.weight[first] = 0
            attention.v_proj.weight[first, LETTER[emotion]] = 5
            attention.o_proj.weight[:, first] = 0
            attention.o_proj.weight[CARRIED[emotion], first] = 5
        mlp = layout.blocks[2].mlp
        for emotion, neuron, gate in (("fear", 5, CONSTANT), ("happiness", 9, CONSTANT), ("fear", 40, QUOTE)):
            mlp.gate_proj.weight[neuron] = 0
            mlp.up_proj.weight[neuron] = 0
            mlp.gate_proj.weight[neuron, gate] = 1 if gate == CONSTANT else 3
            mlp.up_proj.weight[neuron, CARRIED[emotion]] = 2
            mlp.down_proj.weight[:, neuron] = 0
            mlp.down_proj.weight[READ_OUT[emotion], neuron] = 0.5
        model.lm_head.weight.zero_()
        model.lm_head.weight[number("a"), CONSTANT] = 5  # whatever is commanded, it says "aaaaaaaa"


@pytest.fixture(scope="module")
def planted(make_tiny, chat_tokenizer):
    model = make_tiny("llama-mha")
    plant(model, chat_tokenizer)
    return model


@pytest.fixture(scope="module")
def study(planted, chat_tokenizer, tmp_path_factory):
    out = tmp_path_factory.mktemp("study") / "run"
    told: list[str] = []
    found = emotion_circuits(planted, tokenizer=chat_tokenizer, out=out, say=told.append, **SETTINGS)
    assert told[0].startswith("about ")
    return found


def test_the_planted_units_are_in_their_circuits_and_the_decoy_is_marked(study):
    frame = study.table("circuits")
    of = {emotion: frame[frame["emotion"] == emotion].set_index("unit") for emotion in EMOTIONS}
    assert {FEAR, FEAR_NEURON, DECOY} <= set(of["fear"].index)
    assert {HAPPINESS, HAPPINESS_NEURON} <= set(of["happiness"].index)
    assert of["fear"]["score"].idxmax() in (FEAR, FEAR_NEURON, DECOY)
    assert bool(of["fear"].loc[DECOY, "first_token_only"])
    assert not of["fear"].loc[[FEAR, FEAR_NEURON], "first_token_only"].any()
    assert not of["happiness"].loc[[HAPPINESS, HAPPINESS_NEURON], "first_token_only"].any()


def test_first_units_beat_random_ones_for_what_was_planted(study):
    sets = study.table("unit_sets").set_index(["emotion", "kind", "edit"])
    for emotion in ("fear", "happiness"):
        for kind in ("head", "neuron"):
            row = sets.loc[(emotion, kind, "enhancement")]
            # Of four heads a layer, most random sets have the planted one as well.
            assert row["effect"] > (0 if kind == "head" else row["random_max"])
            assert row["random_sets"] == 4


def test_directions_of_planted_emotions_lie_where_they_are_written(study):
    fear = leakmech.load_direction(study.path / "directions" / "fear.json")
    assert (fear.kind, fear.label) == ("commanded", "fear")
    table = study.table("directions")
    assert set(table["set"]) == {"recipe", "reply", "late", "neutral-out"}
    assert "30 are needed" in study.summary["directions"]["skipped"]["accepted"]
    last = study.table("directions").query("set == 'recipe' and layer == 2").iloc[0]
    assert last["cross_theme"] > 0.3  # fear and happiness are told apart; others have no unit


def test_every_number_of_the_contract_is_there(study):
    summary = study.summary
    methods = {"none", "prompting", "steering", "steering-late", "modulation", "other", "random_circuit"}
    assert set(summary["accuracy"]) == methods
    for own in summary["accuracy"].values():
        assert set(own) == {*EMOTIONS, "overall"}
        assert own["fear"]["rate"] == 0  # it always says the same
    assert summary["kind"] == "study"
    assert summary["collapse"]["modulation"]["fear"]["modal_share"] == 1
    assert summary["fluency"]["none"]["ratio"] == 1
    assert summary["bridge"] == {"skipped": "no diagnosis was named (--diagnosis RUN)"}
    assert set(summary["elicitation"]["not_expressed"]) == set(EMOTIONS)
    assert json.loads((study.path / "summary.json").read_text())["n_test"] == 36


def test_show_and_report_know_the_study(study):
    shown = CliRunner().invoke(app, ["show", str(study.path)])
    assert shown.exit_code == 0, shown.output
    assert "Is the emotion expressed?" in shown.output
    page = load_result(study.path).report().read_text(encoding="utf-8")
    assert "no reply to the command is judged so" in page
    assert (study.path / "figures" / "curve.png").exists()


@pytest.mark.long
@pytest.mark.fault("X602", "runs", "a study that was stopped, with a torn reply and a lost stage", "the same numbers")
def test_an_interrupted_study_goes_on_to_the_same_numbers(study, planted, chat_tokenizer, tmp_path, monkeypatch):
    out = tmp_path / "run"

    def stop(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setitem(STAGES, "strengths", stop)
        with pytest.raises(InterruptedRunError, match="6 of 9 stages are saved"):
            emotion_circuits(planted, tokenizer=chat_tokenizer, out=out, **SETTINGS)
    cut = out / "replies" / "fit.jsonl"
    cut.write_bytes(cut.read_bytes()[:-40])  # a torn line, as a kill leaves it
    (out / "stages" / "directions.json").unlink()
    found = emotion_circuits(planted, tokenizer=chat_tokenizer, out=out, **SETTINGS)
    timeless = [{k: v for k, v in own.summary.items() if k != "timing"} for own in (study, found)]
    assert timeless[0] == timeless[1]
    for name in ("circuits", "accuracy", "curve"):
        pd.testing.assert_frame_equal(study.table(name), found.table(name))


@pytest.fixture
def scenarios(tmp_path):
    """Rows of the built-in set, to be changed, and where to write them."""
    rows = [row for _, row in user_rows(scenario_file("sev"))]

    def write(rows):
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return rows, write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [{k: v for k, v in row.items() if k != "neutral"} for row in rows], "neutral"),
        (lambda rows: [{**rows[0], "positive": "I was furious."}, *rows[1:]], r"own.jsonl:1: field 'positive': names"),
        (lambda rows: [row for row in rows if row["split"] == "fit"], "none has the split 'tune'"),
        (lambda rows: [row for row in rows if row["theme"] == "work"], "one theme"),
    ],
)
def test_scenarios_that_do_not_suffice_are_refused_before_a_model_is_loaded(scenarios, change, message, tmp_path):
    rows, write = scenarios
    with pytest.raises(DatasetError, match=message):
        emotion_circuits("no-such-model", dataset=write(change(rows)), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.fault("X603", "rows", "scenarios to report on that are also fitted on", "refused in a line, named")
def test_scenarios_of_the_test_file_must_be_new(scenarios, tmp_path):
    rows, write = scenarios
    with pytest.raises(DatasetError, match="is among those of 'sev' as well"):
        emotion_circuits("no-such-model", test=write(rows[:3]), out=tmp_path / "run")


@pytest.mark.fault("X604", "models", "a study of a model that normalises what sublayers write", "refused in a line")
def test_settings_and_models_that_cannot_be_are_refused(planted, make_tiny, chat_tokenizer, plain_tokenizer, tmp_path):
    with pytest.raises(ConfigError, match="at least 3 different ones"):
        emotion_circuits("no-such-model", modulation_scales=(1.0, 1.0), out=tmp_path / "run")
    with pytest.raises(ConfigError, match="use --form plain"):
        emotion_circuits(planted, tokenizer=plain_tokenizer, form="chat", out=tmp_path / "run")
    with pytest.raises(ModelError, match="normalises what a sublayer writes"):
        emotion_circuits(make_tiny("gemma3"), tokenizer=chat_tokenizer, out=tmp_path / "run")
    with pytest.raises(RunDirectoryError):
        emotion_circuits(planted, tokenizer=chat_tokenizer, diagnosis=tmp_path / "none", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("share", "message"), [(0.5, "head_share must be less than or equal to 0.4"), (0.4, "lower it")]
)
def test_circuits_that_do_not_fit_are_refused_before_anything_is_generated(
    planted, chat_tokenizer, tmp_path, share, message
):
    """Of four heads a layer may give one, so five of twelve find no room."""
    with pytest.raises(ConfigError, match=message):
        emotion_circuits(planted, tokenizer=chat_tokenizer, out=tmp_path / "run", **{**SETTINGS, "head_share": share})
    assert not (tmp_path / "run").exists()


def test_a_diagnosis_of_another_model_is_refused_before_anything_is_generated(planted, chat_tokenizer, tmp_path):
    other = shutil.copytree(Path(__file__).parents[2] / "fixtures" / "runs" / "diagnose", tmp_path / "other")
    summary = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(summary | {"target": "tilt"}))
    with pytest.raises(RunDirectoryError, match="other: is of a model with weights 97117639abdade98, "):
        emotion_circuits(planted, tokenizer=chat_tokenizer, diagnosis=other, out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_dry_run_tells_the_costs_of_the_papers_models():
    told = CliRunner().invoke(app, ["study", "emotion-circuits", "--dry-run"], terminal_width=200)
    assert told.exit_code == 0, told.output
    assert "Llama-3.2-3B-Instruct" in told.output
    assert "Qwen2.5-7B-Instruct" in told.output


def test_a_copied_study_still_opens(study, tmp_path):
    copy = shutil.copytree(study.path, tmp_path / "copy")
    assert load_result(copy).summary["study"] == "emotion-circuits"
    assert np.isfinite(load_result(copy).table("fluency")["words"]).all()


def test_compare_knows_studies(study, tmp_path):
    copy = shutil.copytree(study.path, tmp_path / "copy")
    out = tmp_path / "compared"
    shown = CliRunner().invoke(app, ["compare", str(study.path), str(copy), "--out", str(out)], terminal_width=200)
    assert shown.exit_code == 0, shown.output
    rows = pd.read_csv(out / "studies.csv")
    assert rows["method"].tolist() == ["none", "prompting", "steering", "modulation"] * 2
    assert (rows["difference"].dropna() == 0).all()
    record = json.loads((copy / "run.json").read_text())
    record["fingerprint"]["test"] = "of other events"
    (copy / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="was tested on other events"):
        compare_results([study.path, copy])
    with pytest.raises(UsageError, match="margin is for benchmarks"):
        compare_results([study.path, copy], margin=0.1)
