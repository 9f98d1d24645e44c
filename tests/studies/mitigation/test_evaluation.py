"""Mitigations compared on a tiny model: what does nothing costs nothing, what is finished is not done again."""

from __future__ import annotations

import json
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch

import leakmech
from leakmech import Mitigation, ScaleHeads, Steer, evaluate_mitigations
from leakmech.core.errors import ConfigError, InterventionError, RunDirectoryError
from leakmech.core.store import read_jsonl_shard
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.runs.directory import RunDirectory
from leakmech.studies.benchmark.settings import BenchConfig
from leakmech.studies.mitigation import cells as cells_module
from leakmech.studies.mitigation.evaluation import COLUMNS
from leakmech.studies.mitigation.prompting import contrast_mitigation

QUICK = {
    "dtype": "float32", "limit": 4, "generations": 2, "decoding": {"max_new_tokens": 12}, "estimator": "ngrams",
    "bootstrap_draws": 100, "draws": 100, "tilt_completions": 5,
}  # fmt: skip
NOTHING = ScaleHeads(["L0H1"], scales=1.0)
SILENCED = ScaleHeads([f"L{layer}H{head}" for layer in range(3) for head in range(4)], scales=0.0)


@contextmanager
def without_last_mlp(model):
    """Any PyTorch hook is a mitigation."""
    handle = model.model.layers[-1].mlp.register_forward_hook(lambda _, __, output: torch.zeros_like(output))
    try:
        yield
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def relevant(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "relevant.jsonl"
    PromptSet("relevant", load_dataset("relevant-matched").samples[:4]).save(path)
    return str(path)


@pytest.fixture(scope="module")
def finished(folder, relevant, tmp_path_factory):
    chosen = {"nothing": NOTHING, "silenced": SILENCED, "hook": without_last_mlp}
    out = tmp_path_factory.mktemp("runs") / "compared"
    return evaluate_mitigations(chosen, model=folder, relevant=[relevant], out=out, **QUICK)


def row(result, name):
    frame = result.to_frame()
    return frame.loc[frame["name"] == name].iloc[0]


@pytest.mark.fault("X339", "answers", "a mitigation under which the model says nothing at all", "a row without values")
@pytest.mark.fault("X340", "settings", "a leakage set and a relevant set of one file name", "a folder for each")
def test_a_model_that_falls_silent_has_a_row_and_sets_of_one_file_name_are_told_apart(folder, relevant, tmp_path):
    leaking = tmp_path / "relevant.jsonl"  # as the other one is called
    PromptSet("leaking", load_dataset("hexl").samples[:4]).save(leaking)
    end = leakmech.load_model(folder).tokenizer.eos_token_id

    @contextmanager
    def silent(model):
        only_end = torch.full((model.config.vocab_size,), -100.0)
        only_end[end] = 100.0
        handle = model.lm_head.register_forward_hook(lambda _, __, output: torch.zeros_like(output) + only_end)
        try:
            yield
        finally:
            handle.remove()

    settings = {"model": folder, "dataset": str(leaking), "relevant": [relevant], **QUICK}
    silence = Mitigation("silent", "intervention", hook=silent, hook_version="1")
    found = row(evaluate_mitigations([silence], out=tmp_path / "run", **settings), "silent")
    assert found[["auc_el", "auc_el_low", "removal"]].isna().all()
    (cell,) = (tmp_path / "run" / "cells" / "test").glob("silent-*")
    assert {"relevant", "relevant-2"} <= {path.name for path in cell.iterdir()}


def test_the_table_has_the_columns_of_the_contract_and_the_base_model_first(finished):
    frame = finished.to_frame()
    assert list(frame.columns[: len(COLUMNS)]) == list(COLUMNS)
    assert list(frame["name"]) == ["base", "nothing", "silenced", "hook"]
    assert set(frame["split"]) == {"test"}
    summary = json.loads((finished.path / "summary.json").read_text())
    assert (summary["kind"], summary["format_version"]) == ("mitigate", 2)
    assert set(summary["mitigations"]) == {"nothing", "silenced", "hook"}


def test_leakage_is_also_measured_in_other_arrangements_and_by_polarity(folder, relevant, tmp_path):
    settings = QUICK | {"model": folder, "relevant": [relevant], "damage": False}
    found = evaluate_mitigations({"nothing": NOTHING}, out=tmp_path / "run", arrangements=("after",), **settings)
    behind = leakmech.bench(
        folder, out=tmp_path / "after", arrangement="after", noise_floor=False,
        **{key: value for key, value in QUICK.items() if key not in ("draws", "tilt_completions")},
    ).summary["overall"]  # fmt: skip
    for measured in found.to_frame().to_dict("records"):
        assert measured["auc_el_after"] == behind["auc_el"]
        assert measured["auc_el"] == pytest.approx((measured["auc_el_positive"] + measured["auc_el_negative"]) / 2)
        assert np.isnan(measured["removal_after"])  # a random model: the oracle is not shown to take anything out


def test_an_arrangement_that_is_asked_for_later_measures_nothing_else_again(folder, relevant, tmp_path):
    settings = QUICK | {"model": folder, "relevant": [relevant], "damage": False, "out": tmp_path / "run"}
    evaluate_mitigations({"silenced": SILENCED}, **settings)
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("run/cells/test/*/*/scores.parquet")}
    assert before
    found = evaluate_mitigations({"silenced": SILENCED}, arrangements=("opposed",), **settings)
    assert {file: file.stat().st_mtime_ns for file in before} == before
    rows = found.to_frame().set_index("name")
    nothing_left, silenced = rows.loc["base"], rows.loc["silenced"]
    assert nothing_left["removal_opposed"] == 0  # the base model against itself
    assert silenced["removal_opposed_low"] <= silenced["removal_opposed"] <= silenced["removal_opposed_high"]
    assert "auc_el_opposed" not in nothing_left
    shown = next(table for table in found.tables() if "elsewhere" in table.title)
    assert [line[:2] for line in shown.rows] == [("opposed", "base"), ("opposed", "silenced")]
    assert "With the injection elsewhere" in found.report().read_text()


@pytest.mark.long
def test_every_estimator_judges_the_same_mitigations(folder, relevant, tmp_path):
    settings = QUICK | {"model": folder, "relevant": [relevant], "damage": False, "estimator": "vader,ngrams"}
    found = evaluate_mitigations({"nothing": NOTHING, "silenced": SILENCED}, out=tmp_path / "run", **settings)
    views = found.by_estimator()
    assert list(zip(views["estimator"], views["name"], strict=True)) == [
        (estimator, name) for estimator in ("vader", "ngrams") for name in ("base", "nothing", "silenced")
    ]
    by_vader = views[views["estimator"] == "vader"].set_index("name")
    for measured in found.to_frame().to_dict("records"):
        own = by_vader.loc[measured["name"]]
        for column in ("auc_el", "auc_el_low", "leakage_reduction", "retention", "retention_high", "p_holm"):
            assert own[column] == pytest.approx(measured[column], nan_ok=True)
    by_ngrams = views[views["estimator"] == "ngrams"].set_index("name")
    assert by_ngrams.loc["base", "auc_el"] == by_ngrams.loc["nothing", "auc_el"] != by_vader.loc["base", "auc_el"]
    assert "Strengths were chosen by vader alone" in found.to_markdown()
    assert "By every expression estimator" in found.report().read_text()


def test_one_estimator_has_no_second_table(finished):
    assert finished.by_estimator() is None
    assert len(finished.tables()) == 2


def test_what_changes_nothing_removes_nothing_and_keeps_everything(finished):
    found, base = row(finished, "nothing"), row(finished, "base")
    assert found["tilt_shift"] == base["tilt_shift"] != row(finished, "silenced")["tilt_shift"]
    for measured in (found, base):
        for part, value in (("removal", 0), ("removal_tilt", 0), ("retention", 1)):
            assert np.isnan(measured[part]) or measured[part] == value
        assert measured["facts_accuracy"] == base["facts_accuracy"]
        assert measured["topic_free_auc_el_low"] <= measured["topic_free_auc_el"] <= measured["topic_free_auc_el_high"]
    assert base["removal_of"] == "topic-free valence shift"


def test_every_mitigation_is_judged_on_the_completions_of_the_base_model(finished):
    texts = {}
    for name in ("base", "nothing", "silenced", "hook"):
        [file] = finished.path.glob(f"cells/test/{name}-*/hexl/tilt/completions.jsonl")
        texts[name] = [c["text"] for line in read_jsonl_shard(file) for c in line["completions"]]
    assert texts["base"]
    assert all(own == texts["base"] for own in texts.values())
    [tilt] = finished.path.glob("cells/test/oracle-*/hexl/tables/tilt.csv")  # the bound that removal is measured by
    assert pd.read_csv(tilt)["per_token_shift"].abs().max() < 1e-5


def test_what_selectivity_lacks_is_said(finished):
    asked = finished.summary["facts_asked"]
    assert asked["n"] == 8
    assert asked["base_accuracy"] == row(finished, "base")["facts_accuracy"]
    reasons = row(finished, "base")["not_charged"]
    assert "retention_self: there is no second set of relevant affect" in reasons
    if asked["not_compared"]:
        assert f"retention_facts: {asked['not_compared']}" in reasons
    text = finished.tables()[1].to_markdown()
    assert "What selectivity charges" in text
    assert "of 8 facts (chance 25" in text


def test_precision_is_told_from_the_base_model_before_the_others_are_measured(finished):
    frame = finished.table("expected_test")
    assert list(frame["part"])[:3] == ["removal", "removal_tilt", "retention"]
    assert set(frame["at"]) == {0.85}
    known = frame.dropna()
    assert (known["half_width"] > 0).all()
    assert finished.summary["expected"].keys() == set(frame["part"])
    first, later = ((finished.path / "cells" / "test").glob(f"{name}-*/cell.json") for name in ("base", "nothing"))
    written = (finished.path / "tables" / "expected_test.csv").stat().st_mtime_ns
    assert next(first).stat().st_mtime_ns < written < next(later).stat().st_mtime_ns


def test_contrastive_decoding_has_no_tilt_and_no_facts_and_says_so(folder, relevant, tmp_path):
    settings = QUICK | {"model": folder, "relevant": [relevant, relevant], "damage": False}
    [_, found] = (
        evaluate_mitigations([contrast_mitigation("away-from-context")], out=tmp_path / "run", **settings)
        .to_frame()
        .to_dict("records")
    )
    assert np.isnan(found.get("removal_tilt", np.nan))
    assert np.isnan(found["tilt_shift"])
    assert "removal_tilt: contrastive decoding" in found["not_charged"]


def test_what_changes_nothing_reduces_nothing_and_damages_nothing(finished):
    found = row(finished, "nothing")
    base = row(finished, "base")
    assert found["auc_el"] == base["auc_el"]
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["perplexity_ratio"] == pytest.approx(1)
    assert found["capability"] == base["capability"]
    assert found["fluency"] == pytest.approx(1)


def test_what_silences_all_heads_shows_in_every_column(finished):
    found = row(finished, "silenced")
    assert found["kl"] > 1e-4
    assert found["perplexity_ratio"] != pytest.approx(1, abs=1e-6)


@pytest.mark.long
def test_what_needs_an_injection_has_no_side_effect_without_one_and_is_tested_apart(folder, relevant, tmp_path):
    ignoring = leakmech.DampenAttention(["L0H0", "L1H1"])
    given = {"ignoring": ignoring, "silenced": SILENCED, "nothing": NOTHING}
    found = evaluate_mitigations(given, model=folder, relevant=[relevant], out=tmp_path / "run", **QUICK)
    seer = row(found, "ignoring")
    assert (seer["told"], seer["not_applicable"]) == (
        "boundary",
        "kl, perplexity_ratio, capability, retention_requests",
    )
    assert seer[["kl", "perplexity_ratio", "capability", "retention_requests", "kl_effect"]].isna().all()
    assert np.isfinite([seer["auc_el"], seer["fluency"]]).all()
    assert row(found, "silenced")["told"] == "nothing"
    assert seer["p_holm"] == seer["p"]  # alone in its group
    least = min((row(found, name) for name in ("silenced", "nothing")), key=lambda one: one["p"])
    assert least["p_holm"] == pytest.approx(min(1.0, 2 * least["p"]))  # two that are told nothing
    assert "| ignoring | boundary |" in found.to_markdown()


def test_a_plain_hook_function_is_measured(finished):
    assert row(finished, "hook")["kl"] > 1e-4


def test_finished_cells_are_not_measured_again(finished, folder, relevant, monkeypatch):
    def refuse(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(cells_module.Cells, "_measure", refuse)
    again = evaluate_mitigations(
        {"nothing": NOTHING, "silenced": SILENCED}, model=folder, relevant=[relevant], out=finished.path, **QUICK
    )
    assert list(again.to_frame()["name"]) == ["base", "nothing", "silenced"]
    with pytest.raises(AssertionError, match="measured again"):
        evaluate_mitigations(
            {"nothing": ScaleHeads(["L0H1"], scales=0.5)}, model=folder, relevant=[relevant], out=finished.path, **QUICK
        )


def test_only_cells_in_plain_form_have_other_keys_than_before_their_side_effects_were_measured_anew(
    folder, tmp_path, monkeypatch
):
    def key(form):
        config = BenchConfig.parse({"prompt_form": form})
        cells = cells_module.Cells(loaded=loaded, config=config, relevant=(), files=RunDirectory(tmp_path))
        return cells.key(cells_module.BASE)

    loaded = leakmech.load_model(folder, dtype="float32")
    now = {form: key(form) for form in ("auto", "chat", "plain")}
    monkeypatch.setattr(cells_module, "_IN_PLAIN_FORM", "measured in some other way")
    assert {form for form, before in now.items() if key(form) != before} == {"plain"}


def test_other_settings_do_not_mix_with_a_finished_comparison(finished, folder, relevant):
    with pytest.raises(RunDirectoryError, match="other settings"):
        evaluate_mitigations([NOTHING], model=folder, relevant=[relevant], out=finished.path, **{**QUICK, "seed": 1})


def test_an_interrupted_comparison_ends_as_an_uninterrupted_one(finished, folder, relevant, tmp_path, monkeypatch):
    measure = cells_module.Cells._measure

    def interrupt(self, mitigation):
        if mitigation.name == "silenced":
            raise KeyboardInterrupt
        return measure(self, mitigation)

    chosen = {"nothing": NOTHING, "silenced": SILENCED}
    quick = {**QUICK, "damage": False}
    with monkeypatch.context() as patch:
        patch.setattr(cells_module.Cells, "_measure", interrupt)
        with pytest.raises(leakmech.core.errors.InterruptedRunError, match="2 of 3 cells"):
            evaluate_mitigations(chosen, model=folder, relevant=[relevant], out=tmp_path / "run", **quick)
    result = evaluate_mitigations(chosen, model=folder, relevant=[relevant], out=tmp_path / "run", **quick)
    ours, theirs = (found.to_frame().set_index("name")[list(COLUMNS[4:11])] for found in (result, finished))
    assert ours.loc[["base", "nothing", "silenced"]].equals(theirs.loc[["base", "nothing", "silenced"]])


def test_mitigations_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two are called 'a'"):
        evaluate_mitigations([Mitigation("a", "instruction"), Mitigation("a", "instruction")])


def test_a_function_whose_source_does_not_tell_all_is_refused():
    strength = 2.0

    def closure(model):
        return without_last_mlp(model) if strength else None

    with pytest.raises(ConfigError, match="hook_version"):
        evaluate_mitigations([closure])


def test_a_strength_that_yields_nan_is_named(folder, relevant, tmp_path):
    loaded = leakmech.load_model(folder, dtype="float32")
    width = loaded.model.config.hidden_size
    vector = torch.nn.functional.normalize(torch.ones(width), dim=0)
    steer = Steer(vector, layers=[1], strength=3e38, stream_norm=3e38)
    with pytest.raises(InterventionError, match="lower its strength"):
        evaluate_mitigations([steer], model=loaded, relevant=[relevant], out=tmp_path / "run", **QUICK)
