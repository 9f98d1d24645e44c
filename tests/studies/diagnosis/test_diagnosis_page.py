"""The page of a diagnosis: its numbers, tables and figures in one file, and every text escaped."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pandas as pd
import pytest

from leakmech.reports.frame_tables import frame_table
from leakmech.studies.diagnosis.report import headline, main_numbers, write_report

HOSTILE = "</script><img src=x onerror=alert(1)> {{7*7}}"
SUMMARY = {
    "kind": "diagnose",
    "model": "tiny",
    "dataset": "garden",
    "target": "direction",
    "n_samples": 8,
    "attribution_patching_spearman": 0.912,
    "attribution_patching_spearman_ci": [0.88, 0.94],
    "cpr": 0.8,
    "cpr_random": 0.4,
    "cmd": 0.1,
    "random_cmd": 0.5,
    "directions": {"read": {"auc": 0.98, "d_z": -2.0, "accuracy": None, "random_auc_p95": 0.7}},
    "missing": None,
}


def heads(count=30):
    ranked = {"layer": 2, "head": range(count), "score": np.arange(count) / 7, "rank": range(1, count + 1)}
    return pd.DataFrame(ranked | {"method": "attribution_patching", "target": "direction"})


@pytest.fixture
def page_of(tmp_path):
    """``page_of(summary, tables)``: the page of a run that holds these; the run is ``page_of.path``."""

    def write(summary, tables=None):
        (tmp_path / "summary.json").write_text(json.dumps(summary))
        (tmp_path / "tables").mkdir(exist_ok=True)
        for name, frame in (tables or {}).items():
            frame.to_csv(tmp_path / "tables" / f"{name}.csv", index=False)
        return write_report(tmp_path).read_text()

    write.path = tmp_path
    return write


def rows_of(page, anchor):
    """Cells of the table that follows the heading with this id."""
    table = page.split(f'id="{anchor}"')[1].split("</table>")[0]
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def test_main_numbers_stand_beside_their_baselines(page_of):
    rows = [row[:3] for row in main_numbers(SUMMARY).rows]
    assert rows == [
        ("Attribution patching against activation patching", "0.912 [0.880, 0.940]", "–"),
        ("CPR", "0.800", "0.400"),
        ("CMD", "0.100", "0.500"),
        ("read: AUC", "0.980", "0.700"),
        ("read: d_z", "-2.00", "–"),
        ("read: accuracy", "–", "–"),
    ]
    assert rows_of(page_of(SUMMARY), "main-numbers")[5][:2] == ["read: d_z", "−2.00"]
    assert headline(SUMMARY) == (
        "The direction “read” separates positive from negative injections with AUC 0.98 (d_z −2); "
        "keeping the components ranked first gives a CPR of 0.80, random ones 0.40."
    )


def test_the_interval_of_a_direction_is_that_on_test_samples():
    summary = {"directions": {"read": {"auc": 0.9, "test_auc_ci": [0.8, 1.0]}}}
    assert main_numbers(summary).rows[0][:2] == ("read: AUC", "0.900 [0.800, 1.00]")


def test_directions_may_be_a_list_of_records():
    summary = {"directions": [{"name": "read", "auc": 0.9}]}
    assert main_numbers(summary).rows[0][:2] == ("read: AUC", "0.900")


def test_a_summary_without_known_numbers_still_has_a_page(page_of):
    page = page_of({"kind": "diagnose"})
    assert main_numbers({}) is None
    assert headline({}) == ""
    assert "<img" not in page
    assert "kind" in page


def test_twenty_rows_of_a_table_are_shown_with_the_component_named(page_of):
    page = page_of(SUMMARY, {"heads": heads()})
    rows = rows_of(page, "attention-heads")
    assert rows[0] == ["head", "score", "rank", "method", "target"]
    assert rows[1][:3] == ["L2H0", "0.00", "1"]
    assert rows[20][:3] == ["L2H19", "2.71", "20"]
    assert len(rows) == 21
    assert "The first 20 of 30 rows; all in tables/heads.csv." in page


def test_heads_are_those_of_attribution_patching_for_the_target(page_of):
    frame = heads(3).assign(method=["attribution_patching", "graddrop", "attribution_patching"])
    frame["target"] = ["behaviour", "direction", "direction"]
    assert [row[0] for row in rows_of(page_of(SUMMARY, {"heads": frame}), "attention-heads")] == ["head", "L2H2"]


def test_of_directions_the_chosen_are_shown_with_their_intervals():
    frame = pd.DataFrame({"kind": "read", "method": ["pca", "logistic"], "layer": [1, 2], "chosen": [False, True]})
    frame["test_auc"], frame["test_auc_low"], frame["test_auc_high"] = [0.6, 0.9], [np.nan, 0.8], [np.nan, 1.0]
    frame["test_d_z"], frame["n_fit"], frame["random_auc_p95"] = [0.1, 2.0], 30, [0.7, np.nan]
    columns = ("kind", "method", "layer", "test_auc", "test_d_z", "random_auc_p95", "shuffled_auc_p95")
    table = frame_table(frame, "tables/directions.csv", columns=columns)
    assert table.header == ["kind", "method", "layer", "test AUC [95 % CI]", "test d_z", "random AUC p95"]
    assert table.rows == [["read", "logistic", "2", "0.900 [0.800, 1.00]", "2.00", "–"]]
    assert table.title == "The chosen of 2 rows; all in tables/directions.csv."


def test_every_value_of_the_summary_is_on_the_page(page_of):
    page = page_of(SUMMARY)
    assert '<th scope="row">directions.read.auc</th><td>0.98</td>' in page
    assert '<th scope="row">attribution_patching_spearman_ci</th><td>0.88, 0.94</td>' in page
    assert '<th scope="row">missing</th><td>–</td>' in page


def test_figures_are_embedded_whole_and_described_by_their_title(page_of):
    page = page_of(SUMMARY | {"model": HOSTILE}, {"heads": heads(4)})
    figures = page_of.path / "figures"
    sources = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)"', page)
    assert base64.b64decode(sources[0][0]) == (figures / "head_heat_map.png").read_bytes()
    assert sources[0][1] == "4 of 4 heads hold 100 % of the total |score|"
    assert "For print and as data: head_heat_map.pdf, head_heat_map.csv." in page


def test_texts_of_users_never_become_markup(page_of):
    frame = pd.DataFrame({HOSTILE: [HOSTILE], "layer": [1]})
    summary = SUMMARY | {"model": HOSTILE, HOSTILE: HOSTILE, "directions": {HOSTILE: {"auc": 0.9}}}
    page = page_of(summary, {"sublayers": frame, "heads": heads(4)})
    assert page.count("<img") == 1
    assert "<script" not in page
    assert "49" not in page.replace(re.search(r"base64,[^\"]+", page).group(), "")


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing(page_of):
    page = page_of(SUMMARY, {"heads": heads()})
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    assert policy.startswith("default-src &#39;none&#39;;")
    assert "script-src &#39;none&#39;" in policy
    assert "img-src data:" in policy
    assert not re.findall(r'(?:src|href)="(?!data:image/png|#)', page)
    assert "url(" not in page
    assert page == page_of(SUMMARY, {"heads": heads()})
