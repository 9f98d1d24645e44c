"""A diagnosis from end to end on a tiny model, its files, its continuation and its refusals."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from mechanism_samples import assert_same_tables
from typer.testing import CliRunner

from leakmech import diagnose
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, DatasetError, DirectionError, ModelError, RunDirectoryError
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.mechanism.directions.direction import load_direction
from leakmech.runs.sealed import read_sealed
from leakmech.studies.diagnosis.report import sections
from leakmech.studies.diagnosis.run import load_splits
from leakmech.studies.diagnosis.settings import QUICK_SPLITS, DiagnoseConfig

QUICK = {
    "limit": 4, "exact_samples": 2, "circuit_samples": 3, "integrated_steps": 2, "random_rankings": 2,
    "bootstrap_draws": 100, "methods": ("difference_of_means", "pca"), "estimator": "vader", "target": "direction",
    "judged_samples": 2, "judged_heads": (2, 5), "judged_neurons": (8,), "random_sets": 9, "sampled_sets": 0,
}  # fmt: skip
CONTRACT = {
    "heads": ["layer", "head", "method", "score", "rank"],
    "neurons": ["layer", "neuron", "method", "score", "rank"],
}


@pytest.fixture(scope="module")
def fit_file(tmp_path_factory):
    """HEXL samples that the quick runs do not report on."""
    path = tmp_path_factory.mktemp("data") / "fit.jsonl"
    PromptSet("fit", load_dataset("hexl").samples[20:34]).save(path)
    return path


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny("llama-gqa")


@pytest.fixture(scope="module")
def finished(model, chat_tokenizer, fit_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return diagnose(model, tokenizer=chat_tokenizer, out=out, fit=str(fit_file), **QUICK)


@pytest.mark.fault("X338", "runs", "first_units of a diagnosis, by the scores on test", "by their rank on tune")
def test_first_units_are_those_that_rank_first_and_not_those_that_score_most_on_test(finished):
    heads = finished.to_frame()
    ranked = heads[(heads["method"] == "attribution_patching") & (heads["split"] == "tune")]
    ranked = ranked[ranked["target"] == finished.summary["target"]].sort_values("rank")
    first = [(unit.layer, unit.index) for unit in finished.first_units("head", 4)]
    assert first == list(zip(ranked["layer"][:4], ranked["head"][:4], strict=True))


def test_summary_holds_the_numbers_of_the_contract(finished):
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary["kind"] == "diagnose"
    assert summary["format_version"] == 1
    assert -1 <= summary["attribution_patching_spearman"] <= 1
    for key in ("cpr", "cmd", "cpr_random", "cmd_random", "cpr_magnitude", "cmd_magnitude"):
        assert summary[key] == summary["circuits"]["heads"][key]
    for own in summary["circuits"].values():
        covers_zero = own["span_ci"][0] <= 0 <= own["span_ci"][1]
        assert ("reason" in own) == covers_zero == (own["cpr"] is None) == (own["kept_top_random_max"] is None)
    for name in ("read", "target"):
        assert {"auc", "d_z", "accuracy", "random_auc_p95"} <= set(summary["directions"][name])
    assert summary["n_samples"] == {"fit": 8, "tune": 6, "test": 4}


@pytest.mark.parametrize("name", CONTRACT)
def test_component_tables_have_the_columns_of_the_contract(finished, name):
    frame = finished.table(name)
    assert set(CONTRACT[name]) <= set(frame.columns)
    frame = frame[(frame["method"] == "attribution_patching") & (frame["target"] == "direction")]
    headline = frame[frame["split"] == "tune"]
    assert list(headline["rank"]) == list(range(1, len(headline) + 1))
    assert headline["score"].abs().is_monotonic_decreasing
    if name == "heads":
        assert len(headline) == 3 * 4


def test_figures_lie_beside_their_data_and_the_report_shows_them(finished):
    for name in (
        "head_heat_map",
        "neuron_ranking",
        "layer_curves",
        "patching_map",
        "token_projection",
        "cosine_heat_map",
    ):
        for suffix in ("png", "pdf", "csv"):
            assert (finished.path / "figures" / f"{name}.{suffix}").stat().st_size > 0
    page = (finished.path / "report.html").read_text()
    told = sum("reason" not in own for own in finished.summary["circuits"].values())
    assert page.count('<svg class="chart') >= 8 + told
    assert "data:image" not in page


def test_saved_direction_belongs_to_the_model(finished):
    direction = load_direction(finished.path / "directions" / "target.json")
    assert direction.layer == 2
    assert direction.position == "last_prompt"
    with pytest.raises(DirectionError):
        load_direction(finished.path / "directions" / "target.json", model_hash="another")


@pytest.mark.long
def test_finished_stages_are_not_done_again(finished, model, chat_tokenizer, fit_file):
    kept = {file: file.stat().st_mtime_ns for file in (finished.path / "tables").iterdir()}
    (finished.path / "summary.json").unlink()
    again = diagnose(model, tokenizer=chat_tokenizer, out=finished.path, fit=str(fit_file), **QUICK)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert {**again.summary, "timing": 0} == {**finished.summary, "timing": 0}


@pytest.mark.long
def test_transformer_lens_gives_the_same_diagnosis_and_says_what_it_read(
    finished, model, chat_tokenizer, fit_file, tmp_path
):
    with pytest.raises(ConfigError, match="backend: unknown 'transformerlens'; did you mean 'transformer-lens'"):
        diagnose(model, tokenizer=chat_tokenizer, fit=str(fit_file), backend="transformerlens", **QUICK)
    again = diagnose(
        model, tokenizer=chat_tokenizer, out=tmp_path / "lens", fit=str(fit_file), backend="transformer-lens", **QUICK
    )
    assert finished.summary["backend"] == "hf"
    assert again.summary["backend"].startswith("transformer-lens for activations, direct attribution")
    for name in ("directions", "cosines", "heads", "neurons"):
        ours, theirs = (run.table(name).drop(columns="chosen", errors="ignore") for run in (finished, again))
        assert_same_tables(theirs, ours)
    with pytest.raises(RunDirectoryError, match="backend is 'hf' there and 'transformer-lens' here"):
        diagnose(
            model,
            tokenizer=chat_tokenizer,
            out=finished.path,
            fit=str(fit_file),
            backend="transformer-lens",
            **QUICK,
        )


def test_another_setting_or_model_does_not_continue_the_run(finished, make_tiny, model, chat_tokenizer, fit_file):
    with pytest.raises(RunDirectoryError, match="seed"):
        diagnose(model, tokenizer=chat_tokenizer, out=finished.path, fit=str(fit_file), seed=5, **QUICK)
    with pytest.raises(RunDirectoryError, match="weights"):
        diagnose(
            make_tiny("llama-gqa", seed=9), tokenizer=chat_tokenizer, out=finished.path, fit=str(fit_file), **QUICK
        )


def test_fitting_on_what_is_reported_is_refused(model, chat_tokenizer, tmp_path):
    with pytest.raises(DatasetError, match="judged on other texts"):
        diagnose(model, tokenizer=chat_tokenizer, out=tmp_path / "run", fit="hexl", **QUICK)
    assert not (tmp_path / "run").exists()


def test_bad_settings_are_named(model, chat_tokenizer, fit_file, tmp_path):
    options = {"tokenizer": chat_tokenizer, "out": tmp_path / "run", "fit": str(fit_file), **QUICK}
    with pytest.raises(ConfigError, match="exact_samples"):
        diagnose(model, **{**options, "exact_sample": 3})
    with pytest.raises(ModelError, match="layer 7: this model has 3 layers"):
        diagnose(model, **options, target_layer=7)


def test_command_shows_errors_in_one_line(tmp_path):
    result = CliRunner().invoke(app, ["diagnose", "--out", str(tmp_path / "x")], standalone_mode=False)
    assert isinstance(result.exception, ConfigError)
    assert "fit" in str(result.exception)


def test_attribute_and_directions_write_tables(save_tiny, fit_file, tmp_path):
    folder = save_tiny("llama-gqa")
    test_file = tmp_path / "test.jsonl"
    load_dataset("hexl").take(4).save(test_file)
    common = ["--model", str(folder), "--dataset", str(test_file), "--dtype", "float32", "--device", "cpu"]
    fitted = CliRunner().invoke(
        app,
        [
            "directions",
            "--fit",
            str(fit_file),
            "--out",
            str(tmp_path / "d"),
            "--methods",
            "difference_of_means",
            *common,
        ],
        standalone_mode=False,
    )
    assert fitted.exception is None
    saved = tmp_path / "d" / "directions" / "read.json"
    ranked = CliRunner().invoke(
        app,
        ["attribute", "--direction", str(saved), "--limit", "3", "--out", str(tmp_path / "a"), *common],
        standalone_mode=False,
    )
    assert ranked.exception is None
    heads = pd.read_csv(tmp_path / "a" / "tables" / "heads.csv")
    assert set(CONTRACT["heads"]) <= set(heads.columns)
    assert len(heads) == 12


# -- tilt --------------------------------------------------------------------------------------------------------------


def letters(texts):
    """A text is gladder the more letters of its first half of the alphabet it has."""
    share = np.array([np.mean([c.lower() < "n" for c in text if c.isalpha()] or [0.5]) for text in texts])
    return np.stack([1 - share, np.zeros(len(texts)), share], axis=1)


@pytest.fixture(scope="module")
def tilted(model, chat_tokenizer, fit_file, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("leakmech.studies.diagnosis.workbench.load_estimator", lambda name: letters)
        return diagnose(
            model,
            tokenizer=chat_tokenizer,
            out=tmp_path_factory.mktemp("runs") / "tilted",
            fit=str(fit_file),
            **{
                **QUICK,
                "prompt_form": "plain",
                "tilt_samples": 4,
                "tilt_completions": 6,
                "target": "tilt",
                "sampled_sets": 2,
                "sampled_samples": 2,
                "sampled_generations": 1,
            },
        )


def test_rows_say_on_how_many_samples_of_which_split_they_were_computed(tilted):
    assert tilted.summary["target"] == "tilt"
    n = tilted.summary["n_ranked"]["test"]
    for name in ("heads", "neurons", "sublayers"):
        frame = tilted.table(name)
        judged = frame[frame["split"] == "test"]
        assert set(judged["target"]) == {"tilt"}
        assert set(judged["n"]) == {n}
        assert len(judged) > 0
    for name in ("patching_heads", "patching_sublayers", "patching_stream", "attention", "knockout", "faithfulness"):
        frame = tilted.table(name)
        assert set(frame["split"]) == {"test"}
        assert frame["n"].between(1, 4).all()
    assert set(tilted.table("patching_stream")["position"]) == {"injection", "stem", "last", "ending"}
    assert set(tilted.table("knockout")["target"]) == {"tilt"}


def test_test_rows_have_the_rank_of_tune_and_the_score_of_test(tilted):
    frame = tilted.table("heads")
    frame = frame[(frame["method"] == "attribution_patching") & (frame["target"] == "tilt")]
    tune, test = (frame[frame["split"] == split].set_index(["layer", "head"]) for split in ("tune", "test"))
    assert (tune["rank"] == test["rank"].reindex(tune.index)).all()
    assert not np.allclose(tune["score"], test["score"].reindex(tune.index))
    assert tune["score"].abs().is_monotonic_decreasing


def test_verdict_names_sets_samples_and_random_sets(tilted):
    found = tilted.summary["verdict"]
    assert [row["set"] for row in found["rows"]][:3] == ["first 2 heads", "first 5 heads", "first 8 neurons"]
    assert found["rows"][3]["set"].startswith("direction after layer")
    for row in found["rows"]:
        assert (row["split"], row["random_sets"]) == ("test", 9)
        assert row["p"] in {round(k / 10, 10) for k in range(1, 11)}
        assert row["random_mean"] <= row["random_max"]
    assert len(tilted.table("verdict_random")) == 4 * 9
    page = (tilted.path / "report.html").read_text()
    assert "random sets with as many components per layer" in page
    assert "Do the first components account for more than random ones?" in tilted.to_markdown()


def test_sampled_answers_under_mean_ablation_are_a_verdict_of_their_own(tilted):
    rows = tilted.table("sampled")
    assert list(rows["set"]) == ["base", "first 5 heads", "random 0", "random 1"]
    found = tilted.summary["sampled"]
    assert found["set"] == "first 5 heads"
    assert rows["no_topic"].isna().all()
    assert rows["topic_free_valence_shift"].notna().all()
    assert found["p"] in (1 / 3, 2 / 3, 1) if "p" in found else "not above 0" in found["reason"]
    assert (tilted.path / "sampled" / "set-2" / "summary.json").exists()


def test_completions_follow_control_prompts_and_are_kept(tilted):
    stored = read_sealed(tilted.path / "stages" / "tilt-test.json")
    assert len(stored) == 4
    for own in stored.values():
        assert 0 < len(own) <= 6
        assert [letters([c["text"]])[0, 2] >= 0 for c in own]


def test_a_run_goes_on_with_its_own_target_whatever_the_default_is(finished, model, chat_tokenizer, fit_file):
    settings = {name: value for name, value in QUICK.items() if name != "target"}
    again = diagnose(model, tokenizer=chat_tokenizer, out=finished.path, fit=str(fit_file), **settings)
    assert again.summary["target"] == "direction"
    assert DiagnoseConfig.model_fields["target"].default == "tilt"


def test_the_estimate_is_said_before_the_work_starts(model, chat_tokenizer, fit_file, tmp_path):
    class StopError(Exception):
        pass

    def say(line):
        said.append(line)
        raise StopError

    said = []
    with pytest.raises(StopError):
        diagnose(model, tokenizer=chat_tokenizer, out=tmp_path / "run", fit=str(fit_file), say=say, **QUICK)
    assert said[0].startswith("about 0 minutes here (directions 0.")
    assert not (tmp_path / "run" / "stages").exists()


def test_quick_takes_little_of_everything_and_says_so(fit_file):
    config = DiagnoseConfig.parse({"fit": str(fit_file), "random_sets": 99, "quick": True})
    assert (config.random_sets, config.methods) == (3, ("difference_of_means",))
    assert all(len(samples) <= QUICK_SPLITS[name] for name, samples in load_splits(config).items())
    assert "quick" not in DiagnoseConfig.parse({"fit": str(fit_file)}).identity()
    page = sections(fit_file.parent, {"model": "tiny", "dataset": "hexl", "target": "tilt", "quick": True})
    assert any("no measurement" in getattr(section, "text", "") for section in page)
