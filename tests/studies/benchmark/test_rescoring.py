"""Texts from elsewhere, and runs scored again: the numbers of a benchmark run, and its files."""

import json
import shutil

import pytest
from typer.testing import CliRunner

import leakmech
from leakmech.cli import app as cli
from leakmech.core.errors import DatasetError, EstimatorError, InterruptedRunError, RunDirectoryError
from leakmech.core.store import read_jsonl_shard, write_jsonl
from leakmech.studies.benchmark.report import write_report

SETTINGS = {
    "dtype": "float32",
    "limit": 3,
    "generations": 3,
    "decoding": {"max_new_tokens": 12},
    "estimator": "vader",
    "bootstrap_draws": 100,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, make_tiny, chat_tokenizer):
    """A finished run of a tiny model."""
    folder = tmp_path_factory.mktemp("rescoring")
    return leakmech.bench(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, out=folder / "run", **SETTINGS)


def test_a_run_scored_again_has_the_numbers_it_had(finished, tmp_path):
    again = leakmech.score(finished.path, out=tmp_path / "again")
    for section in ("overall", "conditions", "by_cleaning", "model", "dataset", "n_samples", "n_prompts"):
        assert again.summary[section] == finished.summary[section]
    assert again.scores.drop(columns=["n_tokens", "finish_reason"]).equals(
        finished.scores.drop(columns=["n_tokens", "finish_reason"])
    )


def test_a_file_of_texts_has_the_numbers_of_the_run_that_it_comes_from(finished, tmp_path):
    file = tmp_path / "api-model.jsonl"
    with file.open("w") as out:
        for row in (finished.path / "generations" / "shard-000.jsonl").read_text().splitlines():
            record = json.loads(row)
            out.write(json.dumps({key: record[key] for key in ("sample", "condition", "generation", "text")}) + "\n")
    settings = {"limit": 3, "estimator": "vader", "bootstrap_draws": 100}
    found = leakmech.score(file, out=tmp_path / "run", **settings)
    assert found.summary["overall"] == finished.summary["overall"]
    assert found.summary["model"] == "api-model"
    run = leakmech.load_result(tmp_path / "run")
    assert "api-model" in run.to_markdown()
    page = write_report(run.path).read_text()
    assert "generated elsewhere, read from" in page
    assert f"leakmech score {file}" in page
    again = leakmech.score(file, out=tmp_path / "run", **settings)
    assert again.summary == found.summary


def test_several_estimators_stand_beside_each_other_and_the_first_is_the_headline(finished, tmp_path):
    both = leakmech.score(finished.path, out=tmp_path / "both", estimator="vader,embedded", bootstrap_draws=100)
    other = leakmech.score(finished.path, out=tmp_path / "other", estimator="embedded", bootstrap_draws=100)
    assert both.summary["overall"] == finished.summary["overall"]
    assert both.summary["estimators"] == ["vader", "embedded"]
    assert both.summary["by_estimator"]["embedded"]["overall"]["auc_el"] == pytest.approx(
        other.summary["overall"]["auc_el"], abs=1e-6
    )
    (agreement,) = both.summary["estimator_agreement"]
    assert (agreement["first"], agreement["second"]) == ("vader", "embedded")
    assert 0 < agreement["el_agreement"] < 1
    assert "embedded/echo_free_positive" in both.scores
    assert "under each expression estimator" in both.to_markdown()
    assert "under each expression estimator" in write_report(both.path).read_text()
    assert "under each expression estimator" not in other.to_markdown()


def test_missing_generations_are_not_scored_under_any_policy(finished, tmp_path):
    rows = [json.loads(line) for line in (finished.path / "generations" / "shard-000.jsonl").read_text().splitlines()]
    file = tmp_path / "short.jsonl"
    gone = (rows[0]["sample"], rows[0]["condition"], rows[0]["generation"])
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    with pytest.raises(DatasetError, match="1 generations are missing"):
        leakmech.score(file, out=tmp_path / "run", limit=3, estimator="vader")
    assert not (tmp_path / "run").exists()
    found = leakmech.score(
        file, out=tmp_path / "run", limit=3, estimator="vader", allow_missing=True, bootstrap_draws=100
    )
    frame = found.scores.set_index(["sample", "condition", "generation"])
    columns = ["raw_positive", "paper_positive", "echo_free_positive", "raw_similarity_neutral"]
    assert frame.loc[gone, columns].isna().all()
    assert found.summary["n_missing"] == 1
    rates = found.summary["by_cleaning"]["echo-free"]["empty_rates"]
    there = finished.summary["by_cleaning"]["echo-free"]["empty_rates"]
    assert rates["control"] <= there["control"] * 9 / 8  # of the eight that are there, not of nine
    # Scored once more, the gap stays a gap.
    again = leakmech.score(found.path, out=tmp_path / "again")
    assert again.summary["overall"] == found.summary["overall"]


@pytest.mark.fault("X333", "rows", "generations that a file lacks counted as empty answers", "left out of the rates")
def test_generations_that_are_missing_are_no_empty_answers(tmp_path):
    rows = [
        {"sample": sample, "condition": condition, "generation": number, "text": text}
        for sample in ("hexl-001", "hexl-002")
        for condition in ("control", "positive", "neutral", "negative")
        for number, text in enumerate(["The day was long.", ""])
    ]
    kept = [row for row in rows if row["generation"] == 0 or row["condition"] != "negative"]
    write_jsonl(tmp_path / "texts.jsonl", kept)
    found = leakmech.score(
        tmp_path / "texts.jsonl", out=tmp_path / "run", limit=2, estimator="vader", allow_missing=True,
        bootstrap_draws=100,
    )  # fmt: skip
    rates = found.summary["by_cleaning"]["echo-free"]["empty_rates"]
    assert (rates["positive"], rates["negative"]) == (0.5, 0.0)


@pytest.mark.fault("X334", "runs", "a run with reasoning markers of its own scored again", "by the same markers")
def test_a_run_scored_again_has_its_reasoning_markers(tmp_path, make_tiny, chat_tokenizer):
    markers = "<<plan>>…<</plan>>"
    settings = SETTINGS | {"limit": 2, "generations": 1}
    settings |= {"decoding": {"max_new_tokens": 6, "reasoning_tokens": 4, "reasoning_markers": markers}}
    run = leakmech.bench(make_tiny("llama-gqa"), tokenizer=chat_tokenizer, out=tmp_path / "run", **settings)
    shard = run.path / "generations" / "shard-000.jsonl"
    text = "<<plan>>I must be sad and awful.<</plan>> Her passion is gardening."
    write_jsonl(shard, [row | {"text": text} for row in read_jsonl_shard(shard)], checksums=True)
    again = leakmech.score(run.path, out=tmp_path / "again")
    assert set(again.scores["echo_free_text"]) == {"Her passion is gardening."}


def test_an_interrupted_scoring_can_be_started_again(finished, tmp_path, monkeypatch):
    from leakmech.scoring.records import Scorer

    expected = leakmech.score(finished.path, out=tmp_path / "a")
    with monkeypatch.context() as patch:
        patch.setattr(Scorer, "_score_rows", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(InterruptedRunError, match=r"no score is saved yet; continue with: leakmech score --out"):
            leakmech.score(finished.path, out=tmp_path / "b")
    with pytest.raises(RunDirectoryError, match="is not finished; continue it with: leakmech score"):
        leakmech.load_result(tmp_path / "b")
    found = leakmech.score(finished.path, out=tmp_path / "b")
    assert found.summary["overall"] == expected.summary["overall"]


def test_runs_are_not_mixed(finished, tmp_path):
    leakmech.score(finished.path, out=tmp_path / "a")
    with pytest.raises(RunDirectoryError, match="is the run that is read"):
        leakmech.score(finished.path, out=finished.path)
    with pytest.raises(RunDirectoryError, match="holds a run of `leakmech score`"):
        leakmech.bench(out=tmp_path / "a")
    with pytest.raises(RunDirectoryError, match="holds a run with other settings"):
        leakmech.score(finished.path, out=tmp_path / "a", cleaning="raw")
    copy = shutil.copytree(finished.path, tmp_path / "copy")
    shard = copy / "generations" / "shard-000.jsonl"
    rows = list(read_jsonl_shard(shard))
    write_jsonl(shard, (row | {"text": row["text"] + " More."} for row in rows), checksums=True)
    with pytest.raises(RunDirectoryError, match="holds a run with other generations"):
        leakmech.score(copy, out=tmp_path / "a")
    with pytest.raises(DatasetError, match="is about another data set"):
        leakmech.score(finished.path, out=tmp_path / "c", limit=2)
    with pytest.raises(EstimatorError, match="is given twice"):
        leakmech.score(finished.path, out=tmp_path / "c", estimator="vader,vader")


def test_the_command_prints_the_tables_and_writes_the_report(finished, tmp_path):
    out = tmp_path / "scored"
    done = CliRunner().invoke(cli.app, ["score", str(finished.path), "--cleaning", "raw", "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "raw (headline)" in done.output
    assert (out / "report.html").exists()
    continued = CliRunner().invoke(cli.app, ["score", "--out", str(out), "--no-report"])
    assert continued.exit_code == 0, continued.output
    assert "raw (headline)" in continued.output
    assert "name a file of generations" in str(CliRunner().invoke(cli.app, ["score"]).exception)
    again = CliRunner().invoke(cli.app, ["bench", "--out", str(out)])
    assert "has no model to continue with" in str(again.exception)
