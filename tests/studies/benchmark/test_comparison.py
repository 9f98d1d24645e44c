"""Comparison of finished runs: written here as a run leaves them, with scores whose truth is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from scored_runs import write_run
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.scoring.inference import holm
from leakmech.scoring.leakage import leakage_statistics
from leakmech.scoring.records import leakage_scores, topic_ranks
from leakmech.scoring.topic import on_injection, topic_statistics


@pytest.fixture
def make_run(tmp_path):
    """``make_run("a", leakage=0.5, seed=0, n=40, k=5)``: the folder of a finished run; more settings are recorded."""

    def make(name, **settings):
        return write_run(tmp_path / name, **settings)

    return make


def test_a_run_that_leaks_less_is_found_different(make_run):
    found = leakmech.compare([make_run("base"), make_run("less", leakage=0.2, seed=1)], draws=2000)
    [difference] = found.of("auc_el")
    assert (difference.run, difference.baseline, difference.verdict) == ("less", "base", "different")
    assert difference.low < difference.difference < difference.high < 0
    assert difference.p <= difference.p_holm < 0.01
    assert difference.difference == pytest.approx(found.estimate("less").value - found.estimate("base").value)
    assert all(d.difference < 0 and d.high < 0 for d in found.differences)


def test_values_and_intervals_of_a_run_are_those_of_its_summary(make_run):
    run = make_run("base")
    found = leakmech.compare([run, make_run("other", seed=1)], seed=7, draws=1000)
    scores = leakage_scores(pd.read_parquet(run / "scores.parquet"), "echo-free")
    overall = leakage_statistics(scores, seed=7, draws=1000)["overall"]
    for statistic in ("auc_el", "mu_el", "valence_shift"):
        estimate = found.estimate("base", statistic)
        assert estimate.value == pytest.approx(overall[statistic])
        assert [estimate.low, estimate.high] == pytest.approx(overall[f"{statistic}_ci"])


def test_a_repetition_under_another_seed_is_no_difference_and_equivalent_within_a_margin(make_run):
    found = leakmech.compare([make_run("base"), make_run("again", seed=1)], margin=0.08, draws=2000)
    [difference] = found.of()
    assert difference.low < 0 < difference.high
    assert difference.p > 0.05
    assert difference.p_equivalence < 0.05
    assert difference.verdict == "equivalent"
    [narrow] = leakmech.compare([make_run("base"), make_run("again", seed=1)], margin=0.001, draws=500).of()
    assert narrow.verdict == "undecided"


def test_a_small_difference_can_be_one_within_the_margin(make_run):
    runs = [make_run("base", n=150, k=10), make_run("less", leakage=0.42, n=150, k=10)]
    [difference] = leakmech.compare(runs, margin=0.05, draws=1000).of()
    assert difference.verdict == "different within the margin"


def test_coupled_runs_have_a_narrower_interval_of_the_difference(make_run):
    base, coupled, other = make_run("base"), make_run("a", leakage=0.4), make_run("b", leakage=0.4, seed=1)
    found = leakmech.compare([base, coupled, other], draws=1000)
    narrow, wide = (d.high - d.low for d in found.of())
    assert narrow < 0.5 * wide
    assert any("Seeds differ (base 0, a 0, b 1)" in note for note in found.notes)


def test_few_samples_are_tested_exactly(make_run):
    [difference] = leakmech.compare([make_run("base", n=6), make_run("more", leakage=3.0, n=6)]).of()
    assert difference.p == 2 / 2**6  # only all and none of the swaps are as extreme


def test_the_baseline_is_named_by_position_name_or_directory(make_run):
    runs = [make_run("a", leakage=0.2), make_run("b", seed=1), make_run("c", seed=2)]
    by_position, by_name, by_path = (
        leakmech.compare(runs, baseline=baseline, draws=100).differences for baseline in (1, "b", str(runs[1]) + "/")
    )
    assert by_position == by_name == by_path
    assert [(d.run, d.baseline) for d in by_position[:2]] == [("a", "b"), ("c", "b")]


def test_all_pairs_are_one_family(make_run):
    runs = [make_run("a"), make_run("b", leakage=0.3), make_run("c", seed=2)]
    found = leakmech.compare(runs, all_pairs=True, draws=500)
    assert [(d.run, d.baseline) for d in found.of()] == [("b", "a"), ("c", "a"), ("c", "b")]
    frame = found.to_frame()
    for _, group in frame.groupby("statistic"):
        np.testing.assert_allclose(group["p_holm"], holm(group["p"].to_numpy()))
    rows = [row[0] for row in found.to_table().rows]
    assert rows == ["a", "b", "c", "b - a", "c - a", "c - b"]


def test_runs_of_one_name_go_by_their_paths(make_run):
    runs = [make_run("x/run"), make_run("y/run", seed=1)]
    assert leakmech.compare(runs, draws=100).runs == tuple(map(str, runs))


def test_other_numbers_of_generations_are_compared_and_said(make_run):
    found = leakmech.compare([make_run("a", k=3), make_run("b", k=8)], draws=100)
    assert any("Generations per prompt differ (a 3, b 8)" in note for note in found.notes)


def test_texts_from_elsewhere_have_no_seed_to_differ(make_run):
    found = leakmech.compare([make_run("a"), make_run("b", seed=1, command="score")], draws=200)
    assert found.notes == ("Texts from elsewhere (b): whether they are coupled to others is not known.",)


def test_a_cleaning_policy_can_be_asked_for(make_run):
    runs = [make_run("a"), make_run("b", seed=1, cleaning="raw")]
    with pytest.raises(RunDirectoryError, match=r"cleaned by 'echo-free' and .*b by 'raw'; choose one .* --cleaning"):
        leakmech.compare(runs)
    found = leakmech.compare(runs, cleaning="raw", draws=100)
    assert found.cleaning == "raw"
    default = leakmech.compare([runs[0], make_run("c", seed=1)], draws=100)
    shifts = [c.estimate("a", "valence_shift").value for c in (found, default)]
    assert shifts[0] == pytest.approx(shifts[1] / 2)


def test_runs_over_different_data_sets_are_refused_by_name(make_run):
    runs = [make_run("a"), make_run("b", n=20, dataset="hexl", dataset_hash="d2")]
    with pytest.raises(
        RunDirectoryError,
        match=r"a and .*b are runs over different data sets \(hexl, 40 samples, hash d1 and hexl, 20 samples, hash "
        r"d2\); run bench on the same --dataset with the same --limit",
    ):
        leakmech.compare(runs)


def test_different_estimators_are_refused_unless_asked_for(make_run):
    runs = [make_run("a"), make_run("b", seed=1, estimator="vader", estimator_hash="e2")]
    with pytest.raises(RunDirectoryError, match=r"different estimators \(embedded, hash e1 and vader, hash e2\)"):
        leakmech.compare(runs)
    found = leakmech.compare(runs, any_estimator=True, draws=100)
    assert any("on different scales" in note for note in found.notes)


@pytest.mark.fault("X331", "runs", "runs with other thresholds of echoes compared", "refused")
def test_runs_that_score_other_sentences_are_refused(make_run):
    runs = [make_run("a"), make_run("b", echo_similarity=1.0)]
    with pytest.raises(RunDirectoryError, match=r"thresholds of echoes \(0\.8 and 1\); score both with one --echo"):
        leakmech.compare(runs)


def test_what_is_topic_free_by_another_encoder_is_refused_and_other_statistics_are_not(make_run):
    runs = [make_run("a"), make_run("b", seed=1, encoder_hash="n2")]
    assert leakmech.compare(runs, draws=100).of()
    with pytest.raises(RunDirectoryError, match=r"sentence encoders, which tell the topic \(hash n1 and hash n2\)"):
        leakmech.compare(runs, statistic="topic_free", draws=100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": ["a"]}, "at least two runs are needed, found 1"),
        ({"runs": "a"}, "at least two runs are needed"),
        ({"runs": ["a", "b", "a/../a"]}, "is given twice"),
        ({"baseline": "bb"}, "none of the runs; did you mean 'b'"),
        ({"baseline": 2}, "not a position among 2 runs"),
        ({"baseline": 0, "all_pairs": True}, "no common baseline"),
        ({"cleaning": "clean"}, "cleaning: unknown 'clean'"),
        ({"margin": 0.0}, "margin must be greater than 0, found 0.0"),
        ({"margin": math.nan}, "margin must be a finite number"),
        ({"statistic": "contrst"}, "statistic: unknown 'contrst'.*did you mean 'contrast'"),
        ({"alpha": 1.0}, "alpha must be less than 1, found 1.0"),
        ({"runs": ["a", "nowhere"]}, "is not a leakmech run"),
        ({"runs": ["a", "unfinished"]}, "is not finished"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_in_one_line(make_run, tmp_path, monkeypatch, change, message):
    make_run("a"), make_run("b", seed=1)
    (make_run("unfinished") / "summary.json").unlink()
    monkeypatch.chdir(tmp_path)
    arguments = {"runs": ["a", "b"]} | change
    with pytest.raises(UsageError, match=message) as error:
        leakmech.compare(arguments.pop("runs"), **arguments)
    assert "\n" not in str(error.value)


def test_other_samples_under_one_hash_are_refused(make_run):
    with pytest.raises(RunDirectoryError, match="hold different samples though their data set is one"):
        leakmech.compare([make_run("a"), make_run("b", samples="t")])


@pytest.mark.parametrize("statistic", ["contrast", "topic_free", "topic_free_contrast", "mu_el"])
def test_a_comparison_can_be_about_another_statistic(make_run, tmp_path, statistic):
    runs = [make_run("a"), make_run("b", leakage=0.1, seed=1), make_run("c", seed=2)]
    found = leakmech.compare(runs, statistic=statistic, margin=0.05, draws=500)
    assert found.statistic == statistic
    assert [d.verdict is None for d in found.differences] == [d.statistic != statistic for d in found.differences]
    tested = found.of()
    assert [d.p_holm for d in tested] == pytest.approx(list(holm([d.p for d in tested])))
    assert tested[0].verdict == "different"
    assert all(d.p_equivalence is not None for d in tested)
    usual = leakmech.compare(runs, draws=500)
    for name in ("auc_el", "mu_el", "valence_shift"):  # what else is told does not change
        assert [d.difference for d in found.of(name)] == pytest.approx([d.difference for d in usual.of(name)])
    table = found.to_table()
    assert statistic in table.notes[0]
    assert f"tests that {statistic} differs by less than 0.05" in table.notes[1]
    assert table.rows[1][2].startswith(f"{tested[0].difference:+.3f}")
    assert {len(row) for row in table.rows} == {len(table.header)}
    out = found.save(tmp_path / "out")
    assert leakmech.load_result(out).statistic == statistic
    assert f"Differences in {statistic} with" in (out / "report.html").read_text(encoding="utf-8")


def test_topic_free_statistics_leave_out_each_runs_own_answers_about_the_injection(make_run):
    runs = [make_run("a"), make_run("b", leakage=0.1, seed=1)]
    found = leakmech.compare(runs, statistic="topic_free", draws=200)
    for run in runs:
        frame = pd.read_parquet(run / "scores.parquet")
        flags = on_injection(topic_ranks(frame, "echo-free"))
        told = topic_statistics(leakage_scores(frame, "echo-free"), flags, seed=0, draws=200)["topic_free"]
        estimate = found.estimate(run.name)
        assert estimate.value == pytest.approx(told["auc_el"])
        assert [estimate.low, estimate.high] == pytest.approx(told["auc_el_ci"])
        assert estimate.value != found.estimate(run.name, "auc_el").value


@pytest.mark.fault("X531", "runs", "compare --out names other files, a run or another comparison", "refused")
def test_a_comparison_writes_over_nothing_but_itself(make_run, tmp_path):
    runs = [make_run("a"), make_run("b", leakage=0.1, seed=1), make_run("c", seed=2)]
    found = leakmech.compare(runs[:2], draws=200)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for folder in (tmp_path / "mine", runs[0]):
        before = sorted(file.name for file in folder.iterdir())
        with pytest.raises(UsageError, match="is not empty and holds no comparison; choose another --out"):
            found.save(folder)
        assert sorted(file.name for file in folder.iterdir()) == before
    out = found.save(tmp_path / "out")
    leakmech.compare(runs[:2], margin=0.05, draws=200).save(out)
    with pytest.raises(UsageError, match="holds a comparison of other runs"):
        leakmech.compare(runs, draws=200).save(out)


def test_it_is_saved_as_json_table_and_figure(make_run, tmp_path):
    found = leakmech.compare([make_run("a"), make_run("b", leakage=0.1, seed=1)], margin=0.05, draws=200)
    out = found.save(tmp_path / "out")
    stored = json.loads((out / "comparison.json").read_text())
    assert stored["kind"] == "compare"
    assert stored["format_version"] == 1
    assert stored["differences"][0]["difference"] == found.of()[0].difference
    table = pd.read_csv(out / "tables" / "comparison.csv")
    assert list(table["statistic"]) == ["auc_el", "mu_el", "valence_shift"]
    assert table.loc[0, "baseline_value"] == pytest.approx(found.estimate("a").value)
    assert (out / "forest.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "forest.pdf").read_bytes().startswith(b"%PDF")


def test_the_table_has_a_row_for_each_run_and_p_values_of_equivalence_only_where_asked_for(make_run):
    runs = [make_run("a"), make_run("b", leakage=0.1, seed=1)]
    plain = leakmech.compare(runs, draws=200).to_table()
    assert "p equiv." not in plain.header
    assert [row[0] for row in plain.rows] == ["a", "b"]
    assert plain.rows[0][2] == "baseline"
    assert plain.rows[1][5] == "different"
    asked = leakmech.compare(runs, margin=0.05, draws=200).to_table()
    assert asked.header[5] == "p equiv."
    assert {len(row) for row in asked.rows} == {len(asked.header)}


def test_real_runs_of_one_model_under_two_seeds_are_compared_by_the_command(tmp_path, make_tiny, chat_tokenizer):
    settings = {
        "tokenizer": chat_tokenizer,
        "limit": 6,
        "generations": 3,
        "estimator": "vader",
        "bootstrap_draws": 200,
        "decoding": {"max_new_tokens": 4},
        "device": "cpu",
        "noise_floor": False,
    }
    runs = [leakmech.bench(make_tiny("llama-gqa"), out=tmp_path / str(s), seed=s, **settings).path for s in range(2)]
    shown = CliRunner().invoke(
        app, ["compare", *map(str, runs), "--margin", "0.1", "--baseline", str(runs[1]), "--out", str(tmp_path / "out")]
    )
    assert shown.exit_code == 0, shown.output
    assert "2 runs over the same 6 samples" in shown.output
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert stored["runs"] == ["0", "1"]
    assert stored["differences"][0]["baseline"] == "1"
    one = leakmech.bench(make_tiny("llama-gqa"), out=tmp_path / "less", seed=0, **settings | {"limit": 5}).path
    refused = CliRunner().invoke(app, ["compare", str(runs[0]), str(one)])
    assert isinstance(refused.exception, RunDirectoryError)
    assert "run bench on the same --dataset with the same --limit" in str(refused.exception)
