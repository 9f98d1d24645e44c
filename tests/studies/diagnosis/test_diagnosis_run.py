"""A diagnosis from end to end on a tiny model, its files, its continuation and its refusals."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from mechanism_samples import assert_same_tables
from typer.testing import CliRunner

from leakmech import diagnose
from leakmech.cli.app import app
from leakmech.core.errors import ConfigError, DatasetError, DirectionError, ModelError, RunDirectoryError
from leakmech.datasets.samples import PromptSet, load_dataset
from leakmech.mechanism.directions.direction import load_direction

QUICK = {
    "limit": 4, "exact_samples": 2, "circuit_samples": 3, "integrated_steps": 2, "random_rankings": 2,
    "bootstrap_draws": 100, "methods": ("difference_of_means", "pca"), "estimator": "vader",
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


def test_summary_holds_the_numbers_of_the_contract(finished):
    summary = json.loads((finished.path / "summary.json").read_text())
    assert summary["kind"] == "diagnose"
    assert summary["format_version"] == 1
    assert -1 <= summary["attribution_patching_spearman"] <= 1
    for key in ("cpr", "cmd", "cpr_random", "cmd_random", "cpr_magnitude", "cmd_magnitude"):
        assert isinstance(summary[key], float)
    for name in ("read", "target"):
        assert {"auc", "d_z", "accuracy", "random_auc_p95"} <= set(summary["directions"][name])
    assert summary["n_samples"] == {"fit": 8, "tune": 6, "test": 4}


@pytest.mark.parametrize("name", CONTRACT)
def test_component_tables_have_the_columns_of_the_contract(finished, name):
    frame = finished.table(name)
    assert set(CONTRACT[name]) <= set(frame.columns)
    headline = frame[(frame["method"] == "attribution_patching") & (frame["target"] == "direction")]
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
    assert page.count("data:image/png;base64,") >= 10


def test_saved_direction_belongs_to_the_model(finished):
    direction = load_direction(finished.path / "directions" / "target.json")
    assert direction.layer == 2
    assert direction.position == "last_prompt"
    with pytest.raises(DirectionError):
        load_direction(finished.path / "directions" / "target.json", model_hash="another")


def test_finished_stages_are_not_done_again(finished, model, chat_tokenizer, fit_file):
    kept = {file: file.stat().st_mtime_ns for file in (finished.path / "tables").iterdir()}
    (finished.path / "summary.json").unlink()
    again = diagnose(model, tokenizer=chat_tokenizer, out=finished.path, fit=str(fit_file), **QUICK)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    assert {**again.summary, "timing": 0} == {**finished.summary, "timing": 0}


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
