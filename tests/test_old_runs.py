"""Runs made at commit 6a4b13b (`fixtures/make_runs.py`) still open, are shown, and are continued as what they are."""

from __future__ import annotations

import html
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from fixtures import make_runs
from fixtures.results import TOLERANCE, differences
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import RunDirectoryError
from leakmech.core.store import read_jsonl_shard

RUNS = Path(__file__).parent / "fixtures" / "runs"
BENCHES = ("bench", "bench-edited", "bench-rewritten", "score-file", "score-run")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A copy of the old runs, and the working directory in it: their paths are relative."""
    shutil.copytree(RUNS, tmp_path / "runs")
    monkeypatch.chdir(tmp_path / "runs")
    monkeypatch.setenv("LEAKMECH_CACHE", str(tmp_path / "cache"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the runs were made
    yield tmp_path / "runs"
    torch.set_num_threads(threads)


@pytest.fixture
def idle_model(monkeypatch):
    """The tiny model raises when it is run."""

    def refuse(*_, **__):
        raise AssertionError("the model was run again")

    monkeypatch.setattr(LlamaForCausalLM, "forward", refuse)


def stored(path: str) -> dict:
    return json.loads((RUNS / path).read_text(encoding="utf-8"))


def state(folder: str) -> dict[str, tuple[bytes, int]]:
    """Content and time of all files of a run but hidden ones and pages."""
    return {
        str(file): (file.read_bytes(), file.stat().st_mtime_ns)
        for file in Path(folder).rglob("*")
        if file.is_file() and not file.name.startswith(".") and file.name != "report.html"
    }


def assert_same(found: object, expected: object) -> None:
    """JSON-ready values with floats to 1e-4."""
    assert list(differences(json.loads(json.dumps(found)), expected, tolerance=TOLERANCE)) == []


def command(*arguments: str) -> str:
    found = CliRunner().invoke(app, list(arguments), standalone_mode=False)
    if found.exception is not None:
        raise found.exception
    return found.output


def test_the_runs_hold_nothing_of_the_machine_they_were_made_on():
    for file in RUNS.rglob("*"):
        if file.suffix in (".json", ".jsonl", ".csv", ".md", ".txt", ".html"):
            text = file.read_text(encoding="utf-8")
            assert not any(part in text for part in ("/tmp/", "/home/", "/root/", "/work/", "site-packages")), file


# -- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BENCHES)
def test_a_benchmark_opens_with_its_numbers_and_texts(runs, name):
    result = leakmech.load_result(name)
    assert result.summary == stored(f"{name}/summary.json")
    pd.testing.assert_frame_equal(result.scores, pd.read_parquet(RUNS / name / "scores.parquet"))
    assert f"{result.summary['overall']['auc_el']:.2f}" in result.to_markdown()


@pytest.mark.parametrize("name", BENCHES)
def test_commands_show_and_report_a_benchmark(runs, name):
    before = state(name)
    assert f"{stored(f'{name}/summary.json')['overall']['auc_el']:.2f}" in command("show", name)
    assert "hexl-002" in command("samples", name, "--sample", "hexl-002")
    command("report", name)
    page = (runs / name / "report.html").read_text(encoding="utf-8")
    assert f"{stored(f'{name}/summary.json')['overall']['auc_el']:.2f}" in page
    assert state(name) == before


@pytest.mark.parametrize(
    ("name", "kind", "table"),
    [
        ("bench", "BenchResult", None),
        ("score-run", "BenchResult", None),
        ("diagnose", "Diagnosis", "heads"),
        ("mitigate", "MitigationComparison", "mitigations"),
        ("evaluate", "MitigationComparison", "mitigations"),
        ("train", "LoraResult", None),
        ("comparison", "Comparison", "comparison"),
        ("annotation", "AnnotationResult", "pairs"),
    ],
)
def test_a_result_of_every_kind_opens_and_is_printed(runs, name, kind, table):
    result = leakmech.load_result(name)
    assert type(result).__name__ == kind
    assert result.path == Path(name)
    first = result.tables()[0]
    assert result.to_markdown().startswith(f"**{first.title}**")
    assert f"<caption>{html.escape(first.title)}</caption>" in result._repr_html_()
    if table is not None:
        pd.testing.assert_frame_equal(result.table(table), pd.read_csv(RUNS / name / "tables" / f"{table}.csv"))


@pytest.mark.parametrize(
    ("name", "marker", "way_on"),
    [
        ("bench", "summary.json", "leakmech bench --out bench"),
        ("score-file", "summary.json", "leakmech score --out score-file"),
        ("diagnose", "summary.json", "leakmech diagnose --out diagnose"),
        ("mitigate", "summary.json", "leakmech mitigate --out mitigate"),
        ("evaluate", "summary.json", "the same call"),
        ("train", "summary.json", "leakmech train-lora --out train"),
        ("annotation", "agreement.json", "leakmech annotate import annotation"),
    ],
)
def test_an_unfinished_run_of_every_kind_says_how_to_go_on(runs, name, marker, way_on):
    (runs / name / marker).unlink()
    with pytest.raises(RunDirectoryError) as refused:
        leakmech.load_result(name)
    assert str(refused.value) == f"{name}: is not finished; continue it with: {way_on}"


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("bench", "bench"),
        ("score-file", "score"),
        ("score-run", "score"),
        ("diagnose", "diagnose"),
    ],
)
def test_an_old_run_is_opened_by_its_name_alone(runs, idle_model, name, by):
    before = [(runs / name / file).read_bytes() for file in ("run.json", "summary.json")]
    command(by, "--out", name, "--device", "cpu")
    assert [(runs / name / file).read_bytes() for file in ("run.json", "summary.json")] == before


def test_pairs_of_old_annotations_are_what_an_import_finds(runs):
    before = leakmech.load_result("annotation")
    pd.testing.assert_frame_equal(
        leakmech.import_annotation("annotation", **make_runs.SETTINGS["agreement"]).pairs, before.pairs
    )
    assert before.pairs["names_injection"].dtype == bool
    assert before.pairs["difference"].dtype == float


@pytest.mark.parametrize("name", ["diagnose", "mitigate", "evaluate", "train", "comparison", "annotation"])
def test_commands_show_and_report_a_run_of_every_kind(runs, name):
    assert command("show", name).startswith(leakmech.load_result(name).tables()[0].title[:40])
    assert str(Path(name) / "report.html") in command("report", name)
    assert "<html" in (runs / name / "report.html").read_text(encoding="utf-8")


def test_old_tables_of_mitigations_say_what_each_was_told_as_far_as_the_run_does(runs):
    told = leakmech.load_result("mitigate").to_frame().set_index(["name", "split"])["told"]
    assert told["ignore-if-unrelated-0.8", "test"] == told["ignore-if-unrelated-0.9", "tune"] == "boundary"
    assert told["oracle-control-prompt", "test"] == "boundary"
    assert told["adapter-train", "test"] == told["base", "test"] == told["file-edits", "test"] == "nothing"
    assert leakmech.load_result("evaluate").to_frame()["told"].tolist() == ["nothing", None, None]
    assert "| ignore-if-unrelated-0.8 | boundary |" in leakmech.load_result("mitigate").to_markdown()


def test_old_cells_open_as_benchmarks(runs):
    folders = [path.parent for path in runs.glob("*/cells/*/*/*/summary.json")]
    assert len(folders) == 24
    for folder in folders:
        assert len(leakmech.load_result(folder).scores) > 0


def test_saved_directions_and_interventions_open(runs):
    for name in ("read", "target"):
        direction = leakmech.load_direction(f"diagnose/directions/{name}.json")
        assert float(direction.vector.norm()) == pytest.approx(1)
    scaled, ablated = leakmech.load_interventions("interventions/edits.json")
    assert scaled == leakmech.ScaleHeads(["L0H1", "L2H3"], scales=[0.0, 2.0])
    assert ablated.kind == "ablate_direction"
    (chosen,) = leakmech.load_interventions("mitigate/interventions/ignore-if-unrelated.json")
    assert chosen.kind == "dampen_attention"


def test_an_old_adapter_goes_on_its_base_model(runs):
    assert leakmech.load_model("train", dtype="float32", device="cpu").adapter is not None
    merged = leakmech.load_model(leakmech.merge_lora("train", "merged"), dtype="float32", device="cpu")
    assert merged.adapter is None


# -- continuing: the fingerprint is the same, and nothing is done again -----------------------------------------------


@pytest.mark.parametrize("name", ["bench", "bench-edited", "bench-rewritten"])
def test_a_benchmark_is_continued_as_finished(runs, idle_model, name):
    before = state(name)
    assert make_runs.bench(name).summary == stored(f"{name}/summary.json")
    assert state(name) == before


def test_naming_a_benchmark_is_enough_to_continue_it(runs, idle_model):
    before = state("bench")
    command("bench", "--out", "bench", "--device", "cpu")
    assert state("bench") == before


def test_another_setting_or_model_is_still_refused(runs):
    with pytest.raises(RunDirectoryError, match="seed"):
        leakmech.bench("model", out="bench", **make_runs.PLACE, **make_runs.SETTINGS["bench"] | {"seed": 1})
    model = leakmech.load_model("model", dtype="float32", device="cpu")
    model.model.model.layers[0].mlp.down_proj.weight.data[0, 0] += 1
    model.model.save_pretrained("model")
    with pytest.raises(RunDirectoryError, match="weights"):
        make_runs.bench("bench")


def test_an_unfinished_benchmark_is_finished_as_it_was(runs):
    (runs / "bench" / "summary.json").unlink()
    (runs / "bench" / "scores.parquet").unlink()
    shard = next((runs / "bench" / "generations").glob("*.jsonl"))
    lines = shard.read_text(encoding="utf-8").splitlines(keepends=True)
    shard.write_text("".join(lines[:7]) + lines[7][:20], encoding="utf-8")
    make_runs.bench("bench")
    again = list(read_jsonl_shard(shard))
    assert sorted(map(str, again)) == sorted(str(json.loads(line)) for line in lines)


@pytest.mark.parametrize(("name", "again"), [("score-file", make_runs.score_file), ("score-run", make_runs.score_run)])
def test_scored_texts_are_returned_as_they_are(runs, name, again):
    before = state(name)
    assert again().summary == stored(f"{name}/summary.json")
    assert state(name) == before


def test_a_diagnosis_is_continued_as_finished(runs, idle_model):
    before = state("diagnose")
    result = make_runs.diagnose()
    assert result.summary == stored("diagnose/summary.json")
    assert len(result.table("heads").query("method == 'attribution_patching' and target == 'direction'")) == 12
    command("diagnose", "--out", "diagnose", "--device", "cpu")
    assert state("diagnose") == before


@pytest.mark.parametrize(
    ("name", "again"), [("mitigate", make_runs.mitigate), ("evaluate", make_runs.evaluate)]
)  # fmt: skip
def test_finished_cells_of_mitigations_are_kept(runs, idle_model, name, again):
    before = state(name)
    result = again()
    after = state(name)
    assert {file: after[file] for file in before if "/cells/" in file or "/fitted/" in file} == {
        file: found for file, found in before.items() if "/cells/" in file or "/fitted/" in file
    }
    assert [file for file in after if "/cells/" in file] == [file for file in before if "/cells/" in file]
    assert result.to_markdown().count("\n") > 3
    before_it = pd.read_csv(RUNS / name / "tables" / "mitigations.csv")
    pd.testing.assert_frame_equal(result.to_frame()[before_it.columns], before_it)  # newer columns may stand beside
    kept = json.loads(json.dumps(result.summary)) | {"timing": 0}
    for row in (kept["base"], *kept["mitigations"].values()):
        assert row.pop("told") in ("nothing", "boundary")
    before_it = stored(f"{name}/summary.json") | {"timing": 0}
    assert {key: kept[key] for key in before_it} == before_it  # newer keys may stand beside
    assert json.loads((runs / name / "run.json").read_text(encoding="utf-8")) == stored(f"{name}/run.json")


def test_a_training_is_continued_as_finished(runs):
    """Its examples are sampled again, and are the same; nothing is trained."""
    before = state("train")
    result = make_runs.train()
    assert result.card == stored("train/adapter_card.json")
    assert len(result.to_frame()) == 6
    assert state("train") == before


# -- made from old runs -----------------------------------------------------------------------------------------------


def test_old_runs_compare_as_they_did(runs):
    found = make_runs.compare().to_dict()
    later = {"statistic": "auc_el"}  # what later versions also say
    assert {name: found.pop(name) for name in later} == later
    assert_same(found, stored("comparison/comparison.json"))


def test_old_runs_are_compared_by_contrast_and_name_the_cure_where_topic_is_asked_for(runs):
    [difference] = leakmech.compare(["bench", "bench-edited"], statistic="contrast", draws=100).of()
    assert difference.statistic == "contrast"
    with pytest.raises(RunDirectoryError) as refused:
        leakmech.compare(["bench", "bench-edited"], statistic="topic_free")
    assert str(refused.value) == (
        "compare: bench does not say which answers are about the injection; make a run of the same answers that does "
        "with: leakmech score bench"
    )


def test_scoring_an_old_run_again_tells_topic_from_its_generations(runs, idle_model):
    assert "topic" not in stored("bench/summary.json")
    again = leakmech.score("bench", out="again", dataset="hexl", limit=3, bootstrap_draws=100)  # its 3 samples
    overall = again.summary["overall"]
    assert overall["auc_el"] == pytest.approx(stored("bench/summary.json")["overall"]["auc_el"], abs=1e-4)
    assert again.summary["topic"]["n_injections"] == {"positive": 60, "neutral": 60, "negative": 60}
    assert 0 <= overall["topic_rate"] <= 1
    assert overall["topic_free"]["n"] == round((1 - overall["topic_rate"]) * 12)
    assert -1 <= overall["contrast"] <= 1
    assert "topic-free" in command("show", "again")
    few = leakmech.score("bench", out="few", bootstrap_draws=100)  # its data set is three samples
    reason = "leakage has 3 different injections of a class; topic needs 20 to rank among"
    assert few.summary["topic"] == {"reason": reason}
    assert "topic: not told" in command("show", "few")
    command("report", "few")
    assert reason in (runs / "few" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(RunDirectoryError, match=f"few has no topic_free: topic is not told .{reason}"):
        leakmech.compare(["few", "again"], statistic="topic_free", any_estimator=True)


def test_old_sheets_are_read_as_they_were(runs):
    found = leakmech.import_annotation("annotation", **make_runs.SETTINGS["agreement"])
    assert_same(found.summary, stored("annotation/agreement.json"))
    text = (runs / "annotation" / "tables" / "pairs.csv").read_text(encoding="utf-8")
    assert text == (RUNS / "annotation" / "tables" / "pairs.csv").read_text(encoding="utf-8")


def test_an_old_run_gives_the_sheets_that_it_gave(runs):
    shutil.rmtree("annotation")
    make_runs.annotate()
    for name in ("key.json", "sheets/annotator-1.csv", "sheets/annotator-2.csv"):
        assert (runs / "annotation" / name).read_bytes() == (RUNS / "annotation" / name).read_bytes()


def test_aexl_is_built_as_it_was(runs):
    card = stored("aexl/aexl.json")
    for fresh in (False, True):  # over the old files, then with scores that the first build kept
        if fresh:
            shutil.rmtree("aexl")
        result = make_runs.build_aexl()
        for file in result.files.values():
            assert file.read_bytes() == (RUNS / file).read_bytes()
        found = json.loads((runs / "aexl" / "aexl.json").read_text(encoding="utf-8"))
        assert_same({key: found[key] for key in card}, card)
