"""The page of a diagnosis: its numbers, tables and figures in one file, and every text escaped."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from leakmech.reports.frame_tables import frame_table
from leakmech.studies.diagnosis.charts import is_shown, neuron_share
from leakmech.studies.diagnosis.report import findings, headline, main_numbers, write_report

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
    assert rows[0] == ["head", "score", "rank"]
    assert rows[1][:3] == ["L2H0", "0.00", "1"]
    assert rows[20][:3] == ["L2H19", "2.71", "20"]
    assert len(rows) == 21
    assert "Heads. The first 20 of 30 rows; all in tables/heads.csv." in page
    assert "In every row: method attribution_patching, target direction." in page


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


def test_charts_are_drawn_in_the_page_and_figures_lie_beside_it(page_of):
    page = page_of(SUMMARY, {"heads": heads(4)})
    assert "<img" not in page
    assert 'role="img" aria-label="4 heads, the first: L2H0, L2H1, L2H2, L2H3; head by layer (0 = first)"' in page
    assert {file.name for file in (page_of.path / "figures").iterdir()} >= {"head_heat_map.png", "head_heat_map.pdf"}


def test_the_headline_names_the_heads_and_says_what_random_sets_have():
    row = {
        "set": "first 2 heads", "universe": "heads", "size": 2, "target": "tilt", "share": 0.43, "low": 0.3,
        "high": 0.55, "random_mean": 0.05, "random_max": 0.12, "random_sets": 99, "p": 0.01, "n": 30, "n_judged": 12,
        "share_judged": 0.45,
    }  # fmt: skip
    verdict = {"rows": [row, row | {"set": "first 9 neurons", "universe": "neurons", "size": 9, "p": 0.3}]}
    verdict |= {"components": {"heads": 270, "neurons": 46_080}, "shift": 0.04}
    first, others, how = findings({"verdict": verdict}, ["L21H1", "L19H8", "L3H0"])
    assert first == (
        "The first 2 of 270 heads (L21H1, L19H8) account for 0.43 [0.30, 0.55] of the affect shift, more than random "
        "ones of the same layers (on 12 samples 0.45 against mean 0.05, at most 0.12, p 0.01)."
    )
    assert others.startswith("The first 9 of 46,080 neurons account for 0.43 [0.30, 0.55] of it: not shown to be more")
    assert how.startswith("Measured by interchange on 30 test samples (shift of tilt 0.04); 99 random sets")


@pytest.mark.parametrize(
    ("p", "low", "shown"), [(0.01, 0.1, True), (0.01, -0.1, False), (0.2, 0.1, False), (None, 0.1, False)]
)
def test_a_share_is_shown_by_its_rank_among_random_sets_and_its_interval(p, low, shown):
    assert is_shown({"p": p, "low": low}) == shown


def test_what_neurons_hold_is_a_share_of_all_neurons_not_of_those_in_the_table(tmp_path):
    assert neuron_share(tmp_path) is None
    (tmp_path / "stages").mkdir()
    scores = np.full((4, 1000), 0.5)
    scores[3, :100] = -8.0
    np.savez(tmp_path / "stages" / "ranking.npz", neurons=scores)
    share = 100 * 800 / (800 + 1950)
    assert neuron_share(tmp_path).caption.startswith(f"The first 100 of all 4,000 neurons hold {share:.1f} % of")


def test_the_chosen_layer_is_marked_and_not_the_best_one_on_test(page_of):
    frame = pd.DataFrame({"layer": [0, 1], "test_auc": [0.95, 0.7], "test_d_z": [3.0, 1.0], "chosen": [False, True]})
    frame = frame.assign(kind="read", site="resid_post", position="last", method="pca", random_auc_p95=0.6)
    page = page_of(SUMMARY, {"directions": frame})
    assert "chosen on tune: layer 1, pca" in page
    assert "layer 0, pca" not in page


@pytest.mark.parametrize("column", ["name", "label"])  # as in older tables
def test_knocked_out_heads_have_their_names(column, page_of):
    frame = pd.DataFrame({"layer": [np.nan, 21], "head": [np.nan, 1], column: ["all", "L21H1"], "effect": [0.2, 0.1]})
    page = page_of(SUMMARY, {"knockout": frame})
    assert [row[0] for row in rows_of(page, "what-heads-look-at")] == ["name", "all", "L21H1"]
    assert "nan" not in page


def test_tokens_have_the_colour_of_their_projection_and_the_one_attention_rests_on_is_left_out(page_of):
    tokens = [("<s>", 400.0), ("I", 1.0), (" lost", -4.0), (" it", 4.0)]
    rows = [
        {"condition": condition, "position": place, "token": text, "projection": value, "part": "injection"}
        for condition in ("positive", "negative")
        for place, (text, value) in enumerate(tokens)
    ]
    for row in rows:
        row["part"] = "prefix" if row["position"] == 0 else row["part"]
    page = page_of(SUMMARY, {"token_projection": pd.DataFrame(rows)})
    found = re.findall(r'<span class="token (\w+) underlined" title="([^"]+)">([^<]+)</span>', page)
    assert found[:3] == [
        ("p2", "injection: +1", "I"), ("n8", "injection: −4", " lost"), ("p8", "injection: +4", " it")
    ]  # fmt: skip
    assert "The first token, on which attention rests, is left out." in page


def test_texts_of_users_never_become_markup(page_of):
    frame = pd.DataFrame({HOSTILE: [HOSTILE], "layer": [1]})
    summary = SUMMARY | {"model": HOSTILE, HOSTILE: HOSTILE, "directions": {HOSTILE: {"auc": 0.9}}}
    page = page_of(summary, {"sublayers": frame, "heads": heads(4)})
    assert "<img" not in page
    assert "<script" not in page
    assert "49" not in re.sub(r"<svg.*?</svg>|<style>.*?</style>|sha256-\S+", "", page, flags=re.DOTALL)


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing(page_of):
    page = page_of(SUMMARY, {"heads": heads()})
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    assert policy.startswith("default-src &#39;none&#39;;")
    assert "script-src &#39;none&#39;" in policy
    assert "img-src" not in policy
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert "url(" not in page
    assert page == page_of(SUMMARY, {"heads": heads()})
