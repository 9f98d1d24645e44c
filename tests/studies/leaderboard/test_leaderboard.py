"""One table over many runs: what is compared with what, by which numbers, and what is missing by name."""

from __future__ import annotations

import json
import re
import weakref

import pandas as pd
import pytest
from scored_runs import write_run
from typer.testing import CliRunner

import leakmech
from leakmech.cli.app import app
from leakmech.core.errors import RunDirectoryError, UsageError
from leakmech.core.store import write_json
from leakmech.reports.cells import size
from leakmech.scoring.inference import holm
from leakmech.studies.leaderboard.entry import family_of, source_of
from leakmech.studies.leaderboard.run import leaderboard
from leakmech.studies.results import load_result
from leakmech.studies.results import report as write_report_of
from tests.studies.leaderboard.conftest import FAILURE, key_of, write_sweep

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}}"
FEW = {"draws": 100}


def test_cells_are_compared_within_their_data_set_with_the_numbers_of_a_comparison_of_runs(swept):
    found = leakmech.compare(swept, **FEW)
    assert [block["dataset"] for block in found.blocks] == ["hexl", "events"]
    hexl, events = found.blocks
    assert [row["name"] for row in hexl["rows"]] == ["smol", "qwen-0.5b", "qwen-1.5b", "texts"]  # by family and size
    assert [row["name"] for row in events["rows"]] == ["qwen-0.5b", "qwen-1.5b", "texts"]
    assert hexl["baseline"] == "qwen-0.5b"
    runs = [swept / "cells" / key_of(name, "hexl") for name in ("qwen-0.5b", "qwen-1.5b", "smol", "texts")]
    alone = leakmech.compare(runs, **FEW)
    for name, run, difference in zip(("qwen-1.5b", "smol", "texts"), runs[1:], alone.of(), strict=True):
        own = next(d for d in found.row(name)["differences"] if d["statistic"] == "auc_el")
        expected = {end: getattr(difference, end) for end in ("difference", "low", "high", "p", "p_holm", "verdict")}
        assert {end: own[end] for end in expected} == expected
        value = next(e for e in found.row(name)["estimates"] if e["statistic"] == "auc_el")
        assert value["value"] == alone.estimate(run.name).value
    p = [d.p for d in alone.of()]
    assert [d.p_holm for d in alone.of()] == pytest.approx(holm(p))
    assert found.row("qwen-1.5b")["differences"][0]["verdict"] == "different"
    assert found.row("qwen-1.5b")["differences"][0]["high"] < 0


def test_holm_counts_the_comparisons_of_one_data_set(swept):
    for block in leakmech.compare(swept, **FEW).blocks:
        tested = [next(d for d in row["differences"] if d["statistic"] == "auc_el")
                  for row in block["rows"] if not row["is_baseline"]]  # fmt: skip
        assert [d["p_holm"] for d in tested] == pytest.approx(holm([d["p"] for d in tested]))


def test_what_is_missing_is_named_with_its_reason(swept):
    broken = swept / "cells" / key_of("texts", "hexl") / "scores.parquet"
    broken.write_bytes(b"no scores")
    found = leakmech.compare(swept, **FEW)
    told = {own["name"]: (own["state"], own["told"]) for own in found.left_out}
    assert told["model=smol, dataset=events"] == ("failed", FAILURE)
    assert told["model=late, dataset=hexl"] == ("to do", "")
    assert "damaged" in told["texts, hexl"][1]
    text = found.to_markdown()
    assert FAILURE in text
    assert "4 without a row" in text
    with pytest.raises(UsageError, match=r"no finished run to show \(model=smol, dataset=events: x: is"):
        leakmech.compare(write_sweep(swept.parent / "none", {"smol": None}, ["events"]))


def test_family_and_size_are_what_the_run_recorded_or_a_dash(swept):
    table = leakmech.compare(swept, **FEW).tables()[0]
    by_name = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert [by_name["qwen-1.5b"][own] for own in ("family", "size")] == ["Qwen2", "1.54B"]
    assert [by_name["smol"][own] for own in ("family", "size")] == ["Llama", "135M"]
    assert [by_name["texts"][own] for own in ("family", "size")] == ["–", "–"]
    assert by_name["qwen-0.5b"]["difference [95 % CI]"] == "baseline"
    assert [family_of(name) for name in ("GPT2LMHeadModel", "Gemma3ForConditionalGeneration", "Odd")] == [
        "GPT2", "Gemma3", "Odd",
    ]  # fmt: skip
    assert [size(n) for n in (44_768, 999_600_000, 7_615_616_512, 12, None)] == ["44.8K", "1B", "7.62B", "12", "–"]


@pytest.mark.parametrize("baseline", ["smol", "model=smol", key_of("smol", "hexl"), 2, "model=smol, dataset=hexl"])
def test_a_baseline_is_a_name_a_setting_a_key_or_a_position(swept, baseline):
    found = leakmech.compare(swept, baseline=baseline, **FEW)
    assert found.blocks[0]["baseline"] == "smol"
    assert any("asked for was not measured here" in note for note in found.blocks[1]["notes"])


def test_a_setting_is_the_baseline_in_every_block(swept):
    found = leakmech.compare(swept, baseline="model=texts", **FEW)
    assert [block["baseline"] for block in found.blocks] == ["texts", "texts"]
    with pytest.raises(UsageError, match="the baseline 'model=x' is none of the 7 runs"):
        leakmech.compare(swept, baseline="model=x")
    with pytest.raises(UsageError, match="baseline 9 is not a position among 7 runs"):
        leakmech.compare(swept, baseline=9)


def test_what_is_not_for_many_runs_is_refused(swept):
    with pytest.raises(UsageError, match="all pairs are for runs that are named"):
        leakmech.compare(swept, all_pairs=True)
    with pytest.raises(UsageError, match="tilt is of completions that runs have in common"):
        leakmech.compare(swept, statistic="tilt")
    write_json(swept / "sweep.json", json.loads((swept / "sweep.json").read_text()) | {"study": "mitigate"})
    with pytest.raises(UsageError, match=r"a sweep of `leakmech mitigate`.*list them with: leakmech report"):
        leakmech.compare(swept)


def test_other_scoring_is_another_block(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", estimator_hash="e2", seed=1)
    sources = [source_of(tmp_path / name) for name in ("a", "b")]
    assert len(leaderboard(sources, **FEW).blocks) == 2
    joined = leaderboard(sources, any_estimator=True, **FEW)
    assert len(joined.blocks) == 1
    assert any("Estimators differ" in note for note in joined.blocks[0]["notes"])


def test_other_samples_under_one_hash_are_left_out(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", samples="t")
    found = leaderboard([source_of(tmp_path / name) for name in ("a", "b")], **FEW)
    assert [own["told"] for own in found.left_out] == ["its scores hold other samples than those of a"]


def test_scores_are_read_one_run_after_the_other(tmp_path):
    write_run(tmp_path / "run")
    alive: weakref.WeakSet = weakref.WeakSet()
    most = 0

    def watched(source):
        def sums(wanted):
            nonlocal most
            found = source.sums(wanted)
            alive.add(found)
            most = max(most, len(alive))
            return found

        return sums

    first = source_of(tmp_path / "run")
    sources = [type(first)(first.facts, f"{first.given}/{n}", watched(first)) for n in range(12)]
    found = leaderboard(sources, draws=100)
    assert len(found.blocks[0]["rows"]) == 12
    assert most <= 3  # the baseline's, the last one's, and the one that takes its place


# -- pages -----------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_the_page_of_a_sweep_links_to_its_cells_and_names_what_is_missing(swept):
    page_of_cell = swept / "cells" / key_of("smol", "hexl") / "report.html"
    page_of_cell.write_text("x")
    shown = CliRunner().invoke(app, ["report", str(swept)])
    assert shown.exit_code == 0, shown.output
    html = (swept / "report.html").read_text()
    links = set(re.findall(r'<a href="([^#"]+)"', html))
    assert links == {f"cells/{key_of('smol', 'hexl')}/report.html"}
    assert "FAILURE" not in html
    assert "is not a model; did you mean" in html
    assert "7 of 7 runs have all pairs above 0.5 in 2 tables" in html
    assert html.count("<h2 id=") == len(set(re.findall('<h2 id="([^"]+)"', html)))
    table = pd.read_csv(swept / "tables" / "leaderboard.csv")
    assert {"family", "auc_el", "auc_el_low", "auc_el_difference", "auc_el_p_holm", "verdict"} <= set(table.columns)
    assert len(table) == 7
    assert load_result(swept).report() == swept / "report.html"  # once more, over its own page
    (swept / "report.html").write_text("<h1>mine</h1>")
    with pytest.raises(UsageError, match="is not a page of leakmech"):
        load_result(swept).report()


def test_a_sweep_of_another_study_or_without_a_finished_cell_has_a_page_of_states(swept):
    record = json.loads((swept / "sweep.json").read_text())
    write_json(swept / "sweep.json", record | {"study": "mitigate"})
    html = load_result(swept).report().read_text()
    assert "10 cells: 7 done, 2 to do, 1 failed" in html
    write_json(swept / "sweep.json", record | {"cells": {"../../x": {"model": "m", "dataset": "d"}}})
    with pytest.raises(RunDirectoryError, match=r"'../../x' is not the key of a cell"):
        load_result(swept)


def test_names_are_escaped_on_the_page(tmp_path):
    model = {"architecture": HOSTILE, "n_parameters": 3}
    sweep = write_sweep(tmp_path / "s", {HOSTILE: model, "b": model}, [HOSTILE], failed=("b", HOSTILE))
    html = load_result(sweep).report().read_text()
    assert "<img" not in html
    assert "<script" not in html
    assert "{{7*7}}" in html
    assert "&lt;/script&gt;" in html


def test_several_runs_have_a_page_beside_them_or_where_it_is_asked_for(tmp_path):
    runs = [write_run(tmp_path / "runs" / name, seed=n) for n, name in enumerate("abc")]
    (runs[1] / "report.html").write_text("x")
    shown = CliRunner().invoke(app, ["report", *map(str, runs)])
    assert shown.exit_code == 0, shown.output
    html = (tmp_path / "runs" / "index.html").read_text()
    assert '<a href="b/report.html">b</a>' in html
    out = tmp_path / "page"
    assert write_report_of(runs, out) == out / "report.html"
    assert '<a href="../runs/b/report.html">b</a>' in (out / "report.html").read_text()
    assert (out / "forest-1.png").exists()
    assert load_result(out).to_markdown() == load_result(out).to_markdown()
    assert load_result(out).report() == out / "report.html"
    far = write_run(tmp_path / "elsewhere" / "d")
    with pytest.raises(UsageError, match="lie in several folders; say with --out"):
        write_report_of([*runs, far])
    with pytest.raises(UsageError, match="holds a table of other runs"):
        write_report_of([far], out)
    (tmp_path / "runs" / "index.html").write_text("mine")
    with pytest.raises(UsageError, match="is not a page of leakmech"):
        write_report_of(runs)


def test_a_run_of_another_kind_is_listed_and_not_compared(tmp_path):
    runs = [write_run(tmp_path / name) for name in "ab"]
    other = tmp_path / "m"
    write_json(other / "run.json", {"format_version": 1, "kind": "mitigate", "command": "mitigate", "config": {}})
    html = write_report_of([*runs, other]).read_text()
    assert "a run of kind mitigate" in html


def test_the_command_prints_every_table_and_what_is_missing(swept, tmp_path):
    shown = CliRunner().invoke(app, ["compare", str(swept), "--out", str(tmp_path / "out"), "--draws", "100"])
    assert shown.exit_code == 0, shown.output
    assert "24 samples of hexl" in shown.output
    assert "24 samples of events" in shown.output
    assert "without a row" in shown.output
    assert (tmp_path / "out" / "forest-2.pdf").exists()
    again = CliRunner().invoke(app, ["compare", str(swept), "--out", str(tmp_path / "out"), "--draws", "100"])
    assert again.exit_code == 0, again.output
