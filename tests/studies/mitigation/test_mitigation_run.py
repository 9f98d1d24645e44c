"""``mitigate`` from end to end on a tiny model: strengths from tune samples, one measurement on test samples, files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from markupsafe import escape

import leakmech
from leakmech import Mitigation, diagnose, mitigate
from leakmech.core.errors import (
    ConfigError,
    DatasetError,
    InterruptedRunError,
    InterventionError,
    ModelError,
    RunDirectoryError,
)
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.interventions.base import Probe
from leakmech.models.components import Component
from leakmech.runs.directory import stored_settings
from leakmech.studies.diagnosis import run as diagnosis_run
from leakmech.studies.mitigation import own_diagnosis
from leakmech.studies.mitigation.angular import turned
from leakmech.studies.mitigation.late_outputs import LATE, LateOutputs
from leakmech.studies.mitigation.late_streams import LateStreams
from leakmech.studies.mitigation.parts import FittedParts
from leakmech.studies.mitigation.random_baselines import RANDOM, band
from leakmech.studies.mitigation.run import _names, best_of
from leakmech.studies.mitigation.settings import MitigateConfig
from leakmech.studies.mitigation.untold import heads_set_late

DIAGNOSIS = {
    "limit": 3, "exact_samples": 2, "circuit_samples": 2, "integrated_steps": 2, "random_rankings": 2,
    "bootstrap_draws": 100, "methods": ("difference_of_means",), "estimator": "vader", "dtype": "float32",
    "target": "direction", "judged_samples": 2, "judged_neurons": (), "random_sets": 1, "sampled_sets": 0,
}  # fmt: skip
QUICK = {
    "limit": 3, "generations": 1, "tune_generations": 1, "tune_samples": 3, "decoding": {"max_new_tokens": 8},
    "estimator": "vader", "bootstrap_draws": 100, "dtype": "float32", "families": ("ignore-if-unrelated",),
    "baselines": False, "tilt_completions": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_tiny, chat_tokenizer):
    """Model, samples to fit on, and relevant affect."""
    folder = tmp_path_factory.mktemp("files")
    make_tiny("llama-gqa").save_pretrained(folder / "model")
    chat_tokenizer.save_pretrained(folder / "model")
    PromptSet("fit", load_dataset("hexl").samples[20:34]).save(folder / "fit.jsonl")
    samples = load_dataset("relevant-fit")
    few = (*samples.split("fit").samples[::12], *samples.split("tune").samples[::6])
    PromptSet("relevant-fit", few).save(folder / "relevant-fit.jsonl")
    PromptSet("relevant", load_dataset("relevant-matched").samples[:3]).save(folder / "relevant.jsonl")
    return folder


@pytest.fixture(scope="module")
def diagnosis(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "diagnosis"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis_run, "write_report", lambda *_: None)  # its figures take half of the time
        return diagnose(files / "model", out=out, fit=str(files / "fit.jsonl"), **DIAGNOSIS).path


@pytest.fixture(scope="module")
def finished(files, diagnosis, tmp_path_factory):
    return mitigate(
        files / "model", diagnosis=diagnosis, out=tmp_path_factory.mktemp("runs") / "mitigations",
        relevant=(str(files / "relevant.jsonl"),), relevant_fit=(str(files / "relevant-fit.jsonl"),), **QUICK,
    )  # fmt: skip


def test_each_family_is_tuned_and_its_choice_is_tested_once(finished):
    frame = finished.to_frame()
    tuned, tested = (frame.loc[frame["split"] == split] for split in ("tune", "test"))
    assert list(tuned["name"]) == ["base", *(f"ignore-if-unrelated-{share}" for share in ("0.8", "0.9", "0.95"))]
    chosen = finished.summary["chosen"]["ignore-if-unrelated"]
    assert list(tested["name"]) == ["base", chosen, "oracle-control-prompt"]
    assert finished.summary["kind"] == "mitigate"
    assert 0 <= finished.summary["relation_probe"]["auc"] <= 1


@pytest.mark.long
def test_a_run_takes_in_more_and_measures_only_that(finished, files, diagnosis, monkeypatch):
    from leakmech.studies.mitigation import cells

    measured = []
    measure = cells.Cells._measure
    monkeypatch.setattr(
        cells.Cells, "_measure", lambda self, m: measured.append((self.split, m.name)) or measure(self, m)
    )
    settings = {
        "relevant": (str(files / "relevant.jsonl"),),
        "relevant_fit": (str(files / "relevant-fit.jsonl"),),
        **QUICK,
    }
    settings["families"] = (*QUICK["families"], "instruction-ignore-irrelevant")
    before = finished.to_frame()
    more = mitigate(files / "model", diagnosis=diagnosis, out=finished.path, **settings).to_frame()
    assert measured == [("tune", "instruction-ignore-irrelevant"), ("test", "instruction-ignore-irrelevant")]
    assert len(more) == len(before) + 2
    assert json.loads((finished.path / "run.json").read_text())["config"]["families"] == list(settings["families"])
    with pytest.raises(RunDirectoryError, match="other settings"):
        mitigate(files / "model", diagnosis=diagnosis, out=finished.path, **settings | {"seed": 1})


@pytest.mark.long
def test_what_is_claimed_is_measured_with_several_seeds_pooled(finished, files, diagnosis, tmp_path):
    settings = {"relevant": (str(files / "relevant.jsonl"),), "relevant_fit": (str(files / "relevant-fit.jsonl"),)}
    settings |= QUICK | {"claimed": ("ignore-if-unrelated",), "seeds": 2}
    shutil.copytree(finished.path, tmp_path / "run")
    frame = mitigate(files / "model", diagnosis=diagnosis, out=tmp_path / "run", **settings).to_frame()
    chosen = finished.summary["chosen"]["ignore-if-unrelated"]
    claimed, tested = (frame.loc[frame["split"] == split].set_index("name") for split in ("claimed", "test"))
    assert list(claimed.index) == ["base", chosen, "oracle-control-prompt"]
    assert set(claimed["seeds"]) == {2}
    [folder] = (tmp_path / "run" / "cells" / "test").glob("base-*")
    first, second = (leakmech.load_result(folder / name) for name in ("hexl", "hexl-seed1"))
    assert second.record.config["seed"] == first.record.config["seed"] + 1
    answers = [set(result.scores["first_sentence"]) for result in (first, second)]
    assert answers[0] != answers[1]
    assert claimed.loc["base", "removal_tilt"] == pytest.approx(tested.loc["base", "removal_tilt"], nan_ok=True)
    assert "over several seeds" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(ConfigError, match="there will be no row of 'ignore-if'"):
        mitigate(files / "model", diagnosis=diagnosis, out=tmp_path / "o", **settings | {"claimed": ("ignore-if",)})


def test_what_was_fitted_is_read_when_a_run_is_continued(finished, files, diagnosis, monkeypatch):
    from leakmech.studies.mitigation import parts

    def refit(*_, **__):
        raise AssertionError("fitted again")

    monkeypatch.setattr(parts, "fit_relation_probe", refit)
    settings = {"relevant": (str(files / "relevant.jsonl"),), "relevant_fit": (str(files / "relevant-fit.jsonl"),)}
    before = finished.summary
    again = mitigate(files / "model", diagnosis=diagnosis, out=finished.path, **settings | QUICK).summary
    assert again["chosen"] == before["chosen"]
    assert again["relation_probe"] == before["relation_probe"]
    ranks = diagnosis / "tables" / "heads.csv"
    ranked = ranks.read_text()
    ranks.write_text(ranked.replace("L", "M").replace(",1,", ",2,"))
    with pytest.raises(RunDirectoryError, match="fitted_on"):
        mitigate(files / "model", diagnosis=diagnosis, out=finished.path, **settings | QUICK)
    ranks.write_text(ranked)


def test_an_interruption_while_something_is_fitted_says_how_to_go_on(files, diagnosis, tmp_path, monkeypatch):
    from leakmech.studies.mitigation import parts

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "fit_relation_probe", interrupt)
    with pytest.raises(InterruptedRunError) as interrupted:
        mitigate(files / "model", diagnosis=diagnosis, out=tmp_path / "run", **QUICK)
    assert str(interrupted.value) == (
        f"{tmp_path / 'run'}: interrupted; what was fitted and measured is saved; continue with: leakmech mitigate "
        f"--out {tmp_path / 'run'}"
    )


def test_naming_a_run_is_enough_to_go_on_in_its_number_format(finished):
    assert QUICK["dtype"] == "float32"
    assert stored_settings(finished.path, command="mitigate")["dtype"] == "float32"


def test_the_page_shows_tables_figure_and_answers(finished):
    page = (finished.path / "report.html").read_text()
    chosen = finished.summary["chosen"]["ignore-if-unrelated"]
    assert f"{chosen} ✓" in page
    for title in ("What each one damages", "Strengths that were tried", "Before and after", "after: "):
        assert title in page
    answers = leakmech.load_result(next((finished.path / "cells" / "test").glob("base-*")) / "hexl").scores
    first = answers.loc[(answers["generation"] == 0) & (answers["condition"] == "positive"), "first_sentence"].iloc[0]
    assert escape(first) in page


def test_the_chosen_interventions_are_saved_for_bench(finished, files):
    path = finished.path / "interventions" / "ignore-if-unrelated.json"
    (edit,) = leakmech.load_interventions(path)
    assert edit.kind == "dampen_attention"
    assert edit.condition.position == "stem"
    assert edit.condition.fires == "below"
    assert edit.condition.ahead
    assert {head.layer for head in edit.components} == {0, 1, 2}
    leakmech.load_model(files / "model")


def test_the_best_member_has_the_highest_selectivity_and_none_counts_as_worst():
    members = [Mitigation(name, "instruction") for name in ("a", "b", "c")]
    rows = [{"name": "a", "selectivity": None}, {"name": "b", "selectivity": 0.4}, {"name": "c", "selectivity": 0.3}]
    assert best_of(members, rows).name == "b"
    assert best_of(members, [{"name": name, "selectivity": 0.0} for name in "abc"]).name == "a"


def test_files_of_one_name_are_told_apart_and_earlier_ones_keep_their_names():
    assert _names("adapter", ["runs/a/adapter"]) == {"adapter-adapter": "runs/a/adapter"}
    assert _names("adapter", ["runs/a/adapter", "/runs/b/adapter", "org/name"]) == {
        "adapter-adapter": "runs/a/adapter",
        "adapter-runs-b-adapter": "/runs/b/adapter",
        "adapter-name": "org/name",
    }
    assert list(_names("file", ["a/edit.json", "b/edit.json"])) == ["file-edit", "file-b-edit"]
    with pytest.raises(ConfigError, match="same name in the table"):
        _names("file", ["a/edit.json", "b/edit.json", "b-edit.json", "b/edit.yaml"])
    with pytest.raises(ConfigError, match="same name in the table"):  # before anything is loaded
        mitigate("no-such-model", interventions=("a/edit.json", "b/edit.json", "b-edit.json"))
    assert list(_names("adapter", ["a/v1.5", "b/v1.5"])) == ["adapter-v1.5", "adapter-b-v1.5"]


def test_without_a_diagnosis_files_are_judged_and_nothing_is_fitted(finished, files, tmp_path):
    edit = str(finished.path / "interventions" / "ignore-if-unrelated.json")
    settings = {key: value for key, value in QUICK.items() if key != "families"}
    settings |= {"relevant": (str(files / "relevant.jsonl"),), "out": tmp_path / "judged"}
    result = mitigate(files / "model", interventions=(edit,), **settings)
    frame = result.to_frame()
    assert list(frame["name"]) == ["base", "file-ignore-if-unrelated", "oracle-control-prompt"]
    assert set(frame["split"]) == {"test"}
    before = finished.to_frame().query("split == 'test'").set_index("name")["auc_el"]
    assert frame["auc_el"].iloc[1] == pytest.approx(before[finished.summary["chosen"]["ignore-if-unrelated"]])
    assert "file-ignore-if-unrelated" in (result.path / "report.html").read_text()
    assert result.summary["diagnosis"] is None
    assert not (result.path / "diagnosis").exists()


@pytest.mark.long
def test_without_a_diagnosis_and_files_a_run_makes_its_own_and_goes_on_with_it(files, tmp_path, monkeypatch):
    samples = load_dataset(files / "fit.jsonl").samples
    PromptSet("aexl_fit", samples[:8]).save(tmp_path / "aexl_fit.jsonl")
    PromptSet("aexl_tune", samples[8:]).save(tmp_path / "aexl_tune.jsonl")
    built = []

    def build(out, **settings):
        built.append(settings)
        out.parent.mkdir()
        for split in ("fit", "tune"):
            shutil.copy(tmp_path / f"aexl_{split}.jsonl", out.with_stem(f"aexl_{split}"))
        out.with_suffix(".json").write_text("{}")

    settings_of = own_diagnosis.settings_of
    few = {key: value for key, value in DIAGNOSIS.items() if key not in ("limit", "estimator")}
    monkeypatch.setattr(own_diagnosis, "build_aexl", build)
    monkeypatch.setattr(own_diagnosis, "settings_of", lambda *given: settings_of(*given).model_copy(update=few))
    monkeypatch.setattr(diagnosis_run, "write_report", lambda *_: None)
    settings = {"relevant": (str(files / "relevant.jsonl"),), "relevant_fit": (str(files / "relevant-fit.jsonl"),)}
    settings |= QUICK | {"families": ("heads-mean",), "out": tmp_path / "run"}
    result = mitigate(files / "model", **settings)
    assert [(one["fit"], one["tune"], one["seed"]) for one in built] == [(50, 50, 0)]
    assert result.summary["diagnosis"] == "own"
    own = leakmech.load_result(tmp_path / "run" / "diagnosis")
    assert own.summary["n_samples"] == {"fit": 8, "tune": 6, "test": 3}
    assert "script" not in own.record.values
    chosen = "method == 'attribution_patching' and target == 'direction' and split == 'tune'"
    first = own.table("heads").query(chosen).sort_values("rank")
    (edit,) = leakmech.load_interventions(result.path / "interventions" / "heads-mean.json")
    places = [(head.layer, head.index) for head in edit.parts]
    ranked = list(first[["layer", "head"]].head(len(places)).itertuples(index=False, name=None))
    assert sorted(places) == sorted(ranked)
    monkeypatch.setattr(diagnosis_run, "STAGES", {})  # nothing is diagnosed again
    more = mitigate(files / "model", **settings | {"families": ("heads-mean", "heads-scaled")})
    assert len(built) == 1
    assert set(more.summary["chosen"]) == {"heads-mean", "heads-scaled"}
    ranks = own.path / "tables" / "heads.csv"
    ranks.write_text(ranks.read_text().replace(",1,", ",2,"))
    with pytest.raises(RunDirectoryError, match="its diagnosis has changed since"):
        mitigate(files / "model", **settings)


@pytest.mark.slow
@pytest.mark.long
def test_a_quick_run_of_any_model_folder_does_everything_on_little_and_says_that_it_is_no_measurement(
    files, tmp_path, monkeypatch
):
    monkeypatch.setattr(diagnosis_run, "write_report", lambda *_: None)
    settings_of, target = own_diagnosis.settings_of, {"target": "direction"}  # all that a tiny model says is neutral
    monkeypatch.setattr(own_diagnosis, "settings_of", lambda *given: settings_of(*given).model_copy(update=target))
    settings = {"quick": True, "fit": str(files / "fit.jsonl"), "dtype": "float32", "estimator": "vader"}
    settings |= {"relevant_fit": (str(files / "relevant-fit.jsonl"),), "decoding": {"max_new_tokens": 8}, "limit": 3}
    settings |= {"families": ("heads-mean", "drop-unrelated-text")}
    result = mitigate(files / "model", out=tmp_path / "run", **settings)
    assert len(result.table("random_draws")) == 3
    stored = result.record.config
    assert (stored["quick"], stored["generations"], stored["limit"]) == (True, 1, 3)
    few = leakmech.load_result(next((result.path / "cells" / "test").glob("base-*")) / "relevant-self")
    assert few.scores["sample"].nunique() == 3
    assert {"retention_self", "valence_shift_relevant-matched"} <= set(result.to_frame().columns)
    assert result.to_markdown().startswith("**No measurement (--quick): Mitigations of")
    assert (result.path / "report.html").read_text().count("No measurement (--quick)") == 2
    assert MitigateConfig.parse({"quick": True, "generations": 4, "limit": None}).limit == 8
    with pytest.raises(ConfigError, match="quick: hexl-frozen are for one last measurement"):
        mitigate("no-such-model", quick=True, dataset="hexl-frozen")


def test_a_run_of_its_own_diagnosis_is_the_default_and_refuses_what_does_not_go_with_it(files, tmp_path):
    assert MitigateConfig.parse({}).diagnosis == "own"
    assert MitigateConfig.parse({"families": ["heads-mean"], "adapters": ["a"]}).diagnosis == "own"
    assert MitigateConfig.parse({"adapters": ["a"]}).diagnosis is None
    assert MitigateConfig.parse({"adapters": ["a"], "diagnosis": "own"}).diagnosis == "own"
    with pytest.raises(ConfigError, match="fit is for a diagnosis that is made here"):
        MitigateConfig.parse({"diagnosis": "runs/diagnosis", "fit": "a.jsonl"})
    with pytest.raises(ConfigError, match="tune is named and fit is not"):
        MitigateConfig.parse({"tune": "a.jsonl"})
    with pytest.raises(DatasetError, match="have injections of hexl"):  # before the model is loaded
        mitigate("no-such-model", fit="hexl", out=tmp_path / "run")
    for frozen in ("hexl-frozen", "self-frozen"):
        with pytest.raises(DatasetError, match="must be judged on other texts"):
            mitigate("no-such-model", fit=frozen, out=tmp_path / "run")
    final = MitigateConfig.parse({"dataset": "hexl-frozen"})
    assert own_diagnosis.settings_of(final, str(files / "fit.jsonl"), None).dataset == "hexl"  # a frozen set is for one


def test_a_diagnosis_without_tune_samples_or_of_another_model_is_refused(files, diagnosis, tmp_path):
    copy = tmp_path / "diagnosis"
    shutil.copytree(diagnosis, copy)
    described = json.loads((copy / "run.json").read_text())
    untuned = {**described, "samples": {**described["samples"], "tune": []}}
    (copy / "run.json").write_text(json.dumps(untuned))
    with pytest.raises(RunDirectoryError, match="no tune split"):
        mitigate(files / "model", diagnosis=copy, out=tmp_path / "out", **QUICK)
    other = {**described, "model": {**described["model"], "base_hash": "0" * 16}}
    (copy / "run.json").write_text(json.dumps(other))
    with pytest.raises(RunDirectoryError, match="diagnoses another model"):
        mitigate(files / "model", diagnosis=copy, out=tmp_path / "out", **QUICK)
    with pytest.raises(RunDirectoryError, match="is not a leakmech run"):
        mitigate(files / "model", diagnosis=tmp_path, out=tmp_path / "out", **QUICK)


def test_a_diagnosis_of_prompts_in_another_form_is_refused_and_says_which(files, diagnosis, tmp_path):
    with pytest.raises(RunDirectoryError) as refused:
        mitigate(files / "model", diagnosis=diagnosis, out=tmp_path / "out", prompt_form="plain", **QUICK)
    assert str(refused.value) == (
        f"{diagnosis}: diagnoses prompts in chat form, here they are in plain form; mitigate with --prompt-form chat, "
        "or diagnose again"
    )


@pytest.mark.long
def test_random_edits_of_the_chosen_size_are_one_row_with_the_band_of_their_draws(files, diagnosis, tmp_path):
    settings = QUICK | {"families": ("heads-mean",), "baselines": True, "random_draws": 3}
    settings |= {"relevant": (str(files / "relevant.jsonl"),), "relevant_fit": (str(files / "relevant-fit.jsonl"),)}
    result = mitigate(files / "model", diagnosis=diagnosis, out=tmp_path / "run", **settings)
    name = result.summary["chosen"]["heads-mean"].replace("heads-mean", "random-heads")
    drawn = result.table("random_draws")
    assert list(drawn["name"]) == [f"{name}-draw-{draw}" for draw in (1, 2, 3)]
    row = result.to_frame().query("split == 'test'").set_index("name").loc[name]
    assert (row["kind"], row["told"], row["n_draws"]) == ("baseline", "nothing", 3)
    low, median, high = np.quantile(drawn["auc_el"], (0.05, 0.5, 0.95))
    assert row[["auc_el_low", "auc_el", "auc_el_high"]].tolist() == pytest.approx([low, median, high])
    assert row[["kl", "fluency", "p_holm"]].isna().all()  # leakage and retention alone
    (chosen,) = leakmech.load_interventions(result.path / "interventions" / "heads-mean.json")
    edits = [leakmech.load_interventions(result.path / "fitted" / f"{one}.json")[0] for one in drawn["name"]]
    layers = Counter(head.layer for head in chosen.parts)
    assert all(Counter(head.layer for head in edit.parts) == layers for edit in edits)
    assert "median of 3 draws" in result.to_markdown()
    assert name in (result.path / "report.html").read_text()
    before = {file: file.stat().st_mtime_ns for file in (result.path / "cells").rglob("cell.json")}
    more = mitigate(files / "model", diagnosis=diagnosis, out=result.path, **settings | {"random_draws": 4})
    assert len(more.table("random_draws")) == 4
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_a_band_is_the_median_and_the_middle_90_percent_of_the_draws():
    shared = {"kind": "baseline", "split": "test", "note": "n", "row": "random"}
    draws = [{"name": str(i), "auc_el": i / 20, "retention": None, **shared} for i in range(21)]
    found = band("random", draws)
    assert [found[key] for key in ("auc_el_low", "auc_el", "auc_el_high")] == pytest.approx([0.05, 0.5, 0.95])
    assert (found["name"], found["n_draws"], found["retention"]) == ("random", 21, None)
    draws[0]["retention"] = 0.4  # a number that one draw has
    assert band("random", draws)["retention"] == 0.4


def test_random_gated_edits_keep_the_gate_the_positions_and_the_size():
    layers, gate = range(2, 6), Probe(vector=torch.eye(8)[0], layer=1, threshold=0.2, position="last_prompt")
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(9, 6, 3, 4, generator=generator) for name in LATE}
    streams = {name: torch.randn(4, 8, generator=generator) for name in LATE}
    parts = FittedParts.__new__(FittedParts)
    vars(parts).update(
        seed=0, layout=SimpleNamespace(n_heads=3, d_mlp=7, d_model=8), loaded=SimpleNamespace(base_hash="m" * 16),
        late_outputs=LateOutputs(values), late_streams=LateStreams(tuple(layers), streams),
    )  # fmt: skip
    kinds = {kind.name: kind for kind in RANDOM}
    heads = [Component(2, "head", 1), Component(4, "head", 0), Component(4, "head", 2)]
    chosen = heads_set_late(parts, heads, condition=gate)[0]
    drawn = [kinds["random-late-heads-if-unrelated"].build(parts, chosen, draw) for draw in range(5)]
    for edits in drawn:
        assert [edit.positions for edit in edits] == list(LATE)
        assert all(edit.condition == gate and edit.method == "mean" for edit in edits)
        assert all(Counter(head.layer for head in edit.parts) == {2: 1, 4: 2} for edit in edits)
        for edit in edits:
            means = torch.stack([values[edit.positions].mean(0)[head.layer, head.index] for head in edit.parts])
            torch.testing.assert_close(edit.values[edit.positions], means)
    assert len({tuple(edits[0].parts) for edits in drawn}) > 1
    turn = turned(parts, (torch.eye(8)[0], torch.eye(8)[1]), 0.5, condition=gate)[0]
    planes = [kinds["random-plane-if-unrelated"].build(parts, turn, draw) for draw in range(2)]
    for edits in planes:
        for edit in edits:
            axes = torch.stack([edit.vectors, edit.second])
            torch.testing.assert_close(axes @ axes.T, torch.eye(2), atol=1e-5, rtol=0)
            assert (list(edit.strength), edit.condition, list(edit.layers)) == ([0.5] * 4, gate, list(layers))
            x, y = (streams[edit.positions] @ axes.T).T
            torch.testing.assert_close(torch.tensor(edit.angle), torch.rad2deg(torch.atan2(y, x)))
    assert not torch.allclose(planes[0][0].vectors, planes[1][0].vectors)


@pytest.mark.parametrize("number", [3, 12])
def test_random_components_are_as_many_in_each_layer_and_others_in_each_draw(number):
    heads = [Component(layer, "head", index) for layer, index in [(0, 1), (2, 3), (2, 0), (1, 2)]]
    heads += [Component(3, "head", index) for index in range(number)]
    parts = FittedParts.__new__(FittedParts)
    vars(parts).update(seed=0, layout=SimpleNamespace(n_heads=12, d_mlp=7))
    drawn = [parts.random_like(heads, draw) for draw in range(4)]
    counts = {0: 1, 1: 1, 2: 2, 3: number}
    for one in drawn:
        assert Counter(head.layer for head in one) == counts
        assert len(set(one)) == len(heads)
    assert len({tuple(one) for one in drawn}) == 4
    assert parts.random_like(heads, 2) == drawn[2]


def test_an_unknown_family_is_refused_before_anything_is_loaded(diagnosis, tmp_path):
    with pytest.raises(ConfigError, match="project-affect"):
        mitigate("no-such-model", diagnosis=diagnosis, out=tmp_path, **{**QUICK, "families": ("project-effect",)})


def test_files_that_are_missing_or_belong_to_another_model_are_refused_before_anything_is_measured(
    files, diagnosis, tmp_path
):
    edit = leakmech.AblateDirection(torch.eye(32)[:1], layers=[1], model_hash="0" * 16)
    leakmech.save_interventions([edit], tmp_path / "edit.json")
    wanted = {"adapters": [str(tmp_path / "nothing")]}, {"interventions": [str(tmp_path / "edit.json")]}
    for settings, error in zip(wanted, (ModelError, InterventionError), strict=True):
        with pytest.raises(error):
            mitigate(files / "model", diagnosis=diagnosis, out=tmp_path / "out", **QUICK, **settings)
    assert not (tmp_path / "out").exists()
